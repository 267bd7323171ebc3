"""The soak in small: the same parts, restarts and equations as ``make soak`` has, for some seconds."""

import itertools
from pathlib import Path

import pytest
from soak import Scale, Soak, report, scale_of, schedule
from soak_figures import slope, trend, within_lives

SEED = 1515
SMALL = Scale(
    load_s=5,
    least_restarts=5,
    burst_s=0.3,
    pause_s=(0.2, 0.5, 0.8),
    rest_s=60,
    sample_s=1.0,
    window_ms=2000,
    spared=(2.0, 2.0),
)


def test_the_balance_is_exact_after_restarts_of_everything(tmp_path: Path) -> None:
    soak = Soak(tmp_path, SEED, SMALL)
    equations = soak.run()
    told = report(soak, equations)
    assert not soak.findings, told
    assert all(equation.holds for equation in equations), told
    assert len(equations) > 20
    assert soak.restarts.keys() >= {"server SIGKILL", "worker sales SIGKILL", "rest1 SIGKILL", "reader2 SIGKILL", "sdk1 SIGTERM"}


def test_the_seed_alone_tells_what_is_ended_when() -> None:
    scale = scale_of(120)
    one, other = schedule(1, scale), schedule(1, scale)
    first = [next(one) for _ in range(200)]
    assert first == [next(other) for _ in range(200)]
    assert first != [each for each, _ in zip(schedule(2, scale), range(200), strict=False)]
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(first)]
    assert min(gaps) >= 20
    assert {each.what for each in first} >= {"server", "worker sales", "worker pairs", "rest1", "sdk1", "reader1", "reader2"}


@pytest.mark.parametrize("rise", [0.0, 0.01, 1.0])
def test_a_growth_is_seen_through_restarts(rise: float) -> None:
    """Memory that grows within each life, and is given back by each restart: the slope of the lives shows it."""
    samples = [
        {"at": at, "processes": {"server": [100 + rise * (at % 600), 9, at % 600, at // 600]}} for at in range(0, 3600, 10)
    ]
    an_hour, longest_min = within_lives(samples, "server", 0)
    assert an_hour == pytest.approx(3600 * rise)
    assert longest_min == pytest.approx(590 / 60)


def test_the_trend_leaves_out_the_warm_up() -> None:
    points = [(float(at), 500.0 if at < 25 else 100 + at * 0.1) for at in range(100)]
    assert slope(points[25:]) == pytest.approx(0.1)
    assert trend(points).growth == pytest.approx(7.4)
