"""A candidate at work on events that are stored already: which of them it would refuse."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.models import EventPriority, SerializationFormat, Split, rfc3339
from event_streaming_bus.registry import wire
from event_streaming_bus.registry.guards import ValidationRules, encode_valid
from event_streaming_bus.registry.migrations import Migration, migration_of
from event_streaming_bus.registry.parsing import AvroDocument, JsonSchema, ParsedSchema
from event_streaming_bus.registry.protection import reveal
from event_streaming_bus.registry.replay.tally import Example, Explainer, MakeExample, Tally
from event_streaming_bus.registry.rules import RuleSet
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.registry.violations import Violation
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.capabilities import capabilities_of
from event_streaming_bus.store.log.reading import batches_between
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.schemas import SchemaRecord

_MAX_WRITERS: Final = 256
_MAX_MESSAGE: Final = 300
_READ_BYTES: Final = 4 << 20
_DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_AVRO: Final = SerializationFormat.AVRO
_decode: Final = msgspec.json.Decoder().decode


class Part(msgspec.Struct, frozen=True):
    """Events of one split: those with ``begin <= offset < end``."""

    partition: int
    lane: EventPriority
    begin: int
    end: int


class CandidateCheck:
    """A candidate, and what it takes to read events as its streams would give them to it: those that were written with an earlier
    version of the same schema are migrated, or read by the rules of schema resolution where no migration is declared."""

    def __init__(self, registry: SchemaRegistryService, record: SchemaRecord, parsed: ParsedSchema) -> None:
        self._registry = registry
        self._record = record
        self._parsed = parsed
        self._avro = parsed.schema if isinstance(parsed, AvroDocument) else None
        rules = msgspec.convert(record.validation_rules or {}, ValidationRules).business_rules
        self._rules = RuleSet(rules).rules
        self._own_migration = migration_of(record.migration)
        self._writers: OrderedDict[tuple[SerializationFormat, str | None], _Writer] = OrderedDict()

    def check(
        self, log: EventLog, stream_id: str, part: Part, examples: int, since_ms: int | None = None, until_ms: int | None = None
    ) -> Tally:
        """Check the events of a part whose time is ``since_ms`` or later, and before ``until_ms``."""
        tally = Tally(examples)
        explainer = Explainer(self._parsed, tally)
        read = 0
        split = Split(stream_id, part.lane, part.partition)
        for batch in batches_between(log, split, part.begin, part.end, _READ_BYTES, skip_dropped=True):
            read += batch.count
            wanted = _within(batch.timestamps_ms(), since_ms, until_ms)
            if wanted:
                self._check_batch(batch, wanted, tally, explainer)
        if capabilities_of(log).dense_offsets:
            tally.dropped = part.end - part.begin - read
        else:  # some offsets hold no event: what is gone is known by where the split begins by now
            tally.dropped = max(0, min(part.end, log.begin_offsets(stream_id)[split]) - part.begin)
        return tally

    def _check_batch(self, batch: RecordBatch, wanted: Sequence[int], tally: Tally, explainer: Explainer) -> None:
        tally.checked += len(wanted)
        place = _Places(batch)
        for (form, schema_id), indexes in _by_writer(batch, wanted):
            data = batch.payloads()
            if len(indexes) < len(data):
                data = [data[i] for i in indexes]
            read = self._writer(form, schema_id).read(data)
            for i, reason in read.unreadable.items():
                tally.add(Violation("", "", "unreadable", reason, "unreadable"), place(indexes[i]))
            for i, reason in read.failed.items():
                tally.add(Violation("", "", "migration", reason, "migration"), place(indexes[i]))
            tally.unreadable += len(read.unreadable)
            tally.invalid += len(read.failed)
            aside = read.unreadable.keys() | read.failed.keys()
            if aside:
                left = [i for i in range(len(data)) if i not in aside]
                self._check_values([read.values[i] for i in left], [indexes[i] for i in left], place, tally, explainer)
            else:
                self._check_values(read.values, indexes, place, tally, explainer)

    def _check_values(
        self, values: Sequence[Any], indexes: Sequence[int], place: "_Places", tally: Tally, explainer: Explainer
    ) -> None:
        if self._registry.subject_keys.is_used:  # personal values are judged, not what stands for them
            values = [reveal(self._registry.subject_keys, self._record.tenant_id, value) for value in values]
        broken, payloads = self._schema_failures(values)
        for i in broken:
            explainer.count(values[i], place(indexes[i]))
        if broken:
            aside = set(broken)
            indexes = [index for i, index in enumerate(indexes) if i not in aside]
        refused: set[int] = set()
        warned: set[int] = set()
        for rule in self._rules:
            breaking = rule.broken(payloads)
            severity = rule.rule.severity
            (warned if severity == "warning" else refused).update(breaking)
            if not breaking:
                continue
            failure = tally.failure("rule", severity, rule.rule.name, rule.path)
            if failure is None:
                tally.unlisted += len(breaking)
                continue
            failure.count += len(breaking)
            for i in breaking[: tally.examples - len(failure.examples)]:
                if (violation := rule.violation(payloads[i])) is not None:
                    failure.examples.append(place(indexes[i])(violation.message))
        tally.invalid += len(broken) + len(refused)
        tally.warnings += len(warned)

    def _schema_failures(self, values: Sequence[Any]) -> tuple[list[int], list[dict[str, Any]]]:
        """``(the indexes of those that break the schema, the others as rules see them)``."""
        if isinstance(self._parsed, JsonSchema):
            is_valid = self._parsed.validator.is_valid
            broken = [i for i, value in enumerate(values) if not is_valid(value)]
            if not self._rules:
                return broken, []
            if broken:
                aside = set(broken)
                values = [value for i, value in enumerate(values) if i not in aside]
        else:
            broken, values = self._encoded(values)
        return broken, [value if value.__class__ is dict else {} for value in values]

    def _encoded(self, values: Sequence[Any]) -> tuple[list[int], list[Any]]:
        avro = self._avro
        assert avro is not None  # noqa: S101 - there are two formats
        written, broken = encode_valid(avro, values)
        if not self._rules:
            return broken, []
        aside = set(broken)
        return broken, avro.decode_many([data for i, data in enumerate(written) if i not in aside])

    # --- reading ------------------------------------------------------------------------------------------------------

    def _writer(self, form: SerializationFormat, schema_id: str | None) -> "_Writer":
        key = (form, schema_id)
        if key not in self._writers:
            self._writers[key] = self._find_writer(form, schema_id)
            while len(self._writers) > _MAX_WRITERS:
                self._writers.popitem(last=False)
        return self._writers[key]

    def _find_writer(self, form: SerializationFormat, schema_id: str | None) -> "_Writer":
        guard = None if schema_id is None else self._registry.payload_reader(schema_id)
        is_earlier = (
            guard is not None
            and guard.schema_name == self._record.schema_name
            and guard.record.tenant_id == self._record.tenant_id
            and guard.record.version < self._record.version
        )
        migrations = self._migrations(guard.record.version) if is_earlier and guard is not None else []
        if form is not _AVRO:
            return _Writer(lambda data: list(map(_decode, data)), migrations)
        if guard is None or guard.avro is None:
            return _Writer(_unknown(schema_id), [])
        resolved: Callable[[Sequence[bytes]], list[Any]] | None = None
        if is_earlier and not migrations and self._avro is not None:
            writer, reader = guard.avro, self._avro

            def resolved(data: Sequence[bytes]) -> list[Any]:
                return writer.decode_many(data, reader, offset=wire.PREFIX_BYTES)

        return _Writer(guard.read_many, migrations, resolved)

    def _migrations(self, after_version: int) -> list[Migration]:
        """What is applied, in order, to a payload of an earlier version."""
        last = msgspec.structs.replace(self._record, version=self._record.version - 1)
        between = [migration_of(each.migration) for each in self._registry.versions_between(last, after_version)]
        return [migration for migration in (*between, self._own_migration) if migration is not None]


class _Read(msgspec.Struct):
    """Payloads as values; ``unreadable`` and ``failed`` tell by index why some are none."""

    values: list[Any]
    unreadable: dict[int, str]
    failed: dict[int, str]


class _Writer:
    """How payloads of one version are read: ``plain`` as they were written, ``resolved`` as the candidate has them."""

    def __init__(
        self,
        plain: Callable[[Sequence[bytes]], list[Any]],
        migrations: Sequence[Migration],
        resolved: Callable[[Sequence[bytes]], list[Any]] | None = None,
    ) -> None:
        self._plain = plain
        self._migrations = migrations
        self._resolved = resolved

    def read(self, data: Sequence[bytes]) -> _Read:
        """The payloads, migrated."""
        read = _Read([], {}, {})
        try:
            read.values = (self._resolved or self._plain)(data)
        except (*_DECODE_ERRORS, ValueError):
            for i, each in enumerate(data):  # one by one: most of them can be read
                self._read_one(i, each, read)
        if self._migrations:
            for i, value in enumerate(read.values):
                if i not in read.unreadable and i not in read.failed:
                    self._migrate(i, value, read)
        return read

    def _read_one(self, i: int, data: bytes, read: _Read) -> None:
        read.values.append(None)
        try:
            read.values[i] = self._plain([data])[0]
        except (*_DECODE_ERRORS, ValueError) as error:
            read.unreadable[i] = str(error)
            return
        if self._resolved is not None:
            try:
                read.values[i] = self._resolved([data])[0]
            except ValueError as error:
                read.failed[i] = f"cannot be read with the new version: {error}"

    def _migrate(self, i: int, value: Any, read: _Read) -> None:
        try:
            for migration in self._migrations:
                value = migration(value)
        except ValueError as error:
            read.failed[i] = str(error)
        else:
            read.values[i] = value


def _unknown(schema_id: str | None) -> Callable[[Sequence[bytes]], list[Any]]:
    def read(data: Sequence[bytes]) -> list[Any]:
        raise msgspec.DecodeError(f"the schema {schema_id} that the payload was written with is not known here")

    return read


def _by_writer(
    batch: RecordBatch, wanted: Sequence[int]
) -> Iterator[tuple[tuple[SerializationFormat, str | None], Sequence[int]]]:
    """The wanted events by format and by the schema they were written with."""
    same_form, form = batch.constant("serialization_format")
    same_schema, schema_id = batch.constant("schema_id")
    if same_form and same_schema:
        yield (form, schema_id), wanted
        return
    forms, schema_ids = batch.column("serialization_format"), batch.column("schema_id")
    groups: dict[tuple[SerializationFormat, str | None], list[int]] = {}
    for i in wanted:
        groups.setdefault((forms[i], schema_ids[i]), []).append(i)
    yield from groups.items()


def _within(times_ms: Sequence[int], since_ms: int | None, until_ms: int | None) -> Sequence[int]:
    """The indexes of the times within bounds."""
    if (since_ms is None or min(times_ms) >= since_ms) and (until_ms is None or max(times_ms) < until_ms):
        return range(len(times_ms))
    return [
        i
        for i, at_ms in enumerate(times_ms)
        if (since_ms is None or at_ms >= since_ms) and (until_ms is None or at_ms < until_ms)
    ]


class _Places:
    """Where the events of a batch are."""

    def __init__(self, batch: RecordBatch) -> None:
        self._batch = batch

    def __call__(self, index: int) -> MakeExample:
        """What makes an example of the event at ``index``, of the message."""
        batch = self._batch

        def example(message: str) -> Example:
            shown = message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 1]}…"
            event_id, at_ms = batch.column("event_id")[index], batch.timestamps_ms()[index]
            split = batch.split
            return Example(event_id, split.partition, split.lane, batch.offset + index, rfc3339(at_ms), shown)

        return example
