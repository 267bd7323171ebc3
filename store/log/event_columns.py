"""Events in columns, on their way into the log: what a flow makes of a batch, without an object for each event."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from operator import attrgetter, itemgetter
from typing import Any, Final, overload

import msgspec

from event_streaming_bus.models import CompressionType, Event

_FIELDS: Final = Event.__struct_fields__
_MANY: Final = 64
"""From so many events on, putting them in columns costs less than looking at them again for each field."""


class Same:
    """A column whose values are all ``value``, the very same one."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


Column = Sequence[Any] | Same
"""The values of a field, in order."""


class EventColumns(Sequence[Event]):
    """So many events as one column for each field of the envelope: its values in order, or ``Same``. It is not to be changed.

    Whoever asks for an event has them all made, once. ``packed`` is for who packs them: the codec, and what came of it.
    """

    __slots__ = ("_columns", "_count", "_events", "_pieces", "packed")

    def __init__(self, columns: Mapping[str, Column], count: int) -> None:
        self._columns = columns
        self._count = count
        self._events: list[Event] | None = None
        self._pieces: tuple[int, list[EventColumns]] | None = None
        self.packed: tuple[CompressionType, bytes] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> "EventColumns": ...

    def __getitem__(self, index: int | slice) -> "Event | EventColumns":
        if isinstance(index, slice):
            cut = {name: v if v.__class__ is Same else v[index] for name, v in self._columns.items()}  # type: ignore[index]
            return EventColumns(cut, len(range(self._count)[index]))
        return self.events()[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events())

    def __eq__(self, other: object) -> bool:
        return self.events() == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def events(self) -> list[Event]:
        """The events one by one."""
        if self._events is None:
            self._events = list(map(Event, *(self._values(name) for name in _FIELDS)))
        return self._events

    def _values(self, name: str) -> Iterable[Any]:
        values = self._columns[name]
        return repeat(values.value, self._count) if isinstance(values, Same) else values

    def column(self, name: str) -> Column:
        """The values of a field."""
        return self._columns[name]

    def pieces(self, size: int) -> "list[EventColumns]":
        """Cut into pieces of ``size`` events, the last one of fewer: the very same ones each time."""
        if self._count <= size:
            return [self]
        if self._pieces is None or self._pieces[0] != size:
            self._pieces = size, [self[i : i + size] for i in range(0, self._count, size)]
        return self._pieces[1]

    def picked(self, indexes: Sequence[int]) -> "EventColumns":
        """The events at ``indexes``."""
        found = {name: v if isinstance(v, Same) else picked(v, indexes) for name, v in self._columns.items()}
        return EventColumns(found, len(indexes))


def events_of(columns: Mapping[str, Column], count: int) -> Sequence[Event]:
    """So many events, of one column for each field: in columns, few of them one by one."""
    made = EventColumns(columns, count)
    return made if count >= _MANY else made.events()


def in_columns(events: Sequence[Event]) -> Sequence[Event]:
    """The events in columns, for who looks at them field by field; few of them as they are."""
    if len(events) < _MANY or isinstance(events, EventColumns):
        return events
    columns: dict[str, Column] = {}
    for name, values in zip(_FIELDS, zip(*map(msgspec.structs.astuple, events), strict=True), strict=True):
        # Metadata may be equal and not the same, as ``1`` and ``True`` within it are; who writes it looks closer.
        is_same = values.count(values[0]) == len(values) and (name != "metadata" or values[0] is None)
        columns[name] = Same(values[0]) if is_same else values
    made = EventColumns(columns, len(events))
    made._events = list(events)
    return made


def picked(values: Sequence[Any], indexes: Sequence[int]) -> Sequence[Any]:
    """The values at ``indexes``."""
    if len(indexes) < 2:
        return [values[i] for i in indexes]
    found: tuple[Any, ...] = itemgetter(*indexes)(values)
    return found


def column_of(events: Sequence[Event], name: str) -> Sequence[Any]:
    """The values of a field of events in any form."""
    if isinstance(events, EventColumns):
        values = events.column(name)
        return [values.value] * len(events) if isinstance(values, Same) else values
    return list(map(attrgetter(name), events))


def different(events: Sequence[Event], name: str) -> set[Any]:
    """The different values of a field, which must be hashable."""
    if isinstance(events, EventColumns):
        values = events.column(name)
        return {values.value} if isinstance(values, Same) else set(values)
    return set(map(attrgetter(name), events))


def selected(events: Sequence[Event], indexes: Sequence[int]) -> Sequence[Event]:
    """The events at ``indexes``, in ascending order and each once."""
    if len(indexes) == len(events):
        return events
    return events.picked(indexes) if isinstance(events, EventColumns) else [events[i] for i in indexes]


def joined(parts: Sequence[Sequence[Event]]) -> Sequence[Event]:
    """All events of the parts, one behind the other. In columns if all of them are."""
    if len(parts) == 1:
        return parts[0]
    if not all(isinstance(part, EventColumns) for part in parts):
        return list(chain.from_iterable(parts))
    return EventColumns({name: _joined(parts, name) for name in _FIELDS}, sum(map(len, parts)))


def _joined(parts: Sequence[Sequence[Event]], name: str) -> Column:
    columns = [part.column(name) for part in parts if isinstance(part, EventColumns)]
    first = columns[0] if columns else Same(None)
    if isinstance(first, Same) and all(isinstance(each, Same) and each.value is first.value for each in columns):
        return first
    return list(chain.from_iterable(column_of(part, name) for part in parts))
