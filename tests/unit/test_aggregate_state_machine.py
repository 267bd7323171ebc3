"""Whatever is appended to aggregates, however and by whom, they are what a model in memory says."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from event_streaming_bus.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from event_streaming_bus.sourcing.appender import Appender
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.sourcing.rebuilding import SnapshotPolicy
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.aggregate_appends import MOST_TOLD, Unless
from event_streaming_bus.store.aggregate_errors import ConditionNotMetError, VersionConflictError
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.reading import read_stream
from event_streaming_bus.store.recorded import EventQuery, RecordedEvent
from event_streaming_bus.store.storage import Storage

EXAMPLES: Final = int(os.environ.get("ESB_EXAMPLES", "25"))
TENANTS: Final = ("default", "other")
KINDS: Final = ("Account", "Order")
AGGREGATES: Final = ("a-1", "a-2", "o-1", "o-2")
TYPES: Final = ("opened", "changed", "closed")
NO_ID, FRESH_ID = "none", "fresh"

PICK = st.integers(0, 1 << 16)
WHERE = st.fixed_dictionaries({}, optional={"n": st.integers(0, 2), "text": st.sampled_from(["x", None])})
QUERY = st.builds(
    lambda kinds, types, ids, where: EventQuery(aggregate_types=kinds, event_types=types, aggregate_ids=ids, where=where or None),
    *(st.none() | st.lists(st.sampled_from((*names, "nothing")), max_size=2).map(tuple) for names in (KINDS, TYPES, AGGREGATES)),
    st.none() | WHERE,
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(TYPES),
        st.fixed_dictionaries({"n": st.integers(0, 2)}, optional={"text": st.sampled_from(["x", None]), "more": st.just([1])}),
        st.sampled_from([NO_ID, NO_ID, NO_ID, FRESH_ID, FRESH_ID, "known"]),
        PICK,
        st.integers(0, 20),
    ),
    min_size=1,
    max_size=3,
)
EXPECTED = st.sampled_from(["right", "right", "right", None, "any", "no_stream", "stream_exists", "before", "after"])
PARTS = st.lists(st.tuples(st.sampled_from(AGGREGATES), EXPECTED, EVENTS, st.integers(0, 19)), min_size=1, max_size=3)


class Kept(NamedTuple):
    """An event that the model has."""

    position: int
    tenant_id: str
    kind: str
    aggregate_id: str
    version: int
    event_id: str
    event_type: str
    payload: dict[str, Any]
    timestamp_ms: int
    was_brought: bool
    """Its append came with ids, at least with one."""

    def fits(self, query: EventQuery) -> bool:
        where = query.where or {}
        return (
            (query.aggregate_types is None or self.kind in query.aggregate_types)
            and (query.event_types is None or self.event_type in query.event_types)
            and (query.aggregate_ids is None or self.aggregate_id in query.aggregate_ids)
            and all(name in self.payload and self.payload[name] == value for name, value in where.items())
        )


def as_kept(event: RecordedEvent) -> tuple[object, ...]:
    return (
        *(event.position, event.tenant_id, event.aggregate_type, event.aggregate_id, event.version, event.event_id),
        *(event.event_type, event.payload, event.timestamp_ms),
    )


class Aggregates(RuleBasedStateMachine):
    """Two openings of a folder, as two processes have it, and the model of what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.storages: list[Storage] = []
        self.events: list[Kept] = []
        self.fresh = self.steps = 0
        for _ in "12":
            self.storages.append(Storage(self.folder, EmbeddedLog(self.folder, synchronous="NORMAL"), synchronous="NORMAL"))
        policy = SnapshotPolicy(every_events=4, replay_exceeds_ms=None)
        self.services = [EventSourcingService(storage, snapshots=policy) for storage in self.storages]
        self.appenders = [Appender(storage) for storage in self.storages]

    def teardown(self) -> None:
        try:
            self.check_streams()
        finally:
            for storage in self.storages:
                storage.close()
            shutil.rmtree(self.folder)

    def turn(self) -> int:
        """Which of the two does it: each in its turn."""
        self.steps += 1
        return self.steps % 2

    def of(self, tenant_id: str, aggregate_id: str) -> list[Kept]:
        return [event for event in self.events if (event.tenant_id, event.aggregate_id) == (tenant_id, aggregate_id)]

    # --- appending ----------------------------------------------------------------------------------------------------

    @rule(tenant_id=st.sampled_from([*TENANTS, "default"]), parts=PARTS, waits=st.booleans())
    def append(self, tenant_id: str, parts: Sequence[Any], waits: bool) -> None:
        self.append_unless(tenant_id, parts, None, 0, waits)

    @rule(tenant_id=st.sampled_from(TENANTS), parts=PARTS, query=QUERY, pick=PICK, waits=st.booleans())
    def append_if_nothing_is_in_the_way(
        self, tenant_id: str, parts: Sequence[Any], query: EventQuery, pick: int, waits: bool
    ) -> None:
        self.append_unless(tenant_id, parts, query, pick, waits)

    @precondition(lambda self: self.events)
    @rule(pick=PICK, more=st.sampled_from([0, 0, 0, 1]))
    def append_again(self, pick: int, more: int) -> None:
        """All events of an aggregate once more, from one on, with the ids that they have, whoever made them."""
        chosen = self.events[pick % len(self.events)]
        again = [event for event in self.of(chosen.tenant_id, chosen.aggregate_id) if event.version >= chosen.version]
        events = [(event.event_type, event.payload, event.event_id, 0, event.timestamp_ms) for event in again[: 1 + pick % 3]] + [
            ("opened", {"n": 0}, FRESH_ID, 0, 0)
        ] * more
        self.append_unless(chosen.tenant_id, [(chosen.aggregate_id, "before", events, 0)], None, 0, bool(pick & 1))

    def append_unless(self, tenant_id: str, parts: Sequence[Any], query: EventQuery | None, pick: int, waits: bool) -> None:
        appends: list[NewEvents] = []
        kinds: dict[str, str] = {}
        heights = {aggregate_id: len(self.of(tenant_id, aggregate_id)) for aggregate_id in AGGREGATES}
        for aggregate_id, expected, events, chance in parts:
            right = KINDS[aggregate_id.startswith("o")]
            wrong = "Wrong" if chance == 0 and self.of(tenant_id, aggregate_id) else right  # now and then
            kind = kinds.setdefault(aggregate_id, wrong)
            version = {"right": 0, "before": -1, "after": 1}.get(expected)
            appends.append(
                NewEvents(
                    aggregate_id=aggregate_id,
                    aggregate_type=kind,
                    stream=KINDS[0] if kind == "Wrong" else None,
                    expected_version=expected if version is None else max(0, heights[aggregate_id] + version),
                    events=[self.made(*event) for event in events],
                )
            )
            heights[aggregate_id] += len(events)
        after = 0 if not self.events else self.events[pick % len(self.events)].position
        unless = None if query is None else Unless(query, after)
        appender = self.appenders[self.turn()]
        if "Wrong" in kinds.values():
            self.a_stream(tenant_id)
        before = len(self.events)
        try:
            if waits:
                recorded = appender.append(appends, tenant_id, None, unless)
            else:
                recorded = appender.submit(appends, tenant_id, None, unless).result(30)
        except (VersionConflictError, AlreadyExistsError, InvalidInputError) as error:
            told: tuple[object, ...] = self.told_of(error)
        else:
            told = (
                "recorded",
                [(each.event_id, each.aggregate_id, each.version, each.position, each.duplicate) for each in recorded],
            )
            if not recorded[0].duplicate:
                self.keep(tenant_id, appends, [each.event_id for each in recorded])
        assert told == self.expected(tenant_id, appends, unless, before, told)

    def a_stream(self, tenant_id: str) -> None:
        """The stream that an append of a wrong type names must be there."""
        if not any(event.tenant_id == tenant_id and event.kind == KINDS[0] for event in self.events):
            from event_streaming_bus.models import StreamConfig

            self.storages[0].log.create_stream(StreamConfig(name=KINDS[0], tenant_id=tenant_id))

    def made(self, event_type: str, payload: dict[str, Any], which: str, pick: int, timestamp_ms: int) -> NewEvent:
        event_id: str | None = which
        if which == NO_ID or (which == "known" and not self.events):
            event_id = None
        elif which == FRESH_ID:
            self.fresh += 1
            event_id = f"id-{self.fresh}"
        elif which == "known":
            event_id = self.events[pick % len(self.events)].event_id
        return NewEvent(event_type=event_type, event_data=payload, event_id=event_id, timestamp=timestamp_ms)

    def keep(self, tenant_id: str, appends: Sequence[NewEvents], event_ids: list[str]) -> None:
        numbers = iter(event_ids)
        was_brought = any(event.event_id is not None for append in appends for event in append.events)
        for append in appends:
            for event in append.events:
                version = 1 + len(self.of(tenant_id, append.aggregate_id))
                kept = (len(self.events) + 1, tenant_id, append.aggregate_type, append.aggregate_id, version, next(numbers))
                self.events.append(Kept(*kept, event.event_type, event.event_data, event.timestamp, was_brought))  # type: ignore[arg-type]

    @staticmethod
    def told_of(error: Exception) -> tuple[object, ...]:
        if isinstance(error, ConditionNotMetError):
            return ("in the way", [each["position"] for each in error.details["events"]])
        if isinstance(error, VersionConflictError):
            between = [(each["version"], each["event_id"]) for each in error.details["events"]]
            return ("conflict", error.details["aggregate_id"], error.details["current_version"], between)
        if isinstance(error, AlreadyExistsError):
            return ("taken", error.details["event_id"])
        assert isinstance(error, InvalidInputError)
        return ("wrong", error.details["path"])

    def expected(
        self, tenant_id: str, appends: Sequence[NewEvents], unless: Unless | None, before: int, told: tuple[object, ...]
    ) -> tuple[object, ...]:
        """What the model says that is told of an append, made when it had the first ``before`` events."""
        there = [event for event in self.events[:before] if event.tenant_id == tenant_id]
        brought = [event.event_id for append in appends for event in append.events]
        if any(brought):
            given = [event_id for event_id in brought if event_id is not None]
            if len(set(given)) < len(given):
                return ("wrong", "event_id")
            again, out_of_reach = self.again(there, appends, given)
            if out_of_reach:
                return ("taken", told[1] if told[1] in out_of_reach else min(out_of_reach))  # one of them is named
            if again:
                if len(again) < len(brought):
                    # An id of our making that is not known to the caller may stand in the place of the new one.
                    assert told[0] == "taken"
                    assert told[1] in again
                    return told
                found = [again[event_id] for event_id in given]
                return ("recorded", [(e.event_id, e.aggregate_id, e.version, e.position, True) for e in found])
        heights: dict[str, list[tuple[int, str]]] = {}
        for append in appends:
            own = [event for event in there if event.aggregate_id == append.aggregate_id]
            if own and own[0].kind != append.aggregate_type:
                return ("wrong", "aggregate_type")
            had = heights.setdefault(append.aggregate_id, [(event.version, event.event_id) for event in own])
            expected, version = append.expected_version, len(had)
            if (
                (isinstance(expected, int) and expected != version)
                or (expected == "no_stream" and version > 0)
                or (expected == "stream_exists" and version == 0)
            ):
                # Events of the append itself have no place yet, so they are not among those that are told of.
                between = had[expected : min(expected + MOST_TOLD, len(own))] if isinstance(expected, int) else []
                return ("conflict", append.aggregate_id, version, between)
            had.extend((version + n, "") for n in range(1, len(append.events) + 1))
        if unless is not None:
            met = [event.position for event in there if event.position > unless.after and event.fits(unless.query)]
            if met:
                return ("in the way", met[:MOST_TOLD])
        assert told[0] == "recorded"
        return ("recorded", [(*self.place(event), False) for event in self.events[before:]])

    @staticmethod
    def place(event: Kept) -> tuple[object, ...]:
        return event.event_id, event.aggregate_id, event.version, event.position

    @staticmethod
    def again(there: list[Kept], appends: Sequence[NewEvents], given: list[str]) -> tuple[dict[str, Kept], set[str]]:
        """``(the events with these ids, the ids of those that only an append to their aggregate finds)``."""
        meant = {event.event_id: append.aggregate_id for append in appends for event in append.events if event.event_id}
        found = {event.event_id: event for event in there if event.event_id in given}
        out_of_reach = {event_id for event_id, event in found.items() if event.aggregate_id != meant[event_id]}
        return found, out_of_reach

    # --- reading ------------------------------------------------------------------------------------------------------

    @rule(tenant_id=st.sampled_from(TENANTS), query=QUERY, pick=PICK, limit=st.integers(1, 5))
    def read(self, tenant_id: str, query: EventQuery, pick: int, limit: int) -> None:
        store = self.storages[self.turn()].aggregates
        after, until = pick % (len(self.events) + 2), None if pick & 256 else pick // 512 % (len(self.events) + 2)
        wanted = [
            event[:-1]
            for event in self.events
            if event.tenant_id == tenant_id and event.position > after and event.fits(query)
            if until is None or event.position <= until
        ]
        found: list[tuple[object, ...]] = []
        for _ in range(len(self.events) + 2):
            page = store.read(tenant_id, query, after_position=after, until_position=until, limit=limit)
            assert len(page.events) <= limit
            assert page.position >= after
            assert all(after < event.position <= page.position for event in page.events)
            found += map(as_kept, page.events)
            after = page.position
            if page.is_end:
                break
        else:
            pytest.fail("the pages do not end")
        assert found == wanted

    @rule(
        tenant_id=st.sampled_from(TENANTS),
        aggregate_id=st.sampled_from(AGGREGATES),
        after=st.integers(0, 8),
        most=st.integers(0, 8),
    )
    def read_an_aggregate(self, tenant_id: str, aggregate_id: str, after: int, most: int) -> None:
        store = self.storages[self.turn()].aggregates
        found = store.events(tenant_id, aggregate_id, after_version=after, until_version=after + most)
        wanted = [event[:-1] for event in self.of(tenant_id, aggregate_id) if after < event.version <= after + most]
        assert list(map(as_kept, found)) == wanted

    @precondition(lambda self: self.events)
    @rule(pick=PICK)
    def find(self, pick: int) -> None:
        store, event = self.storages[self.turn()].aggregates, self.events[pick % len(self.events)]
        found = store.find_event(event.tenant_id, event.event_id)
        assert found is not None
        assert as_kept(found) == event[:-1]
        elsewhere = next(each for each in TENANTS if each != event.tenant_id)
        theirs = store.find_event(elsewhere, event.event_id)
        assert theirs is None or theirs.tenant_id == elsewhere

    @rule(tenant_id=st.sampled_from(TENANTS), kind=st.sampled_from(KINDS), after=st.sampled_from(["", "a-1", "o-1", "z"]))
    def list_them(self, tenant_id: str, kind: str, after: str) -> None:
        store = self.storages[self.turn()].aggregates
        there = {event.aggregate_id for event in self.events if (event.tenant_id, event.kind) == (tenant_id, kind)}
        found = store.list_aggregates(tenant_id, kind, after=after)
        assert [(info.aggregate_id, info.version) for info in found] == [
            (each, len(self.of(tenant_id, each))) for each in sorted(there) if each > after
        ]

    # --- rebuilding ---------------------------------------------------------------------------------------------------

    @rule(
        tenant_id=st.sampled_from(TENANTS),
        aggregate_id=st.sampled_from(AGGREGATES),
        version=st.none() | st.integers(0, 12),
        until_ms=st.none() | st.integers(0, 21),
        snapshot=st.booleans(),
    )
    def reconstruct(self, tenant_id: str, aggregate_id: str, version: int | None, until_ms: int | None, snapshot: bool) -> None:
        events = self.of(tenant_id, aggregate_id)
        ask = self.services[self.turn()].rebuild(
            aggregate_id, None, tenant_id, update_snapshots=snapshot, as_of_version=version, as_of_time=until_ms
        )
        if not events:
            with pytest.raises(NotFoundError):
                asyncio.run(ask)
            return
        if version is not None and version > len(events):
            with pytest.raises(InvalidInputError, match="as_of_version"):
                asyncio.run(ask)
            return
        kept = [event for event in events if version is None or event.version <= version]
        kept = [event for event in kept if until_ms is None or event.timestamp_ms <= until_ms]
        state: dict[str, Any] = {}
        for event in kept:
            state |= event.payload
        aggregate = asyncio.run(ask)
        assert aggregate.state == state
        assert aggregate.aggregate_type == events[0].kind
        assert aggregate.version == (kept[-1].version if kept else 0)
        assert aggregate.last_timestamp_ms == (kept[-1].timestamp_ms if kept else None)
        assert aggregate.events_replayed == len(kept) - len([e for e in kept if e.version <= (aggregate.snapshot_version or 0)])
        for check in asyncio.run(self.services[self.turn()].verify_snapshots(aggregate_id, tenant_id)):
            assert check.is_equal

    # --- always -------------------------------------------------------------------------------------------------------

    @invariant()
    def all_is_there(self) -> None:
        store = self.storages[self.turn()].aggregates
        assert store.head("default") == len(self.events)
        for tenant_id in TENANTS:
            wanted = [event[:-1] for event in self.events if event.tenant_id == tenant_id]
            assert list(map(as_kept, store.read(tenant_id).events)) == wanted

    def check_streams(self) -> None:
        """Each aggregate's events are on the stream of its type, in its order."""
        log = self.storages[0].log
        for tenant_id in TENANTS:
            on_streams: dict[str | None, list[tuple[str, object]]] = {}
            for info in log.list_streams(tenant_id):
                for event in read_stream(log, info):
                    assert event.aggregate_type == info.name
                    on_streams.setdefault(event.aggregate_id, []).append((event.event_id, event.payload))
            wanted = {each: [(e.event_id, e.payload) for e in self.of(tenant_id, each)] for each in AGGREGATES}
            assert on_streams == {each: events for each, events in wanted.items() if events}


Aggregates.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
test_aggregates_are_what_a_model_says = Aggregates.TestCase
