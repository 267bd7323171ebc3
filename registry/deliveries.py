"""Deliveries: events as a stream keeps them, in the format of its schema, and checked against it."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import ValidationFailedError
from event_streaming_bus.models import Event, SerializationFormat
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.protection import Checked, checked, resealed

_JSON: Final = SerializationFormat.JSON
_AVRO: Final = SerializationFormat.AVRO
_encode: Final = msgspec.json.Encoder().encode


def delivered(guard: SchemaGuard | None, events: Sequence[Event], *, moves: bool = False) -> tuple[list[Event], list[int]]:
    """``(the events as a stream with this guard keeps them, the indexes of those that it refuses)``.

    Payloads are written in the format of the guard's schema, or as JSON without one. What is in the right format by the very same
    version of the schema stays as it is, and so does the ``schema_id`` of what is JSON already. A refused event, which may also
    be one whose payload cannot be read, is as it was.

    Tokens of personal values are judged by what they stand for, and written as they are; values that the schema marks as personal
    are replaced by tokens. With ``moves``, which is for what a flow has made, a token may have come from another field to one
    that is personal too.
    """
    made = list(events)
    if guard is not None and made and guard.is_concerned(event.data for event in made):
        return _personal(guard, made, moves)
    if guard is not None and guard.format is _AVRO:
        return _as_avro(guard, made)
    schema_id = None if guard is None else guard.schema_id
    unreadable = _make_json(made, [i for i, event in enumerate(made) if event.serialization_format is not _JSON], schema_id)
    if guard is None:
        return made, unreadable
    payloads: list[Any] = []
    unreadable += [i for i, event in enumerate(made) if not _read(event, payloads) and i not in unreadable]
    return made, sorted({*guard.check_many(payloads), *unreadable})


def told_of_refused(guard: SchemaGuard, event: Event, *, moves: bool = False) -> str:
    """Why a stream with this guard refuses an event, by what its tokens stand for. Raises ``msgspec.DecodeError``."""
    if not guard.is_concerned((event.data,)):
        return guard.told(event.payload)
    try:
        payload = checked(guard.keys.finder(event.tenant_id), guard, event, moves=moves)
    except ValidationFailedError as error:
        return error.message
    # What it tells is kept with the dead letter: with schemas that have no personal fields, only what the event itself shows.
    told = guard.told(payload.plain if guard.personal is not None else payload.kept)
    return told or "a value that is personal where it comes from has no room for encrypted text here"


def _personal(guard: SchemaGuard, made: list[Event], moves: bool) -> tuple[list[Event], list[int]]:
    """As ``delivered``, where personal values may be about."""
    tenant_id = made[0].tenant_id
    find = guard.keys.finder(tenant_id)
    payloads: dict[int, Checked] = {}
    for i, event in enumerate(made):
        with suppress(msgspec.DecodeError, UnicodeDecodeError, ValidationFailedError):
            payloads[i] = checked(find, guard, event, moves=moves)
    readable = list(payloads)
    for place in guard.check_many([payloads[i].plain for i in readable]):
        payload = payloads[readable[place]]
        # What was erased can break the schema in the place of what it was, which is nobody's fault.
        if not payload.erased or any(not _is_at(v.pointer, payload.erased) for v in guard.check(payload.plain)):
            del payloads[readable[place]]
    readable = list(payloads)
    for i, value in zip(readable, resealed(guard.keys, tenant_id, list(payloads.values())), strict=True):
        event = made[i]
        if guard.format is _AVRO:
            if value is payloads[i].given and event.serialization_format is _AVRO and event.schema_id == guard.schema_id:
                continue
            try:
                data = guard.written_anyway(value)
            except ValidationFailedError:  # a token of another stream in a field that is no text
                del payloads[i]
                continue
            made[i] = msgspec.structs.replace(event, data=data, serialization_format=_AVRO, schema_id=guard.schema_id)
        # Written anew even if there is nothing to replace: of members with the same name, only the last one was looked at.
        elif guard.personal is not None or value is not payloads[i].given or event.serialization_format is not _JSON:
            schema_id = event.schema_id if event.serialization_format is _JSON else guard.schema_id
            made[i] = msgspec.structs.replace(event, data=_encode(value), serialization_format=_JSON, schema_id=schema_id)
    return made, [i for i in range(len(made)) if i not in payloads]


def _is_at(pointer: str, places: Sequence[str]) -> bool:
    """Whether a pointer leads to one of the places, or into it."""
    return any(pointer == place or pointer.startswith(f"{place}/") for place in places)


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
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            unreadable.append(i)
            continue
        made[i] = msgspec.structs.replace(made[i], data=data, serialization_format=_JSON, schema_id=schema_id)
    return unreadable


def _read(event: Event, payloads: list[Any]) -> bool:
    """Add the event's payload to ``payloads``, or None if it cannot be read; whether it can."""
    try:
        payloads.append(event.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        payloads.append(None)
        return False
    return True


def for_schema(event: Event, schema_id: str | None) -> Event:
    """The event as one of a stream that has this schema. What is not JSON needs the schema that it was written with to be
    read, and keeps it until it is written anew."""
    if event.serialization_format is not _JSON:
        return event
    return msgspec.structs.replace(event, schema_id=schema_id)
