"""Events in columns, for tests: also few of them, which the log itself would leave as they are."""

from collections.abc import Sequence

from event_streaming_bus.models import Event
from event_streaming_bus.store.log.event_columns import Column, EventColumns, Same


def in_columns(events: Sequence[Event]) -> EventColumns:
    """The same events, with ``Same`` wherever all values are one and the same object."""
    columns: dict[str, Column] = {}
    for name in Event.__struct_fields__:
        values = [getattr(event, name) for event in events]
        is_same = events and all(value is values[0] for value in values)
        columns[name] = Same(values[0]) if is_same else values
    return EventColumns(columns, len(events))
