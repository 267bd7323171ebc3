"""Live, replayed, re-partitioned, restarted and multi-worker runs give the same final answers.

``ESB_EXAMPLES=2000`` tries as many examples of each kind for every flow instead of a few; ``ESB_SHRINK=1`` makes one that fails
smaller, which takes minutes.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import bytewax.operators as op
import msgspec
import pytest
from bytewax.dataflow import Dataflow
from bytewax.operators import KeyedStream, windowing
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from replay_flows import FAMILIES, GRACE, Family, Seen, join, processor
from replay_harness import LANES, PARTITIONS, Fault, Outcome, Row, Run, check_sound, perform

from event_streaming_bus.models import EventPriority

EXAMPLES: Final = int(os.environ.get("ESB_EXAMPLES", "2"))
bounded: Final[Callable[[Any], Any]] = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="ESB_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    phases=set(Phase) if "ESB_SHRINK" in os.environ else {Phase.explicit, Phase.reuse, Phase.generate},
    print_blob=True,
)
of_every_family: Final = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)

AT_ITS_ENDS: Final = ("tumbling", "hopping", "calendar", "sliding", "session", "updates_by_time", "window_join_outer")
FAULTS: Final = (Fault.NONE, Fault.STOP, Fault.READ, Fault.BEFORE, Fault.AFTER, Fault.AFTER)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power loss."""
    monkeypatch.setenv("ESB_SYNCHRONOUS", "NORMAL")


@st.composite
def rows_of(draw: DrawFn, family: Family, *, beyond: bool = False, most: int = 40) -> list[Row]:
    """Events in the order of their publication, shuffled within the grace period; ``beyond``: some come later than that."""
    at = 0
    arrivals: list[tuple[int, Row]] = []
    for i in range(draw(st.integers(1, most))):
        at += draw(st.sampled_from((0, 0, 1, 2, 3, 5, 9, 17)))
        late_by = draw(st.integers(0, GRACE))
        if beyond and draw(st.integers(0, 4)) == 0:
            late_by += draw(st.integers(0, 60))
        at_ms = family.first_ms + at * family.scale_ms
        if family.far_ms is not None and draw(st.integers(0, 4)) == 0:
            at_ms = family.far_ms
        row = Row(
            event_id=f"evt_{draw(st.integers(0, 99)):02d}{i:03d}",
            stream=draw(st.sampled_from(family.streams)),
            at_ms=at_ms,
            payload=family.payload(draw(st.sampled_from(family.keys)), draw(st.integers(-5, 5))),
            partition=draw(st.integers(0, PARTITIONS - 1)),
            lane=draw(st.sampled_from((EventPriority.NORMAL, EventPriority.NORMAL, *LANES))),
        )
        arrivals.append((at + late_by, row))
    return [row for _, row in sorted(arrivals, key=lambda arrival: arrival[0])]


