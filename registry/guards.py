"""Guards: a schema and its business rules at work on payloads."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import StorageError, ValidationFailedError
from event_streaming_bus.models import SerializationFormat, rfc3339
from event_streaming_bus.registry import wire
from event_streaming_bus.registry.avro.schema import AvroSchema
from event_streaming_bus.registry.parsing import AvroDocument, JsonSchema, ParsedSchema
from event_streaming_bus.registry.personal import PersonalFields
from event_streaming_bus.registry.registry_errors import DeprecatedSchemaError
from event_streaming_bus.registry.rules import BusinessRule, RuleSet
from event_streaming_bus.registry.tokens import MARKER_BYTES
from event_streaming_bus.registry.violations import Violation
from event_streaming_bus.store.schemas import SchemaRecord
from event_streaming_bus.store.subject_keys import SubjectKeys

_TELLS_NAMES: Final = ("required", "dependentRequired", "additionalProperties")
"""Keywords whose messages have names of fields, and no values."""


class ValidationRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules beside the schema."""

    business_rules: list[BusinessRule] = []


class SchemaGuard:
    """A version of a schema, with its business rules, compiled. Payloads are JSON values; for an Avro schema, native Python
    values (``datetime``, ``Decimal``, ``bytes`` and so on) are accepted too."""

    def __init__(self, record: SchemaRecord, parsed: ParsedSchema, keys: SubjectKeys | None = None) -> None:
        self.record = record
        self.schema_id = record.schema_id
        self.schema_name = record.schema_name
        self.schema_version = record.schema_version
        self.format = SerializationFormat(record.format)
        self._parsed = parsed
        self._keys = keys
        self._prefix = wire.prefix(record.id)
        rules = msgspec.convert(record.validation_rules or {}, ValidationRules)
        self._rules = RuleSet(rules.business_rules)

    @property
    def avro(self) -> AvroSchema | None:
        """The Avro schema; None for one of another format."""
        return self._parsed.schema if isinstance(self._parsed, AvroDocument) else None

    @property
    def personal(self) -> PersonalFields | None:
        """The fields that the schema marks as personal; None if it marks none."""
        return self._parsed.personal

    @property
    def keys(self) -> SubjectKeys:
        """The keys of those whose personal data payloads have. Raises ``StorageError`` without any: nothing personal may be
        written in the clear for want of them."""
        if self._keys is None:
            raise StorageError(f"There are no keys for the personal fields of schema {self.schema_name}.")
        return self._keys

    def is_concerned(self, payloads: Iterable[bytes]) -> bool:
        """Whether payloads, as they are written, may have personal values, or values that are personal for this schema."""
        if self.personal is not None:
            return True
        return self._keys is not None and any(MARKER_BYTES in data for data in payloads) and self._keys.is_used

    def check(self, payload: object) -> list[Violation]:
        """What is wrong with a payload: what breaks the schema, or if nothing does, the rules; warnings included."""
        found = self._parsed.violations(payload)
        if found or not self._rules.rules:
            return found
        if (avro := self.avro) is not None:
            payload = avro.decode(avro.encode(payload))  # rules see JSON values, and defaults where fields are missing
        return self._rules.violations(payload if isinstance(payload, Mapping) else {})

    def told(self, payload: object, most: int = 5) -> str:
        """What is wrong with a payload, as text: the first ``most`` violations with their places. It is kept with dead letters,
        so for a schema with personal fields it shows no values: what breaks the schema may be personal wherever it is."""
        found = self.check(payload)[:most]
        if self.personal is not None:
            found = [v if v.rule in _TELLS_NAMES and v.kind == "schema" else _without_value(v) for v in found]
        return "; ".join(f"{v.path or '(the payload itself)'}: {v.message}" for v in found)

    def check_many(self, payloads: Sequence[object]) -> list[int]:
        """The indexes of the payloads that are not valid."""
        if not isinstance(self._parsed, JsonSchema):
            return self.write_many(payloads)[1]
        valid = self._parsed.validator.is_valid
        invalid = [i for i, payload in enumerate(payloads) if not valid(payload)]
        return invalid if not self._rules.rules else sorted(self._rules.broken(_objects(payloads)).union(invalid))

    def write_many(self, payloads: Sequence[object]) -> tuple[list[bytes], list[int]]:
        """``(the payloads as bytes, the indexes of those that are not valid)``, for an Avro schema: in the wire format. What
        is not valid becomes empty bytes."""
        avro = self.avro
        assert avro is not None  # noqa: S101 - only asked of those
        written, invalid = encode_valid(avro, payloads, self._prefix)
        if not self._rules.rules:
            return written, invalid
        # Rules see JSON values, and defaults where fields are missing: those of their fields that were just written.
        aside = set(invalid)
        valid = [i for i in range(len(written)) if i not in aside]
        values = self.read_many([written[i] for i in valid], self._rules.fields)
        return written, sorted([*invalid, *(valid[i] for i in self._rules.broken(_objects(values)))])

    def written_anyway(self, payload: object) -> bytes:
        """A payload as bytes, for an Avro schema, whether or not it keeps the rules. Raises ``ValidationFailedError``."""
        avro = self.avro
        assert avro is not None  # noqa: S101 - only asked of those
        return avro.encode_many([payload], self._prefix)[0]

    def read_many(self, data: Sequence[bytes], fields: frozenset[str] | None = None) -> list[Any]:
        """The payloads of data that was written with this version. Raises ``msgspec.DecodeError`` if one is damaged.

        ``fields``: those of their top-level fields that are wanted; others may be missing from what is returned.
        """
        avro = self.avro
        if avro is None:
            return list(map(msgspec.json.decode, data))
        if not all(map(wire.has_prefix, data)):
            raise msgspec.DecodeError("the payload is not in the wire format: a zero byte and the schema's id are missing")
        try:
            reader = None if fields is None else avro.projected(fields)
            return avro.decode_many(data, reader, offset=wire.PREFIX_BYTES)
        except ValueError as error:
            raise msgspec.DecodeError(str(error)) from error

    def read_as(self, data: bytes, reader: AvroSchema) -> Any:
        """A payload that was written with this version, read by the rules of schema resolution. Raises
        ``msgspec.DecodeError``."""
        avro = self.avro
        assert avro is not None  # noqa: S101 - only asked of those
        try:
            return avro.decode(data, reader, offset=wire.PREFIX_BYTES)
        except ValueError as error:
            raise msgspec.DecodeError(str(error)) from error

    def check_producer(self, now_ms: int | None = None) -> None:
        """Raise ``DeprecatedSchemaError`` if nothing new may be written with this version."""
        record = self.record
        if not record.is_active:
            raise DeprecatedSchemaError(f"schema {record.schema_name} {record.schema_version} is not active; activate it first")
        deprecation = record.deprecation
        if deprecation is None or deprecation.refuse_after_ms is None:
            return
        if (now_ms if now_ms is not None else time.time_ns() // 1_000_000) >= deprecation.refuse_after_ms:
            told = f": {deprecation.message}" if deprecation.message else ""
            raise DeprecatedSchemaError(
                f"schema {record.schema_name} {record.schema_version} is deprecated and takes no new events since "
                f"{rfc3339(deprecation.refuse_after_ms)}; use a newer version{told}"
            )


def _without_value(broken: Violation) -> Violation:
    what = "the rule" if broken.kind == "rule" else "the schema's"
    return msgspec.structs.replace(
        broken, message=f"breaks {what} {broken.rule!r}; what is there may be personal, and is not shown"
    )


def _objects(payloads: Sequence[object]) -> Sequence[Mapping[str, Any]]:
    """The payloads as rules see them: what is no object has no fields."""
    if all(payload.__class__ is dict for payload in payloads):
        return payloads  # type: ignore[return-value]
    return [payload if isinstance(payload, Mapping) else {} for payload in payloads]


def encode_valid(avro: AvroSchema, payloads: Sequence[object], prefix: bytes = b"") -> tuple[list[bytes], list[int]]:
    """``(the payloads as Avro, each after the prefix, the indexes of those that do not fit the schema)``. What does not fit
    becomes empty bytes."""
    written: list[bytes] = []
    invalid: list[int] = []
    while len(written) < len(payloads):
        begin = len(written)
        try:
            written += avro.encode_many(payloads[begin:] if begin else payloads, prefix)
        except ValidationFailedError as error:
            bad = begin + int(error.details["index"])
            written += avro.encode_many(payloads[begin:bad], prefix)
            written.append(b"")
            invalid.append(bad)
    return written, invalid
