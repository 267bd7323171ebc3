"""What a client that consumes over HTTP has in hand: events by their positions and ids, as the client names them.

An event that is redelivered lies on its group's stream of redeliveries, and is shown at the place where it was read at first. So
it can be in hand beside the event itself, with the same id and at the same place: what names it once means one of them, the
event itself first.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from event_streaming_bus.errors import StreamNotFoundError
from event_streaming_bus.models import Event, EventPriority, Position, Split
from event_streaming_bus.store.redeliveries import is_retry_stream, redelivery_of


class Delivery(NamedTuple):
    """An event as it was handed out, and where it was read."""

    event: Event
    position: Position


class EventPlace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an event is, as clients say it. ``stream``: its name or id."""

    stream: str
    partition: int
    offset: int
    lane: EventPriority = EventPriority.NORMAL


class Shown(NamedTuple):
    """Where an event is, as clients are told it: ``stream`` is the name."""

    stream: str
    partition: int
    lane: EventPriority
    offset: int


def shown(delivery: Delivery, names: Mapping[str, str]) -> Shown:
    """Where an event is said to be: for one that is redelivered, where it was at first. ``names``: of the streams, by id."""
    event, (split, offset) = delivery
    name = names.get(split.stream_id, split.stream_id)
    told = redelivery_of(event) if is_retry_stream(name) else None
    if told is None or not {"stream", "partition", "lane", "offset"} <= told.keys():
        return Shown(name, split.partition, split.lane, offset)
    return Shown(told["stream"], told["partition"], EventPriority(told["lane"]), told["offset"])


class Hands:
    """The events in a client's hands, in the order in which they were handed out."""

    def __init__(self) -> None:
        self._events: dict[Position, Event] = {}
        self._by_id: dict[str, list[Position]] = {}
        self._redelivered: dict[Position, Shown] = {}
        self._streams: dict[str, str] = {}  # the names of the streams that redelivered events were read from, by name and id

    def __contains__(self, position: Position) -> bool:
        return position in self._events

    def add(self, delivery: Delivery, names: Mapping[str, str]) -> None:
        """An event was handed out."""
        event, position = delivery
        self._events[position] = event
        self._by_id.setdefault(event.event_id, []).append(position)
        if is_retry_stream(names.get(position.split.stream_id, "")):
            self._redelivered[position] = place = shown(delivery, names)
            stream_id = (redelivery_of(event) or {}).get("stream_id")
            self._streams |= {place.stream: place.stream} | ({} if stream_id is None else {stream_id: place.stream})

    def drop(self, position: Position) -> None:
        """The event there, if there is one, is in hand no more."""
        event = self._events.pop(position, None)
        if event is None:
            return
        self._redelivered.pop(position, None)
        places = self._by_id[event.event_id]
        places.remove(position)
        if not places:
            del self._by_id[event.event_id]

    def clear(self) -> None:
        """Nothing is in hand any more."""
        self._events.clear()
        self._by_id.clear()
        self._redelivered.clear()

    def forget(self, is_meant: Callable[[Split], bool]) -> None:
        """Nothing of these splits is in hand any more."""
        for position in [each for each in self._events if is_meant(each.split)]:
            self.drop(position)

    def chosen(
        self,
        positions: Iterable[EventPlace],
        event_ids: Iterable[str],
        up_to: Iterable[EventPlace],
        ids: Mapping[str, str],
    ) -> tuple[list[Delivery], list[Any]]:
        """The events that are meant, each once, and what is meant but not in hand, as it was said. ``ids``: of the streams that
        the member reads, by name and id. Raises ``StreamNotFoundError`` for one that is not among them.

        ``up_to`` means all of the lane up to that offset. Of redelivered events it means the one shown at that very place, and
        those shown before it that were handed out earlier than the last of the others: what comes after that the client may not
        have looked at yet.
        """
        found: dict[Position, None] = {}
        missing: list[Any] = []
        for named, places in (
            *((place, self._at(place, ids)) for place in positions),
            *((event_id, self._by_id.get(event_id, [])) for event_id in event_ids),
        ):
            position = next((each for each in places if each not in found), None)
            if position is not None:
                found[position] = None
            elif not places:
                missing.append(named)
        for last in up_to:
            found |= dict.fromkeys(self._up_to(last, ids))
        return [Delivery(self._events[each], each) for each in found], missing

    def _at(self, place: EventPlace, ids: Mapping[str, str]) -> list[Position]:
        position = self._position(place, ids)
        here = [position] if position in self._events else []
        name = self._streams.get(place.stream)
        wanted = None if name is None else Shown(name, place.partition, place.lane, place.offset)
        return here + [each for each, shown in self._redelivered.items() if shown == wanted]

    def _up_to(self, last: EventPlace, ids: Mapping[str, str]) -> list[Position]:
        end = self._position(last, ids)
        order = list(self._events)
        meant = [i for i, each in enumerate(order) if end and each.split == end.split and each.offset <= end.offset]
        until = meant[-1] if meant else -1
        wanted = [order[i] for i in meant]
        name = self._streams.get(last.stream)
        for i, each in enumerate(order if name is not None and self._redelivered else ()):
            place = self._redelivered.get(each)
            if place is None or place[:3] != (name, last.partition, last.lane):
                continue
            if place.offset == last.offset or (place.offset < last.offset and i < until):
                wanted.append(each)
        return wanted

    def _position(self, place: EventPlace, ids: Mapping[str, str]) -> Position | None:
        """Where a stream that the member reads has this place; ``None`` for one of which it has only redelivered events."""
        stream_id = ids.get(place.stream)
        if stream_id is None and place.stream not in self._streams:
            raise stream_not_read(place.stream, ids)
        return None if stream_id is None else Position(Split(stream_id, place.lane, place.partition), place.offset)


def stream_not_read(stream: str, ids: Mapping[str, str]) -> StreamNotFoundError:
    """What to tell a client that names a stream which its member does not read."""
    named = ", ".join(name for name, stream_id in ids.items() if name != stream_id)
    return StreamNotFoundError(f"This member does not read '{stream}' but {named}.", stream=stream)