@st.composite
def instalments_of(draw: DrawFn, rows: list[Row]) -> list[list[Row]]:
    """The rows cut into up to six pieces."""
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    return [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


@st.composite
def runs_of(draw: DrawFn, *, most: int = 5, all_first: bool = False) -> list[Run]:
    """Runs, most of which end in a fault."""
    return [
        Run(
            workers=draw(st.sampled_from((1, 1, 1, 2, 3))),
            fault=draw(st.sampled_from(FAULTS)),
            nth=draw(st.integers(0, 12)),
            snapshot_interval_ms=draw(st.sampled_from((0, 0, 5, 10_000))),
            first=99 if all_first else draw(st.integers(0, 2)),
            live=draw(st.integers(0, 2)),
            chunk_events=draw(st.sampled_from((1, 1, 2, 3, 5, 8192))),
        )
        for _ in range(draw(st.integers(0, most)))
    ]


def undisturbed(family: Family, rows: list[Row]) -> Outcome:
    """The rows published at once and read to the end by one worker."""
    outcome = perform(family.flow(), [rows], [], [])
    check_sound(outcome, in_parts=family.in_parts)
    return outcome


def check_answers(family: Family, rows: list[Row], outcome: Outcome) -> None:
    """What was written is what the oracle says of all events that were not late."""
    for stream, answers in family.answers(Seen(rows, outcome)).items():
        written = [(at_ms, data) for _, at_ms, _, data in outcome.outputs[stream]]
        assert sorted((at_ms, _sorted(msgspec.json.decode(data))) for at_ms, data in written) == sorted(
            (at_ms, _sorted(payload)) for at_ms, payload in answers
        ), stream


def _sorted(payload: Any) -> str:
    return msgspec.json.encode(payload, order="deterministic").decode()


@of_every_family
@bounded
@given(data=st.data())
def test_events_within_the_grace_period_get_the_answers_of_the_ordered_stream(family: Family, data: st.DataObject) -> None:
    rows = data.draw(rows_of(family))
    in_order = [row._replace(partition=0, lane=EventPriority.NORMAL) for row in sorted(rows, key=lambda row: row.at_ms)]
    expected = undisturbed(family, in_order)
    assert expected.late == []
    check_answers(family, rows, expected)
    outcome = perform(family.flow(), data.draw(instalments_of(rows)), data.draw(runs_of()), data.draw(runs_of(most=2)))
    check_sound(outcome, in_parts=family.in_parts)
    event(f"faults: {outcome.faults}")
    assert outcome.answers() == expected.answers()


@of_every_family
@bounded
@given(data=st.data())
def test_events_beyond_the_grace_period_are_late_in_every_run_over_the_same_splits(family: Family, data: st.DataObject) -> None:
    rows = data.draw(rows_of(family, beyond=True))
    expected = undisturbed(family, rows)
    check_answers(family, rows, expected)
    outcome = perform(family.flow(), [rows], data.draw(runs_of(all_first=True)), data.draw(runs_of(most=2)))
    check_sound(outcome, in_parts=family.in_parts)
    event(f"late: {len(expected.late) > 0}, faults: {outcome.faults}")
    assert outcome.answers() == expected.answers()


@of_every_family
@bounded
@given(data=st.data())
def test_the_answers_are_those_of_the_events_that_were_not_late_whatever_happens(family: Family, data: st.DataObject) -> None:
    """Splits that were read to their end get older events later: which of them are late is up to the run."""
    rows = data.draw(rows_of(family, beyond=True))
    outcome = perform(family.flow(), data.draw(instalments_of(rows)), data.draw(runs_of()), data.draw(runs_of(most=2)))
    check_sound(outcome, in_parts=family.in_parts)
    event(f"late: {len(outcome.late) > 0}, faults: {outcome.faults}")
    check_answers(family, rows, outcome)


@pytest.mark.parametrize("at_ms", [-62_135_596_800_000, 253_402_300_799_999])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family.name in AT_ITS_ENDS], ids=lambda family: family.name)
def test_an_event_at_an_end_of_the_calendar_stops_no_flow(family: Family, at_ms: int) -> None:
    """The year 1 is what an unset time looks like in Go and .NET."""
    rows = [Row(f"evt_{stream}", stream, at_ms, family.payload("a", 1)) for stream in family.streams]
    first = [Row(f"evt_{stream}0", stream, family.first_ms, family.payload("a", 1), partition=1) for stream in family.streams]
    undisturbed(family, [*rows, *first])


# Bytewax's own windows, over the ordered stream


MINUTE_MS: Final = 60_000
Windower: TypeAlias = windowing.TumblingWindower | windowing.SlidingWindower | windowing.SessionWindower
_ALIGN_TO: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _minutes(count: int) -> timedelta:
    return timedelta(minutes=count)


def _keyed(flow: Dataflow, rows: list[Row]) -> KeyedStream[Row]:
    return op.input("rows", flow, TestingSource([(row.payload["k"], row) for row in rows]))


def _clock() -> "windowing.EventClock[Row]":
    """Its watermark moves on with the clock on the wall, so the half minute is for a machine that is slow."""
    return windowing.EventClock(
        ts_getter=lambda row: _ALIGN_TO + timedelta(milliseconds=row.at_ms), wait_for_system_duration=timedelta(seconds=30)
    )


