"""A migration from end to end: the plan, the events, the comparison of both ends, groups, dead letters and flows."""

import time
from contextlib import closing
from typing import Final, Protocol

import msgspec

from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.migration import flow_states
from event_streaming_bus.migration.checking import LaneCheck, check_stream, count_events
from event_streaming_bus.migration.copying import copy_stream
from event_streaming_bus.migration.groups import carry_groups
from event_streaming_bus.migration.letters import LetterStates
from event_streaming_bus.migration.naming import name_of
from event_streaming_bus.migration.pairs import Pair, told
from event_streaming_bus.migration.plan import Choice, Plan, StreamPlan, make_plan
from event_streaming_bus.migration.positions import GroupMove, readings_of, set_position
from event_streaming_bus.migration.waiting import carry_waiting
from event_streaming_bus.store.history_records import DEAD_LETTER_STREAM
from event_streaming_bus.store.storage import Storage, data_folder, open_storage

COPYING: Final = "copying"
CHECKING: Final = "comparing"
EVERYTHING: Final = Choice()


class Tell(Protocol):
    """Told how a migration goes on: in which phase, how many events are done, of about how many, and of which stream."""

    def __call__(self, phase: str, done: int, total: int, stream: str) -> None: ...


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration has done.

    ``copied`` counts the events of this run, ``known`` those of them that the target had already; ``lanes`` compare everything
    that all runs have copied. ``left`` is how many events came to the source meanwhile, for the next run. ``letters`` counts dead
    letters that got their state, ``scheduled`` events that wait for their time at the target now.
    """

    source: str
    target: str
    copied: int
    known: int
    lanes: list[LaneCheck]
    groups: list[GroupMove]
    letters: int
    scheduled: int
    left: int
    notes: list[str]
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether both ends hold the same."""
        return all(lane.agrees for lane in self.lanes)


def plan_migration(source_url: str, target_url: str, choice: Choice = EVERYTHING) -> Plan:
    """What ``migrate`` would do. Nothing is carried; opening a log on Kafka makes the bus's own topics there. Raises as
    ``migrate``, but for what is in its way, which the plan tells."""
    with closing(open_existing(source_url)) as source:
        target = open_storage(target_url) if _is_there(target_url) else None
        if target is None:
            return make_plan(source, None, f"embedded:{data_folder(target_url)}", choice)
        with closing(target):
            return make_plan(source, target, name_of(target), choice)


def migrate(
    source_url: str, target_url: str, choice: Choice = EVERYTHING, tell: Tell = lambda phase, done, total, stream: None
) -> Report:
    """Carry streams, events, positions of groups and states of dead letters from one log to another.

    It may be killed at any moment and run again: each event is at the target once. The events of a key keep their order within
    their lane. What comes to the source meanwhile is carried by the next run. Raises ``InvalidStateError``, before anything is
    written, with what is in the way, ``InUseError`` if a migration of the same events goes on, and what the logs raise.

    It closes both logs, also for others in this process that have one of them open.
    """
    started_s = time.monotonic()
    with closing(open_existing(source_url)) as source, closing(open_storage(target_url)) as target:
        plan = make_plan(source, target, name_of(target), choice)
        if plan.obstacles:
            raise InvalidStateError("Nothing was carried: " + "; ".join(plan.obstacles) + ".")
        carried = [(each, _pair(target, plan, each)) for each in plan.streams]
        pairs = [pair for each, pair in carried if not each.is_remade]
        names, notes = carry_groups(source, target, {each.before.tenant_id for each in plan.streams})
        waited = carry_waiting(source.log, target.log, {pair.before.stream_id: pair for pair in pairs})
        copied, known, left = _copy(source, target, plan, pairs, tell)
        lanes: list[LaneCheck] = []
        groups: list[GroupMove] = []
        letters = 0
        counter = _Counter(tell, CHECKING, 2 * sum(_span(source, pair) for pair in pairs))
        for pair in pairs:
            counter.stream = told(pair.before)
            readings = readings_of(source.log, target.log, pair, names)
            states = [LetterStates(source.log, target.log, pair)] if pair.before.name == DEAD_LETTER_STREAM else []
            check = check_stream(source, target, pair, (*readings, *states), counter)
            lanes += check.lanes
            if all(lane.agrees for lane in check.lanes):
                groups += [set_position(target.log, pair, reading, check) for reading in readings]
                for each in states:
                    each.finish()
                    letters += each.carried
        notes = [*plan.notes, *notes]
        if all(lane.agrees for lane in lanes) and source.folder == target.folder:
            done = flow_states.hand_over(source, target, (plan.source, plan.target), pairs)
            notes += [done] if done else []
        return Report(
            source=plan.source,
            target=plan.target,
            copied=copied,
            known=known,
            lanes=lanes,
            groups=groups,
            letters=letters,
            scheduled=waited,
            left=left,
            notes=notes,
            seconds=round(time.monotonic() - started_s, 3),
        )


def open_existing(url: str) -> Storage:
    """The storage of FROM. ``InvalidStateError`` if there is none: none is made."""
    if not _is_there(url):
        raise InvalidStateError(f"There is no data folder {data_folder(url)}, and so there is nothing to carry.")
    return open_storage(url)


def _is_there(url: str) -> bool:
    return url.startswith("kafka://") or (data_folder(url) / "log.db").exists()


def _pair(target: Storage, plan: Plan, each: StreamPlan) -> Pair:
    """The stream at both ends; it is made at the target if it is not there."""
    after = each.after or target.log.create_stream(each.before.config, each.before.stream_id)
    return Pair(plan.source, each.before, after)


class _Counter:
    """Adds up what is told of."""

    def __init__(self, tell: Tell, phase: str, total: int) -> None:
        self._tell = tell
        self._phase = phase
        self._total = total
        self.done = 0
        self.stream = ""

    def __call__(self, count: int) -> None:
        self.done += count
        self._tell(self._phase, self.done, max(self._total, self.done), self.stream)


def _copy(source: Storage, target: Storage, plan: Plan, pairs: list[Pair], tell: Tell) -> tuple[int, int, int]:
    """Copy all streams; ``(how many events, how many of them were known, how many more came to the source meanwhile)``."""
    counter = _Counter(tell, COPYING, sum(each.events for each in plan.streams))
    known, left = 0, 0
    for pair in pairs:
        counter.stream = told(pair.before)
        done = copy_stream(source, target, pair, counter)
        known += done.known
        ends = source.log.end_offsets(pair.before.stream_id)
        left += sum(count_events(source.log, split, done.ends[split], end) for split, end in ends.items())
    return counter.done, known, left


def _span(source: Storage, pair: Pair) -> int:
    """How many offsets a stream has, a bound of its number of events."""
    begins, ends = source.log.begin_offsets(pair.before.stream_id), source.log.end_offsets(pair.before.stream_id)
    return sum(ends.values()) - sum(begins.values())
