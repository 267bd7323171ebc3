"""How partitions are shared among members: as Kafka does it, evenly, and with few that move."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.consumers.assignors import ASSIGNORS, Owned
from event_streaming_bus.consumers.model import AssignmentStrategy, Partition

RANGE, ROUNDROBIN, STICKY, COOPERATIVE = AssignmentStrategy
KAFKA_CASES = Path(__file__).with_name("data") / "kafka_assignments.ndjson"


def places(by_stream: Mapping[str, list[int]]) -> tuple[Partition, ...]:
    return tuple(Partition(stream, number) for stream, numbers in by_stream.items() for number in numbers)


def shared(
    strategy: AssignmentStrategy,
    subscriptions: Mapping[str, str],
    partitions: Mapping[str, int],
    held: Mapping[str, tuple[Partition, ...]] | None = None,
) -> dict[str, set[Partition]]:
    """The assignment, where a stream is one letter and the members with ``held`` held that in one generation."""
    owned = {member: Owned(mine, 1) for member, mine in (held or {}).items()}
    given_out = ASSIGNORS[strategy]({member: tuple(streams) for member, streams in subscriptions.items()}, partitions, owned)
    for mine in given_out.values():
        assert len(mine) == len(set(mine))
    return {member: set(mine) for member, mine in given_out.items()}


@pytest.mark.parametrize("strategy", AssignmentStrategy)
def test_members_get_what_kafka_would_give_them(strategy: AssignmentStrategy) -> None:
    """Random cases, answered by the assignors of kafka-clients 4.3.1. Names are single letters, which Kafka's hash tables keep in
    order; cases in which its answer depends on the order of a hash table all the same, or in which it gives a member what it does
    not want, were left out."""
    cases: list[dict[str, Any]] = [json.loads(line) for line in KAFKA_CASES.read_text("utf-8").splitlines()]
    mine = [case for case in cases if case["strategy"] == strategy]
    assert len(mine) >= 60
    for case in mine:
        subscriptions = {member: tuple(told["streams"]) for member, told in case["members"].items()}
        owned = {
            member: Owned(places(told["held"]), told["generation"]) for member, told in case["members"].items() if "held" in told
        }
        answer = ASSIGNORS[strategy](subscriptions, case["streams"], owned)
        assert {m: set(p) for m, p in answer.items()} == {m: set(places(p)) for m, p in case["assignment"].items()}, case


def test_range_gives_a_member_the_same_partitions_of_equal_streams() -> None:
    assert shared(RANGE, {"a": "XY", "b": "XY"}, {"X": 3, "Y": 3}) == {
        "a": set(places({"X": [0, 1], "Y": [0, 1]})),
        "b": set(places({"X": [2], "Y": [2]})),
    }


def test_roundrobin_passes_over_those_that_do_not_want_a_stream() -> None:
    assert shared(ROUNDROBIN, {"a": "X", "b": "XY", "c": "XYZ"}, {"X": 1, "Y": 2, "Z": 3}) == {
        "a": set(places({"X": [0]})),
        "b": set(places({"Y": [0]})),
        "c": set(places({"Y": [1], "Z": [0, 1, 2]})),
    }


def test_sticky_moves_only_what_a_new_member_needs() -> None:
    before = shared(STICKY, {"a": "X", "b": "X"}, {"X": 6})
    after = shared(STICKY, {"a": "X", "b": "X", "c": "X"}, {"X": 6}, {m: tuple(p) for m, p in before.items()})
    assert [len(after[m]) for m in "abc"] == [2, 2, 2]
    assert after["a"] < before["a"]
    assert after["b"] < before["b"]


def test_sticky_gives_the_partitions_of_one_that_left_to_those_that_stay() -> None:
    held = {"a": places({"X": [0, 3]}), "b": places({"X": [1, 4]})}  # c held 2 and 5
    after = shared(STICKY, {"a": "X", "b": "X"}, {"X": 6}, held)
    assert all(after[member] > set(mine) for member, mine in held.items())
    assert [len(after[member]) for member in "ab"] == [3, 3]


def test_sticky_believes_the_member_of_the_later_generation() -> None:
    owned = {"a": Owned(places({"X": [0, 1]}), 4), "b": Owned(places({"X": [0, 2]}), 5)}
    assert ASSIGNORS[STICKY]({"a": ("X",), "b": ("X",)}, {"X": 4}, owned)["b"][:2] == list(places({"X": [0, 2]}))


def test_a_stream_that_is_not_there_has_no_partitions() -> None:
    for strategy in AssignmentStrategy:
        assert shared(strategy, {"a": "XQ", "b": "Q"}, {"X": 1}, {"b": places({"Q": [0], "X": [7]})}) == {
            "a": {Partition("X", 0)},
            "b": set(),
        }


MEMBERS = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)
STREAMS = st.dictionaries(st.sampled_from("WXYZ"), st.integers(1, 9), min_size=1)


@st.composite
def situations(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, int], dict[str, tuple[Partition, ...]]]:
    """Subscriptions, streams, and what members hold, each partition one of them or none; some want it no more, some have left."""
    streams = draw(STREAMS)
    members = draw(MEMBERS)
    some = st.lists(st.sampled_from(sorted(streams)), min_size=1, unique=True).map("".join)
    subscriptions = dict.fromkeys(members, draw(some)) if draw(st.booleans()) else {m: draw(some) for m in members}
    held: dict[str, list[Partition]] = {member: [] for member in members}
    for place in places({stream: list(range(count)) for stream, count in streams.items()}):
        holder = draw(st.sampled_from([*members, None]))
        if holder is not None:
            held[holder].append(place)
    return subscriptions, streams, {member: tuple(mine) for member, mine in held.items()}


@given(situations(), st.sampled_from([RANGE, ROUNDROBIN, STICKY]))
def test_each_partition_goes_to_one_member_that_wants_it(
    situation: tuple[dict[str, str], dict[str, int], dict[str, tuple[Partition, ...]]], strategy: AssignmentStrategy
) -> None:
    subscriptions, streams, held = situation
    answer = shared(strategy, subscriptions, streams, held)
    given_out = sorted(place for mine in answer.values() for place in mine)
    wanted = {stream: list(range(count)) for stream, count in streams.items() if any(stream in s for s in subscriptions.values())}
    assert given_out == sorted(places(wanted))
    assert all(place.stream_id in subscriptions[member] for member, mine in answer.items() for place in mine)


@given(situations())
def test_sticky_is_even_and_stays_as_it_is(
    situation: tuple[dict[str, str], dict[str, int], dict[str, tuple[Partition, ...]]],
) -> None:
    subscriptions, streams, held = situation
    answer = shared(STICKY, subscriptions, streams, held)
    for one, mine in answer.items():
        for other, theirs in answer.items():
            if set(subscriptions[other]) == set(subscriptions[one]):
                assert len(mine) - len(theirs) <= 1
    assert shared(STICKY, subscriptions, streams, {m: tuple(p) for m, p in answer.items()}) == answer


@given(situations())
def test_cooperative_sticky_gives_out_everything_after_some_rounds_and_nothing_twice(
    situation: tuple[dict[str, str], dict[str, int], dict[str, tuple[Partition, ...]]],
) -> None:
    """Two rounds do if all want the same; if not, what was given up may let more move, as with Kafka."""
    subscriptions, streams, held = situation
    wanted = {stream: list(range(count)) for stream, count in streams.items() if any(stream in s for s in subscriptions.values())}
    are_equal = len({frozenset(streams) for streams in subscriptions.values()}) == 1
    for _ in range(2 if are_equal else 5):
        answer = shared(COOPERATIVE, subscriptions, streams, held)
        for member, mine in answer.items():
            assert not any(mine & set(theirs) for other, theirs in held.items() if other != member)
        held = {member: tuple(mine) for member, mine in answer.items()}
    assert sorted(place for mine in held.values() for place in mine) == sorted(places(wanted))
