"""The checker of histories finds what it is for: in histories that are made up, and in those of buses broken on purpose."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from history_checker import check
from history_clients import Client
from history_cycles import Edge, Graph, components
from history_hands import STREAMS, Hands
from history_operations import (
    ENDLESS,
    Action,
    Append,
    Commit,
    Committed,
    Fault,
    Found,
    Kept,
    Operation,
    Outcome,
    Page,
    Part,
    Poll,
    Publish,
    Read,
    Recorder,
    Scan,
    Sent,
    in_order,
    read_history,
)

from event_streaming_bus.client.client_errors import ServerUnreachableError
from event_streaming_bus.models import StreamConfig
from event_streaming_bus.store.aggregate_errors import VersionConflictError

SPLIT = "str_1/0/normal"


def kinds(*done: Operation, is_dense: bool = True) -> set[str]:
    """The kinds of anomalies of a history."""
    return {anomaly.kind for anomaly in check(in_order(list(done)), is_dense=is_dense).anomalies}


def ok(start: int, end: int, action: Action, process: int = 1) -> Operation:
    return Operation(0, process, start, end, Outcome.OK, action)


def failed(start: int, end: int, action: Action) -> Operation:
    return Operation(0, 2, start, end, Outcome.FAIL, action)


def unknown(start: int, action: Action) -> Operation:
    return Operation(0, 3, start, ENDLESS, Outcome.INFO, action)


def append(*kept: Kept, expected: int | None = None) -> Append:
    """An append of what is kept: one part for each key."""
    keys = dict.fromkeys(each.key for each in kept)
    parts = tuple(Part(key, expected, tuple(each.element for each in kept if each.key == key)) for key in keys)
    return Append(parts, kept)


def read(key: str, *elements: str, first: int = 1) -> Read:
    """A read of elements whose positions are their versions."""
    return Read(key, tuple(Kept(key, each, version, version) for version, each in enumerate(elements, first)))


A = Kept("x", "a", 1, 1)
B = Kept("x", "b", 2, 2)
C = Kept("y", "c", 1, 3)
A_THEN_B = (ok(1, 2, append(A)), ok(3, 4, append(B)))


# --- aggregates -------------------------------------------------------------------------------------------------------


def test_what_is_well_is_told_to_be_well() -> None:
    refused = Append((Part("x", 0, ("d",)),), (), "x", 2, (Kept("x", "a", 1, 0), Kept("x", "b", 2, 0)))
    later = append(Kept("x", "e", 3, 4))
    assert not kinds(
        *A_THEN_B,
        ok(1, 9, read("x", "a"), 4),  # it overlaps both
        ok(5, 6, append(C)),
        failed(5, 6, refused),
        unknown(5, later),
        ok(7, 8, read("x", "a", "b")),
        ok(7, 12, Read("x", (A, B, Kept("x", "e", 3, 4))), 5),
        ok(13, 14, Page(1, (B, C, Kept("x", "e", 3, 4)), True)),
        ok(13, 14, Read("y", (C,))),
    )


@pytest.mark.parametrize(
    ("kind", "history"),
    [
        ("lost append", [*A_THEN_B, ok(5, 6, read("x", "a"))]),
        ("version twice", [*A_THEN_B, ok(5, 6, Read("x", (A, Kept("x", "c", 2, 3)))), ok(5, 6, append(C))]),
        ("stale read", [*A_THEN_B, ok(5, 6, read("x", "a")), ok(5, 8, read("x", "a", "b"))]),
        ("stale read", [ok(1, 9, append(A)), ok(2, 3, read("x", "a")), ok(4, 5, read("x"))]),
        ("stale read", [*A_THEN_B, ok(5, 8, read("x", "a", "b")), ok(9, 10, Page(0, (A,), True))]),
        ("duplicate", [*A_THEN_B, ok(5, 6, read("x", "a", "b", "a"))]),
        ("moved", [*A_THEN_B, ok(5, 6, read("x", "b", "a"))]),
        ("version twice", [ok(1, 2, append(A)), ok(1, 2, append(Kept("x", "b", 1, 2)))]),
        ("position twice", [ok(1, 2, append(A)), ok(1, 2, append(Kept("y", "b", 1, 1)))]),
        ("gap", [*A_THEN_B, ok(5, 6, Read("x", (B,)))]),
        ("position order", [ok(5, 6, Read("x", (Kept("x", "a", 1, 2), Kept("x", "b", 2, 1))))]),
        ("phantom", [ok(5, 6, read("x", "nobody's"))]),
        ("G1a", [failed(1, 2, Append((Part("x", 5, ("a",)),), (), "x", 0)), ok(3, 4, read("x", "a"))]),
        ("G1b", [ok(1, 9, append(A, B)), ok(2, 3, read("x", "a"))]),
        ("torn append", [unknown(1, append(A, C)), ok(2, 3, read("x", "a")), ok(4, 5, Read("y", ()))]),
        ("reordered", [unknown(1, Append((Part("x", None, ("b", "a")),))), ok(2, 3, read("x", "a", "b"))]),
        ("reordered", [unknown(1, append(A, B)), unknown(1, append(C)), ok(2, 3, read("x", "a", "c", "b"))]),
        ("expected version", [ok(1, 2, append(A)), ok(3, 4, append(B, expected=0))]),
        ("refused for nothing", [ok(1, 2, append(A)), failed(3, 4, Append((Part("x", 1, ("b",)),), (), "x", 1))]),
        ("receipts", [ok(1, 2, Append((Part("x", None, ("a", "b")),), (A,)))]),
        ("skipped", [*A_THEN_B, ok(5, 6, append(C)), ok(7, 8, Page(0, (A, C), True))]),
    ],
)
def test_anomalies_of_aggregates_are_found(kind: str, history: list[Operation]) -> None:
    assert kind in kinds(*history)


def test_a_cycle_of_writes_is_g0() -> None:
    """Each of two appends is behind the other one: in x by its versions, in y as well, the other way round."""
    first = append(Kept("x", "a", 1, 0), Kept("y", "d", 2, 0))
    second = append(Kept("x", "b", 2, 0), Kept("y", "c", 1, 0))
    assert kinds(ok(1, 9, first), ok(1, 9, second)) == {"G0"}


def test_two_readers_that_see_two_appends_in_different_order() -> None:
    """Both appends are under way all the time, so either order would do; but not both."""
    x, y = Kept("x", "a", 1, 0), Kept("y", "c", 1, 0)
    one = [ok(1, 2, Read("x", (x,)), 4), ok(3, 4, Read("y", ()), 4)]
    other = [ok(1, 2, Read("y", (y,)), 5), ok(3, 4, Read("x", ()), 5)]
    done = [unknown(0, append(x)), unknown(0, append(y)), *one]
    assert not kinds(*done)
    found = kinds(*done, *other)
    assert any(kind.endswith("-realtime") for kind in found), found


def test_positions_that_contradict_the_order_of_time_are_found() -> None:
    assert any(
        "realtime" in kind for kind in kinds(ok(1, 2, append(Kept("x", "a", 1, 2))), ok(3, 4, append(Kept("y", "c", 1, 1))))
    )


def test_a_cycle_is_named_by_the_worst_of_its_edges() -> None:
    names = {}
    for edges in itertools.product([Edge.WW, Edge.WR, Edge.RW, Edge.RT], repeat=2):
        graph = Graph()
        graph.add(1, 2, edges[0])
        graph.add(2, 1, edges[1])
        (cycle,) = graph.cycles()
        names[frozenset(edges)] = cycle.name
    ww, wr, rw, rt = Edge.WW, Edge.WR, Edge.RW, Edge.RT
    assert names[frozenset({ww})] == "G0"
    assert names[frozenset({wr})] == names[frozenset({ww, wr})] == "G1c"
    assert names[frozenset({rw})] == "G2-item"
    assert names[frozenset({ww, rw})] == names[frozenset({wr, rw})] == "G-single"
    assert names[frozenset({rt, rw})] == "G-single-realtime"
    assert names[frozenset({rt, wr})] == "G1c-realtime"


def test_components_are_found_without_recursion() -> None:
    size = 20_000
    chain = components(range(size), lambda node: [node + 1] if node + 1 < size else [])
    ring = components(range(size), lambda node: [(node + 1) % size])
    assert chain == []
    assert [len(each) for each in ring] == [size]


def test_real_time_orders_what_does_not_overlap_and_nothing_else() -> None:
    graph = Graph()
    graph.add_real_time([(1, 3, 0), (2, 5, 1), (4, 6, 2)], 3)
    graph.add(2, 0, Edge.WW)  # 0 had ended before 2 began
    assert [cycle.name for cycle in graph.cycles()] == ["G0-realtime"]
    graph = Graph()
    graph.add_real_time([(1, 3, 0), (2, 5, 1), (4, 6, 2)], 3)
    graph.add(2, 1, Edge.WW)  # these overlap
    graph.add(1, 0, Edge.WW)
    assert [cycle.name for cycle in graph.cycles()] == ["G0-realtime"]
    graph = Graph()
    graph.add_real_time([(1, 3, 0), (2, 5, 1), (4, 6, 2)], 3)
    graph.add(1, 0, Edge.WW)
    assert not list(graph.cycles())


# --- streams ----------------------------------------------------------------------------------------------------------


def sent(element: str, key: str = "k", due_ms: int | None = None) -> Sent:
    return Sent(element, key, due_ms)


def published(*elements: str, first: int) -> Publish:
    places = tuple((SPLIT, offset) for offset in range(first, first + len(elements)))
    return Publish("events", tuple(map(sent, elements)), places)


def scan(*elements: str, begin: int = 0) -> Scan:
    found = tuple(Found(SPLIT, offset, each, "k") for offset, each in enumerate(elements, begin))
    return Scan("str_1", {SPLIT: begin} if begin else {}, found)


TWO = (ok(1, 2, published("a", "b", first=0)), ok(3, 4, published("c", first=2)))


def test_a_stream_that_is_well_is_told_to_be_well() -> None:
    delayed = Publish("events", (sent("d", due_ms=5000),), ((SPLIT, -1),))
    assert not kinds(
        ok(0, 0, Fault("start", seconds=1.0)),
        *TWO,
        ok(1, 4, scan("a", "b")),
        ok(1, 2, delayed),
        unknown(3, published("e", first=3)),
        ok(5, 6, scan("a", "b", "c")),
        ok(int(8e9), int(8e9) + 1, scan("c", "e", "d", begin=2)),
    )


@pytest.mark.parametrize(
    ("kind", "history"),
    [
        ("lost event", [*TWO, ok(5, 6, scan("a", "b"))]),
        ("stale read", [*TWO, ok(5, 9, scan("a", "b", "c")), ok(5, 6, scan("a", "b"))]),
        ("stale read", [unknown(1, published("a", first=0)), ok(2, 3, scan("a")), ok(4, 5, scan())]),
        ("duplicate", [*TWO, ok(5, 6, scan("a", "b", "c", "a"))]),
        ("offset twice", [*TWO, ok(1, 2, published("d", first=1)), ok(5, 6, scan("a", "b", "c"))]),
        ("reordered", [ok(1, 2, published("a", first=1)), ok(3, 4, published("b", first=0))]),
        ("reordered", [unknown(1, published("b", "a", first=0)), ok(2, 3, scan("a", "b"))]),
        ("phantom", [ok(1, 2, scan("nobody's"))]),
        ("G1a", [failed(1, 2, published("a", first=0)), ok(3, 4, scan("a"))]),
        ("torn publish", [unknown(1, Publish("events", (sent("a"), sent("b")))), ok(2, 3, scan("a")), ok(4, 5, scan("a"))]),
        ("receipts", [ok(1, 2, Publish("events", (sent("a"), sent("b")), ((SPLIT, 0),)))]),
        ("hole", [*TWO, ok(5, 6, Scan("str_1", {}, (Found(SPLIT, 0, "a"), Found(SPLIT, 2, "c"))))]),
        ("gap", [unknown(1, published("a", first=1)), ok(5, 6, Scan("str_1", {}, (Found(SPLIT, 1, "a"),)))]),
        ("scan order", [*TWO, ok(5, 6, Scan("str_1", {}, (Found(SPLIT, 1, "b"), Found(SPLIT, 0, "a"))))]),
        (
            "key in two splits",
            [ok(1, 2, published("a", first=0)), ok(1, 2, Publish("events", (sent("b"),), (("str_1/1/normal", 0),)))],
        ),
        (
            "early",
            [
                ok(0, 0, Fault("start", seconds=1.0)),
                ok(1, 2, Publish("events", (sent("a", due_ms=9000),), ((SPLIT, -1),))),
                ok(int(7e9), int(7e9) + 1, scan("a")),
            ],
        ),
        (
            "lost event",
            [
                ok(0, 0, Fault("start", seconds=1.0)),
                ok(1, 2, Publish("events", (sent("a", due_ms=5000),), ((SPLIT, -1),))),
                ok(int(9e9), int(9e9) + 1, scan()),
            ],
        ),
        (
            "reordered",  # of an aggregate: version 2 comes first
            [
                unknown(1, append(A)),
                unknown(1, append(B)),
                ok(2, 3, read("x", "a", "b")),
                ok(4, 5, Scan("str_1", {}, (Found(SPLIT, 0, "b", "x"), Found(SPLIT, 1, "a", "x")))),
            ],
        ),
    ],
)
def test_anomalies_of_streams_are_found(kind: str, history: list[Operation]) -> None:
    assert kind in kinds(*history)


def test_a_clock_that_was_ahead_excuses_what_comes_early() -> None:
    history = [
        ok(0, 0, Fault("start", seconds=1.0)),
        ok(1, 2, Publish("events", (sent("a", due_ms=9000),), ((SPLIT, -1),))),
        ok(5, 6, Fault("clock", "all", 3600.0)),
        ok(int(7e9), int(7e9) + 1, scan("a")),
    ]
    assert not kinds(*history)


def test_offsets_may_have_gaps_where_transactions_end() -> None:
    history = [unknown(1, published("a", first=1)), ok(5, 6, Scan("str_1", {}, (Found(SPLIT, 1, "a"),)))]
    assert not kinds(*history, is_dense=False)


# --- groups -----------------------------------------------------------------------------------------------------------


def poll(session: str, *places: tuple[int, str], generation: int = 1) -> Poll:
    return Poll("g", session, tuple(Found(SPLIT, *place) for place in places), generation)


def commit(session: str, offset: int) -> Commit:
    return Commit("g", session, {SPLIT: offset})


ALL = ((0, "a"), (1, "b"), (2, "c"))


def test_a_group_that_is_well_is_told_to_be_well() -> None:
    assert not kinds(
        *TWO,
        ok(5, 6, poll("1", *ALL[:1])),
        ok(7, 8, commit("1", 1)),
        ok(9, 10, poll("1", *ALL[1:])),
        ok(11, 12, poll("2", *ALL[1:], generation=2)),
        failed(13, 14, commit("1", 3)),
        ok(15, 16, Committed("g", {SPLIT: 1})),
        ok(17, 18, commit("2", 3)),
        ok(19, 20, Committed("g", {SPLIT: 3})),
    )


@pytest.mark.parametrize(
    ("kind", "history"),
    [
        ("skipped", [ok(5, 6, poll("1", *ALL[:1])), ok(7, 8, commit("1", 2))]),
        ("skipped", [ok(5, 6, poll("1", *ALL[1:])), ok(7, 8, commit("1", 3))]),
        ("skipped", [ok(7, 8, Committed("g", {SPLIT: 1})), ok(9, 10, poll("1", *ALL))]),
        ("commit lost", [ok(5, 6, poll("1", *ALL)), ok(7, 8, commit("1", 3)), ok(9, 10, Committed("g", {SPLIT: 2}))]),
        ("delivered again", [ok(5, 6, poll("1", *ALL)), ok(7, 8, commit("1", 3)), ok(9, 10, poll("2", *ALL[2:], generation=2))]),
        ("two holders", [ok(5, 6, poll("1", *ALL)), ok(5, 7, poll("2", *ALL[:1]))]),
        ("delivery order", [ok(5, 6, poll("1", ALL[0], ALL[2]))]),
        ("delivery order", [ok(5, 6, poll("1", ALL[1], ALL[0]))]),
    ],
)
def test_anomalies_of_groups_are_found(kind: str, history: list[Operation]) -> None:
    assert kind in kinds(*TWO, *history)


# --- what is recorded -------------------------------------------------------------------------------------------------


def test_what_a_killed_client_had_begun_is_unknown(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 7)
    recorder.invoke(Read("x"))
    recorder.end(Outcome.OK, read("x", "a"))
    recorder.invoke(append(A))
    recorder.close()
    with (tmp_path / "7.jsonl").open("a") as file:
        file.write('["ok",17,["app')  # it was killed over this
    done, begun = read_history(tmp_path)
    assert (done.process, done.outcome, done.action) == (7, Outcome.OK, read("x", "a"))
    assert done.start_ns <= done.end_ns < begun.start_ns
    assert (begun.outcome, begun.end_ns, begun.action) == (Outcome.INFO, ENDLESS, append(A))


def test_a_long_history_is_checked_in_seconds() -> None:
    """Of 10,000 operations, with a cycle in the middle."""
    done: list[Operation] = []
    position = 0
    for number in range(100):
        key, kept = f"k{number}", []
        for version in range(1, 51):
            position += 1
            each = Kept(key, f"{key}-{version}", version, position)
            kept.append(each)
            at = position * 10
            done.append(ok(at, at + 25, append(each), version % 5))
            done.append(ok(at + 26, at + 28, Read(key, tuple(kept)), 9))
    started_s = time.process_time()
    assert not kinds(*done)
    assert time.process_time() - started_s < 5
    torn = done[5_001].action
    assert isinstance(torn, Read)
    done[5_001] = done[5_001]._replace(action=Read(torn.key, torn.kept[:-1]))
    assert "stale read" in kinds(*done)


# --- a bus that is broken on purpose ----------------------------------------------------------------------------------


class Every:
    """True each time it was asked so often."""

    def __init__(self, times: int) -> None:
        self._times = times
        self._count = 0

    def __call__(self) -> bool:
        self._count += 1
        return self._count % self._times == 0


class Forgetting(Hands):
    """Acknowledges appends that it does not make."""

    def append(self, parts: Sequence[Part], *, own_ids: bool) -> tuple[Kept, ...]:
        if len(parts) > 1 or not self.now():
            return super().append(parts, own_ids=own_ids)
        (part,) = parts
        there = self.read(part.key)
        if part.expected not in (None, len(there)):
            return super().append(parts, own_ids=own_ids)
        return tuple(
            Kept(part.key, each, version, 1_000_000 + next(self.numbers))
            for version, each in enumerate(part.elements, len(there) + 1)
        )

    now = Every(5)
    numbers = itertools.count()


class ForgettingEvents(Hands):
    """Acknowledges events that it does not publish."""

    now = Every(5)

    def publish(self, stream: str, sent: Sequence[Sent], *, own_ids: bool) -> tuple[tuple[str, int], ...]:
        places = super().publish(stream, sent[:1], own_ids=own_ids)
        if self.now():
            return (*places, *((places[0][0], places[0][1] + 1 + i) for i in range(len(sent) - 1)))
        return (*places, *(super().publish(stream, sent[1:], own_ids=own_ids) if len(sent) > 1 else ()))


class Repeating(Hands):
    """Publishes some events twice."""

    now = Every(5)

    def publish(self, stream: str, sent: Sequence[Sent], *, own_ids: bool) -> tuple[tuple[str, int], ...]:
        if self.now():
            super().publish(stream, sent, own_ids=False)
        return super().publish(stream, sent, own_ids=False)


class Remembering(Hands):
    """Answers reads with what it read before."""

    def read(self, key: str) -> tuple[Kept, ...]:
        there = super().read(key)
        seen = self.__dict__.setdefault("seen", {})
        told = seen.get(key, there)
        seen[key] = there
        return tuple(told)


class RememberingScans(Hands):
    """Does not see the newest events of streams."""

    def scan(self, stream: str, begin: dict[str, int]) -> tuple[Found, ...]:
        return super().scan(stream, begin)[:-1]


class Insisting(Hands):
    """Makes the appends that it refuses."""

    def append(self, parts: Sequence[Part], *, own_ids: bool) -> tuple[Kept, ...]:
        try:
            return super().append(parts, own_ids=own_ids)
        except VersionConflictError:
            super().append([Part(part.key, None, part.elements) for part in parts], own_ids=own_ids)
            raise


class Careless(Hands):
    """Does not look at expected versions."""

    def append(self, parts: Sequence[Part], *, own_ids: bool) -> tuple[Kept, ...]:
        return super().append([Part(part.key, None, part.elements) for part in parts], own_ids=own_ids)


class Tearing(Hands):
    """Makes a part of an append to several aggregates, and loses the connection."""

    now = Every(2)

    def append(self, parts: Sequence[Part], *, own_ids: bool) -> tuple[Kept, ...]:
        if len(parts) == 1 or not self.now():
            return super().append(parts, own_ids=own_ids)
        super().append(parts[:1], own_ids=own_ids)
        raise ServerUnreachableError("The connection was lost.")


class Renumbering(Hands):
    """Gives the version of the event before."""

    now = Every(5)

    def append(self, parts: Sequence[Part], *, own_ids: bool) -> tuple[Kept, ...]:
        kept = super().append(parts, own_ids=own_ids)
        if not self.now():
            return kept
        return tuple(Kept(k.key, k.element, k.version - 1, k.position, k.split, k.offset) for k in kept)


class PassingOver(Hands):
    """Leaves events out of its pages."""

    def page(self, after: int, limit: int = 200) -> tuple[tuple[Kept, ...], bool]:
        kept, is_end = super().page(after, limit)
        return (kept[:1] + kept[2:] if len(kept) > 2 else kept), is_end


class Skipping(Hands):
    """A member that is not given every event."""

    def consumer(self) -> Any:
        consumer = super().consumer()
        handed_out = consumer.poll

        async def poll(**how: Any) -> Any:
            return (await handed_out(**how))[1:]

        consumer.poll = poll
        return consumer


class Uncommitted(Hands):
    """A member whose commits are acknowledged, and not made."""

    def consumer(self) -> Any:
        consumer = super().consumer()

        async def commit() -> None:
            return None

        consumer.commit = commit
        return consumer


def lived(hands: Callable[[str], Hands], folder: Path, steps: int = 120) -> set[str]:
    """The kinds of anomalies in the history of three clients, one of them a member of the group."""
    (folder / "history").mkdir()
    url = str(folder / "data")
    made = Hands(url)
    for stream in STREAMS:
        made.bus.log.create_stream(StreamConfig(name=stream, partitions=2))

    def work(process: int, client: Client) -> None:
        left = iter(range(steps if process < 3 else steps // 4))
        (client.work if process < 3 else client.take)(lambda: next(left, None) is None)

    opened = [hands(url) for _ in range(3)]
    recorders = [Recorder(folder / "history", process) for process in (1, 2, 3)]
    clients = [Client(*each, process, "seed") for process, *each in zip((1, 2, 3), opened, recorders, strict=True)]
    threads = [threading.Thread(target=work, args=each) for each in enumerate(clients, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = Client(made, Recorder(folder / "history", 4), 4, "seed")
    for key in range(8):
        last.do(Read(f"k{key}"), lambda key=key: Read(f"k{key}", made.read(f"k{key}")))  # type: ignore[misc]
    for _ in range(12):
        last.scan()
    last.do(Committed("readers"), lambda: Committed("readers", made.committed()))
    for each in (*opened, made):
        each.close()
    return {anomaly.kind for anomaly in check(read_history(folder / "history")).anomalies}


@pytest.mark.parametrize(
    ("hands", "expected"),
    [
        (Hands, set()),
        (Forgetting, {"version twice"}),
        (ForgettingEvents, {"offset twice"}),
        (Repeating, {"duplicate"}),
        (Remembering, {"stale read"}),
        (RememberingScans, {"stale read"}),
        (Insisting, {"G1a"}),
        (Careless, {"expected version"}),
        (Tearing, {"torn append"}),
        (Renumbering, {"moved"}),
        (PassingOver, {"skipped"}),
        (Skipping, {"skipped"}),
        (Uncommitted, {"commit lost", "delivered again"}),
    ],
)
def test_a_bus_that_is_broken_is_found_out(
    hands: type[Hands], expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESB_SYNCHRONOUS", "NORMAL")  # this is about the checker, and not about power failures
    found = lived(hands, tmp_path)
    assert found & expected if expected else not found, found