@st.composite
def ordered_rows(draw: DrawFn, streams: tuple[str, ...]) -> list[Row]:
    """Events in the order of their times, which are minutes; ``x`` tells them apart."""
    at = 0
    rows: list[Row] = []
    for i in range(draw(st.integers(1, 40))):
        at += draw(st.sampled_from((0, 0, 1, 2, 3, 5, 9, 17)))
        payload = {"k": draw(st.sampled_from("abc")), "x": i}
        rows.append(Row(f"evt_{i:03d}", draw(st.sampled_from(streams)), at * MINUTE_MS, payload))
    return rows


WINDOWS: Final[dict[str, tuple[dict[str, Any], Windower]]] = {
    "tumbling": (
        {"window_type": "tumbling", "window_size_ms": 10 * MINUTE_MS},
        windowing.TumblingWindower(align_to=_ALIGN_TO, length=_minutes(10)),
    ),
    "hopping": (
        {"window_type": "hopping", "window_size_ms": 10 * MINUTE_MS, "advance_ms": 4 * MINUTE_MS},
        windowing.SlidingWindower(align_to=_ALIGN_TO, length=_minutes(10), offset=_minutes(4)),
    ),
    "session": (
        {"window_type": "session", "gap_ms": 5 * MINUTE_MS},
        windowing.SessionWindower(gap=_minutes(5)),
    ),
}


@pytest.mark.parametrize("kind", WINDOWS)
@bounded
@given(data=st.data())
def test_windows_of_ordered_events_hold_what_those_of_bytewax_hold(kind: str, data: st.DataObject) -> None:
    window, windower = WINDOWS[kind]
    rows = data.draw(ordered_rows(("in",)))
    family = Family(kind, [processor("a", "WINDOW", {"group_by": ["k"]}, window, target_stream_id="out")], lambda seen: {})
    ours = [msgspec.json.decode(event[3]) for event in undisturbed(family, rows).outputs["out"]]
    flow = Dataflow("oracle")
    theirs: list[tuple[str, tuple[int, list[Row]]]] = []
    windows = windowing.collect_window("windows", _keyed(flow, rows), _clock(), windower)
    op.output("theirs", windows.down, TestingSink(theirs))
    run_main(flow)
    assert sorted((w["k"], [event["x"] for event in w["events"]]) for w in ours) == sorted(
        (key, [row.payload["x"] for row in held]) for key, (_, held) in theirs
    )


@bounded
@given(data=st.data())
def test_a_join_of_ordered_events_pairs_what_that_of_bytewax_pairs(data: st.DataObject) -> None:
    rows = data.draw(ordered_rows(("in", "other")))
    window = {"window_type": "tumbling", "window_size_ms": 10 * MINUTE_MS}
    family = Family("join", [join(join_type="outer", window=window)], lambda seen: {}, streams=("in", "other"))
    ours = [msgspec.json.decode(event[3]) for event in undisturbed(family, rows).outputs["out"]]
    flow = Dataflow("oracle")
    theirs: list[tuple[str, tuple[int, tuple[Row | None, Row | None]]]] = []
    both = op.branch("sides", _keyed(flow, rows), lambda keyed: keyed[1].stream == "in")
    windower = windowing.TumblingWindower(align_to=_ALIGN_TO, length=_minutes(10))
    windows = windowing.join_window(
        "windows", _clock(), windower, both.trues, both.falses, insert_mode="product", emit_mode="final"
    )
    op.output("theirs", windows.down, TestingSink(theirs))
    run_main(flow)

    def pair(left: Any, right: Any) -> tuple[int, int]:
        return (-1 if left is None else left["x"], -1 if right is None else right["x"])

    assert sorted(pair(made["left"], made["right"]) for made in ours) == sorted(
        pair(*(None if row is None else row.payload for row in made)) for _, (_, made) in theirs
    )
