"""Where a consumer group is to go on reading: what is asked for, checked, and what it comes to for each split."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias

from event_streaming_bus.consumers.lag import position_of, reset_of, streams_of
from event_streaming_bus.consumers.model import Group
from event_streaming_bus.errors import InvalidInputError, OffsetOutOfRangeError
from event_streaming_bus.models import LANES, EventPriority, Split, StreamInfo, time_ms
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.redeliveries import is_retry_stream

_ACCEPTED: Final = '"earliest", "latest", {"offset": 0} or {"timestamp": "2025-01-26T10:00:00Z"}'


class Place(StrEnum):
    """A place in every split."""

    EARLIEST = "earliest"
    LATEST = "latest"


class AtOffset(NamedTuple):
    """The event with this offset."""

    offset: int


class AtTime(NamedTuple):
    """The first event with this event time or a later one; behind the last event if there is none."""

    time_ms: int


Target: TypeAlias = Place | AtOffset | AtTime


class Effect(StrEnum):
    """What a move means for the events between: they are read again, or never."""

    READ_AGAIN = "READ_AGAIN"
    SKIPPED = "SKIPPED"
    UNCHANGED = "UNCHANGED"


class Move(NamedTuple):
    """What a reset does to a split. ``position`` is where the group goes on without it, ``offset`` where with it."""

    split: Split
    stream: str
    committed: int | None
    position: int
    offset: int
    end_offset: int

    @property
    def effect(self) -> Effect:
        if self.offset == self.position:
            return Effect.UNCHANGED
        return Effect.READ_AGAIN if self.offset < self.position else Effect.SKIPPED

    @property
    def events(self) -> int:
        """How many events are read again or skipped."""
        return abs(self.offset - self.position)

    @property
    def is_empty(self) -> bool:
        """Whether the split has never held an event, as most lanes have not."""
        return self.end_offset == 0


def read_target(to: object) -> Target:
    """The target that ``to`` says: ``"earliest"``, ``"latest"``, ``{"offset": n}`` or ``{"timestamp": ...}``, a time being RFC
    3339 text, epoch milliseconds or a datetime. Raises ``InvalidInputError`` naming the place."""
    match to:
        case Place():
            return to
        case str() if to in list(Place):
            return Place(to)
        case {"offset": bool()}:
            pass
        case {"offset": int(offset), **more} if not more:
            if offset < 0:
                raise InvalidInputError(f"to.offset: expected 0 or more, got {offset}")
            return AtOffset(offset)
        case {"timestamp": at, **more} if not more:
            try:
                return AtTime(time_ms(at))
            except InvalidInputError as error:
                raise InvalidInputError(f"to.timestamp: {error.message.removeprefix('timestamp: ')}") from None
    raise InvalidInputError(f"to: expected {_ACCEPTED}, got {to!r}")


def chosen_splits(
    log: EventLog,
    group: Group,
    committed: Mapping[Split, int],
    target: Target,
    streams: Sequence[str] | None,
    partitions: Sequence[int] | None,
    lanes: Sequence[str] | None,
) -> list[tuple[StreamInfo, Split]]:
    """The splits that are meant: of the streams named, by name or id, or of all that the group reads; of the partitions and lanes
    named, or of all. An offset is not meant for the group's stream of redeliveries unless that is named. Raises
    ``StreamNotFoundError``, and ``InvalidInputError`` naming the place."""
    for name, value in (("streams", streams), ("partitions", partitions), ("lanes", lanes)):
        if isinstance(value, str | int):  # a text is a sequence, too, of its characters
            raise InvalidInputError(f"{name}: expected a list, got {value!r}")
    if streams is None:
        infos = streams_of(log, group, committed)
        if isinstance(target, AtOffset):
            infos = [info for info in infos if not is_retry_stream(info.name)]
        if not infos:
            raise InvalidInputError(f"streams: the group {group.name} has read no stream yet, so say which ones are meant")
    else:
        infos = list({info.stream_id: info for info in (log.find_stream(group.tenant_id, each) for each in streams)}.values())
        if not infos:
            raise InvalidInputError("streams: expected at least one, or leave it out for all that the group reads")
    most = max(info.config.partitions for info in infos)
    for partition in partitions or ():
        if not 0 <= partition < most:
            named = ", ".join(info.name for info in infos)
            raise InvalidInputError(f"partitions: expected 0 to {most - 1}, the partitions of {named}, got {partition}")
    wanted = set(LANES) if lanes is None else {_lane(lane) for lane in lanes}
    splits = [
        (info, split)
        for info in infos
        for split in info.splits()
        if (partitions is None or split.partition in partitions) and split.lane in wanted
    ]
    if not splits:
        raise InvalidInputError("partitions, lanes: expected at least one, or leave them out for all")
    return splits


def moves(
    log: EventLog, group: Group, splits: Sequence[tuple[StreamInfo, Split]], committed: Mapping[Split, int], target: Target
) -> list[Move]:
    """What a reset to ``target`` does to each split. An offset is meant for splits that hold or have held events, and
    ``OffsetOutOfRangeError`` names the first that has no such one."""
    begins: dict[Split, int] = {}
    ends: dict[Split, int] = {}
    for stream_id in {split.stream_id for _, split in splits}:
        begins |= log.begin_offsets(stream_id)
        ends |= log.end_offsets(stream_id)
    found = []
    for info, split in splits:
        begin, end = begins[split], ends[split]
        if isinstance(target, AtOffset) and end == 0 and len(splits) > 1:
            continue
        offset = _offset(log, info, split, begin, end, target)
        position = position_of(committed.get(split), begin, end, reset_of(group, info))
        found.append(Move(split, info.name, committed.get(split), position, offset, end))
    if not found:
        raise InvalidInputError("to.offset: none of the splits that are meant holds an event")
    return found


def move_data(move: Move) -> dict[str, Any]:
    """A move as plain data."""
    return {
        "stream": move.stream,
        "stream_id": move.split.stream_id,
        "partition": move.split.partition,
        "lane": move.split.lane.value,
        "committed": move.committed,
        "current_offset": move.position,
        "new_offset": move.offset,
        "events": move.events,
        "effect": move.effect.value,
    }


def _offset(log: EventLog, info: StreamInfo, split: Split, begin: int, end: int, target: Target) -> int:
    match target:
        case Place.EARLIEST:
            return begin
        case Place.LATEST:
            return end
        case AtOffset(offset):
            if not begin <= offset <= end:
                raise OffsetOutOfRangeError(
                    f"to.offset: partition {split.partition} of {info.name}, lane {split.lane.value}, takes the offsets "
                    f"{begin:,} to {end:,}, the last one for its end; got {offset:,}",
                    begin=begin,
                    end=end,
                )
            return offset
        case AtTime(at_ms):
            return _offset_at(log, split, at_ms)
    raise AssertionError(target)


def _offset_at(log: EventLog, split: Split, at_ms: int) -> int:
    """The offset of the first event at or after a time. The log knows the record batch that has it; all before are older."""
    offset = log.offset_for_time(split, at_ms)
    for batch in log.read(split, offset, 1)[:1]:
        for i, timestamp_ms in enumerate(batch.timestamps_ms()):
            if timestamp_ms >= at_ms:
                return batch.offset + i
    return offset


def _lane(text: str) -> EventPriority:
    try:
        return EventPriority(text.upper())
    except ValueError:
        raise InvalidInputError(f"lanes: expected {', '.join(LANES)}, got {text!r}") from None
