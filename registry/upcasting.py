"""Upcasting: events that were written with other versions of a stream's schema, brought to the version that the stream has
now."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import BusError, ValidationFailedError
from event_streaming_bus.models import Event, SerializationFormat, StreamInfo
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.migrations import Migration, migration_of
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.registry.tokens import MARKER_BYTES
from event_streaming_bus.store.log.base import EventLog

_MAX_KNOWN: Final = 256
_encode: Final = msgspec.json.Encoder().encode
Change = Callable[[bytes], bytes]


class Upcasted(msgspec.Struct):
    """Payloads in the version that counts, as far as they could be brought to it: ``failures`` tells by index why not. Those that
    failed are as they were."""

    data: list[bytes]
    schema_ids: list[str | None]
    failures: dict[int, Exception]


class Upcaster:
    """Brings payloads of one stream to the version of its schema that it has now.

    Between two versions, the migrations of all versions after the writer's are applied, in order. Where none is declared, Avro is
    read by the rules of schema resolution, and JSON stays as it is.
    """

    def __init__(
        self, registry: SchemaRegistryService, stream: StreamInfo, look_again: Callable[[], StreamInfo] | None = None
    ) -> None:
        self._registry = registry
        self._stream = stream
        self._look_again = look_again or (lambda: stream)
        self._reader = registry.guard_of(stream)
        self._changes: OrderedDict[str, Change | None] = OrderedDict()

    @property
    def schema_id(self) -> str | None:
        """The version that payloads are brought to."""
        return None if self._reader is None else self._reader.schema_id

    def __call__(self, schema_ids: Sequence[str | None], data: Sequence[bytes]) -> Upcasted:
        """Bring payloads to the version that counts; ``schema_ids`` tells which they were written with."""
        result = Upcasted(list(data), list(schema_ids), {})
        for i, schema_id in enumerate(schema_ids):
            if schema_id is None or schema_id == self.schema_id:
                continue
            change = self._change(schema_id)
            if change is None:
                continue
            try:
                result.data[i] = change(data[i])
                result.schema_ids[i] = self.schema_id
            except (ValueError, msgspec.DecodeError, ValidationFailedError) as error:
                told = error.message if isinstance(error, BusError) else str(error)
                result.failures[i] = ValueError(f"the payload cannot be brought to {self._told()}: {told}")
        return result

    def event(self, event: Event) -> Event:
        """An event brought to the version that counts; as it is if it cannot be."""
        upcasted = self([event.schema_id], [event.data])
        return msgspec.structs.replace(event, data=upcasted.data[0], schema_id=upcasted.schema_ids[0])

    def _change(self, schema_id: str) -> Change | None:
        """What brings payloads of a version to the one that counts; None if there is nothing to do."""
        if schema_id not in self._changes:
            self._changes[schema_id] = self._find(schema_id)
            while len(self._changes) > _MAX_KNOWN:
                self._changes.popitem(last=False)
        return self._changes[schema_id]

    def _find(self, schema_id: str) -> Change | None:
        writer = self._registry.payload_reader(schema_id)
        if writer is None:
            return None
        if self._reader is None or writer.record.version > self._reader.record.version:
            self._refresh()
        reader = self._reader
        if reader is None or reader.schema_name != writer.schema_name or reader.schema_id == schema_id:
            return None
        migrations = self._migrations(writer, reader)
        if reader.format is SerializationFormat.AVRO:
            return _avro_change(writer, reader, migrations)
        if not migrations or writer.format is SerializationFormat.AVRO:
            return None
        return lambda data: _encode(_migrated(migrations, msgspec.json.decode(data)))

    def _refresh(self) -> None:
        """Somebody writes with a newer version: the stream may have been moved to it."""
        try:
            self._stream = self._look_again()
            reader = self._registry.guard_of(self._stream)
        except BusError:  # it was dropped meanwhile: whoever reads on will be told
            return
        if reader is not None and reader.schema_id != self.schema_id:
            self._reader = reader
            self._changes.clear()

    def _migrations(self, writer: SchemaGuard, reader: SchemaGuard) -> list[Migration]:
        record = reader.record
        between = self._registry.versions_between(record, writer.record.version)
        return [migration for each in between if (migration := migration_of(each.migration)) is not None]

    def _told(self) -> str:
        record = self._reader.record if self._reader is not None else None
        return "the stream's schema" if record is None else f"{record.schema_name} {record.schema_version}"


def upcaster_of(registry: SchemaRegistryService, log: EventLog, stream: StreamInfo) -> Upcaster | None:
    """What brings the events of a stream to the version that it has, also if it is moved meanwhile; None for one without a
    schema."""
    if stream.config.schema_id is None:
        return None
    return Upcaster(registry, stream, lambda: log.find_stream(stream.tenant_id, stream.stream_id))


def _avro_change(writer: SchemaGuard, reader: SchemaGuard, migrations: Sequence[Migration]) -> Change | None:
    avro = reader.avro
    assert avro is not None  # noqa: S101 - the caller has looked

    def change(data: bytes) -> bytes:
        if migrations or writer.format is not SerializationFormat.AVRO:
            payload = _migrated(migrations, writer.read_many([data])[0])
        else:
            payload = writer.read_as(data, avro)
        written, invalid = reader.write_many([payload])
        if invalid and MARKER_BYTES in data:  # rules need not hold for what stands for a personal value
            return reader.written_anyway(payload)
        if invalid:
            raise ValidationFailedError(reader.told(payload))
        return written[0]

    return change


def _migrated(migrations: Sequence[Migration], payload: Any) -> Any:
    for migration in migrations:
        payload = migration(payload)
    return payload
