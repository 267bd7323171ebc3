"""Deliveries: events as a stream keeps them, in the format of its schema, and checked against it."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.models import Event, SerializationFormat
from event_streaming_bus.registry.guards import SchemaGuard

_JSON: Final = SerializationFormat.JSON
_AVRO: Final = SerializationFormat.AVRO
_encode: Final = msgspec.json.Encoder().encode


def delivered(guard: SchemaGuard | None, events: Sequence[Event]) -> tuple[list[Event], list[int]]:
    """``(the events as a stream with this guard keeps them, the indexes of those that it refuses)``.

    Payloads are written in the format of the guard's schema, or as JSON without one. What is in the right format by the very same
    version of the schema stays as it is, and so does the ``schema_id`` of what is JSON already. A refused event, which may also
    be one whose payload cannot be read, is as it was.
    """
    made = list(events)
    if guard is not None and guard.format is _AVRO:
        return _as_avro(guard, made)
    schema_id = None if guard is None else guard.schema_id
    unreadable = _make_json(made, [i for i, event in enumerate(made) if event.serialization_format is not _JSON], schema_id)
    if guard is None:
        return made, unreadable
    payloads: list[Any] = []
    unreadable += [i for i, event in enumerate(made) if not _read(event, payloads) and i not in unreadable]
    return made, sorted({*guard.check_many(payloads), *unreadable})


def _as_avro(guard: SchemaGuard, made: list[Event]) -> tuple[list[Event], list[int]]:
    other = [i for i, event in enumerate(made) if event.serialization_format is not _AVRO or event.schema_id != guard.schema_id]
    payloads: list[Any] = []
    unreadable = [i for i in other if not _read(made[i], payloads)]
    written, invalid = guard.write_many(payloads)
    refused = {*(other[i] for i in invalid), *unreadable}
    for i, data in zip(other, written, strict=True):
        if i not in refused:
            made[i] = msgspec.structs.replace(made[i], data=data, serialization_format=_AVRO, schema_id=guard.schema_id)
    return made, sorted(refused)


def _make_json(made: list[Event], indexes: Sequence[int], schema_id: str | None) -> list[int]:
    """Write the payloads at ``indexes`` as JSON; returns the indexes of those that cannot be read."""
    unreadable = []
    for i in indexes:
        try:
            data = _encode(made[i].payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            unreadable.append(i)
            continue
        made[i] = msgspec.structs.replace(made[i], data=data, serialization_format=_JSON, schema_id=schema_id)
    return unreadable


def _read(event: Event, payloads: list[Any]) -> bool:
    """Add the event's payload to ``payloads``, or None if it cannot be read; whether it can."""
    try:
        payloads.append(event.payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        payloads.append(None)
        return False
    return True


def for_schema(event: Event, schema_id: str | None) -> Event:
    """The event as one of a stream that has this schema. What is not JSON needs the schema that it was written with to be
    read, and keeps it until it is written anew."""
    if event.serialization_format is not _JSON:
        return event
    return msgspec.structs.replace(event, schema_id=schema_id)
