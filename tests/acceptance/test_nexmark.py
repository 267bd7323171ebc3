"""Nexmark: each query, a flow file over a real log in two partitions, gives the rows that DuckDB gives for the same events."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from bytewax.testing import run_main
from nexmark import generator
from nexmark.answers import QUERIES, Answers, flow_file
from nexmark.generator import AUCTION, BID, PERSON, Settings
from nexmark.loading import load

from event_streaming_bus.bus import Bus
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.testing import read_all

BENCHMARKS: Final = Path(generator.__file__).parents[1]
EVENTS: Final = 16_000
IN_DISORDER: Final = Settings(seed=7, events_per_second=400, max_disorder_ms=2000)  # 40 s; the flows wait for 5 s
IN_ORDER: Final = Settings(seed=7, events_per_second=400)
WAITS_FOR_NOBODY: Final = {"sum_by_bidder", "join_in_window", "join_in_interval"}
"""What is measured has no grace period, so its events come in order."""


class World(NamedTuple):
    """A bus that holds the events, and the answers for them."""

    bus: Bus
    answers: Answers


def world(settings: Settings, bus: Bus) -> Iterator[World]:
    batches = list(generator.batches(EVENTS, settings))
    with Answers(chain.from_iterable(batches)) as answers:
        assert load(bus, batches) == EVENTS
        yield World(bus, answers)


@pytest.fixture(scope="module")
def disordered(new_bus: Callable[[], Bus]) -> Iterator[World]:
    yield from world(IN_DISORDER, new_bus())


@pytest.fixture(scope="module")
def ordered(new_bus: Callable[[], Bus]) -> Iterator[World]:
    yield from world(IN_ORDER, new_bus())


def run(bus: Bus, query: str) -> list[dict[str, Any]]:
    """The payloads that the flow of a query writes."""
    plan = deploy(load_flow(flow_file(query)), bus.storage)
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
    return [event.payload for event in read_all(bus, f"{query}_answer")]


def in_order(rows: list[dict[str, Any]]) -> list[list[tuple[str, Any]]]:
    """Rows as comparable values, whatever the order of rows and fields."""
    return sorted([sorted(row.items()) for row in rows], key=repr)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("query", QUERIES)
def test_a_flow_gives_the_rows_that_sql_gives(query: str, request: pytest.FixtureRequest) -> None:
    events: World = request.getfixturevalue("ordered" if query in WAITS_FOR_NOBODY else "disordered")
    expected = events.answers.rows(query)
    assert len(expected) >= 4
    assert in_order(run(events.bus, query)) == in_order(expected)


def test_every_query_has_a_flow_file() -> None:
    assert [query for query in QUERIES if not flow_file(query).exists()] == []
    assert {"q0", "q1", "q2", "q3", "q4", "q5", "q7", "q8", "q11", "q12"} <= set(QUERIES)


def test_of_50_events_one_is_a_person_three_are_auctions_and_the_rest_bids() -> None:
    types = [event_type for event_type, _, _ in generator.events(2000)]
    for start in range(0, 2000, 50):
        epoch = types[start : start + 50]
        assert (epoch.count(PERSON), epoch.count(AUCTION), epoch.count(BID)) == (1, 3, 46)


def test_an_event_depends_on_the_seed_and_its_number_alone() -> None:
    many = list(generator.events(2500))
    assert list(generator.events(1234)) == many[:1234]
    assert list(generator.events(2500, Settings(seed=2))) != many


def test_events_are_the_same_in_every_version() -> None:
    digest = hashlib.sha256(b"\n".join(row.data for batch in generator.batches(5000, Settings(seed=3)) for row in batch))
    assert digest.hexdigest() == "f4e18b1f71a5362a01e550661832604ceabbdb100563f5dee14b8256aa1cf766"


def test_half_of_the_bids_go_to_the_hot_auction_and_three_quarters_come_from_the_hot_bidder() -> None:
    bids = [payload for kind, _, payload in generator.events(50_000) if kind == BID][10_000:]
    hot_auctions = sum(bid["auction"] % 100 == 0 for bid in bids) / len(bids)
    hot_bidders = sum(bid["bidder"] % 100 == 1 for bid in bids) / len(bids)
    assert hot_auctions == pytest.approx(0.5 + 0.5 / 100, abs=0.02)
    assert hot_bidders == pytest.approx(0.75 + 0.25 / 100, abs=0.02)


def test_events_in_disorder_are_the_same_ones_and_none_is_later_than_it_may_be() -> None:
    ordered_rows = list(chain.from_iterable(generator.batches(5000, IN_ORDER)))
    rows = list(chain.from_iterable(generator.batches(5000, IN_DISORDER)))
    assert rows != ordered_rows
    assert sorted(rows) == sorted(ordered_rows)
    newest_ms, latest_ms = 0, 0
    for row in rows:
        latest_ms = max(latest_ms, newest_ms - row.timestamp_ms)
        newest_ms = max(newest_ms, row.timestamp_ms)
    assert 1500 < latest_ms <= IN_DISORDER.max_disorder_ms


def test_an_auction_is_open_for_at_most_a_minute_at_100_events_a_second() -> None:
    auctions = [payload for kind, _, payload in generator.events(20_000, Settings(events_per_second=100)) if kind == AUCTION]
    assert all(0 < auction["expires"] - auction["dateTime"] <= 60_000 for auction in auctions)


def test_bids_can_come_from_a_known_number_of_people() -> None:
    bids = [payload for kind, _, payload in generator.events(40_000, Settings(distinct_bidders=100)) if kind == BID]
    assert len({bid["bidder"] for bid in bids}) == 100


def test_the_benchmark_counts_only_right_answers_and_has_some(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--rounds", "1", "--only", "nexmark", "--json", "figures.json"]
    environment = {**os.environ, "ESB_BENCH_EVENTS": "5000"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    figures = {figure["name"]: figure for figure in json.loads((tmp_path / "figures.json").read_text())}
    assert {"nexmark flow file: q1", "nexmark fused by hand: q1", "nexmark log -> sum of 1000 keys -> log"} <= figures.keys()
    assert all(figure["median"] > 0 for figure in figures.values())
