"""What clients of a Confluent registry ask: a request taken apart, with its context, its numbers, its flags and its schema."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import msgspec

from event_streaming_bus.api.confluent.errors import INVALID_SCHEMA, SCHEMA_TOO_LARGE, Refusal
from event_streaming_bus.api.confluent.rule_sets import check_metadata, check_rule_set, told
from event_streaming_bus.errors import InvalidInputError, NotFoundError, SchemaError
from event_streaming_bus.registry.parsing import FORMATS
from event_streaming_bus.registry.registry_errors import InvalidVersionError
from event_streaming_bus.registry.subjects import LATEST, Subjects
from event_streaming_bus.store.schemas import SchemaReference, SchemaText

MAX_BODY_BYTES: Final = 2 << 20
_MAX_SCHEMA_BYTES: Final = 1 << 20
_MAX_NUMBER: Final = (1 << 31) - 1
_GLOBAL: Final = ":.__GLOBAL:"
_DEFAULT: Final = ":.:"
T = TypeVar("T")


class Call(msgspec.Struct, frozen=True):
    """A request. ``context`` is the one that its path begins with: ``:.ctx:``, or nothing for the default one. ``values`` are the
    parts of its path that vary, ``user_id`` whoever makes it, as far as that has to be said."""

    subjects: Subjects
    tenant_id: str
    context: str
    values: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    body: bytes
    user_id: str | None = None

    @property
    def subject(self) -> str:
        """The subject that the path names, with its context."""
        return self.qualified(self.values["subject"])

    @property
    def version(self) -> int:
        """The version that the path names, or ``LATEST``. Raises ``InvalidVersionError``."""
        text = self.values["version"]
        if text in ("latest", "-1"):
            return LATEST
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:11]) <= _MAX_NUMBER:
            raise InvalidVersionError(f"{text[:100]!r} is no version; accepted: 1 to {_MAX_NUMBER}, and 'latest'")
        return int(text)

    def qualified(self, subject: str) -> str:
        """A subject's name with the context that it is meant in."""
        if subject.startswith(_DEFAULT):
            return subject.removeprefix(_DEFAULT)
        return subject if subject.startswith(":.") else self.context + subject

    @property
    def place(self) -> str:
        """The subject whose settings are meant, or a context, or nothing for all subjects."""
        subject = self.qualified(self.values.get("subject", ""))
        return "" if subject == _GLOBAL else subject

    def text(self, name: str) -> str | None:
        """A parameter of the query; the first one of this name counts."""
        found = self.query.get(name)
        return found[0] if found else None

    def flag(self, name: str) -> bool:
        """A parameter that is true or false; false without it. Raises ``InvalidInputError``."""
        text = self.text(name)
        if text is not None and text.lower() not in ("true", "false"):
            raise InvalidInputError(f"{name}: expected true or false, got {text[:100]!r}")
        return text is not None and text.lower() == "true"

    def page(self, items: Sequence[T]) -> Sequence[T]:
        """The part of a list that ``offset`` and ``limit`` ask for; a negative limit means all of it."""
        offset, limit = max(self._number("offset", 0), 0), self._number("limit", -1)
        return items[offset:] if limit < 0 else items[offset : offset + limit]

    def _number(self, name: str, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        try:
            return int(text[:20])
        except ValueError:
            raise InvalidInputError(f"{name}: expected a whole number, got {text[:100]!r}") from None

    def fields(self) -> dict[str, Any]:
        """The body, which must be a JSON object. Raises ``InvalidInputError``."""
        try:
            data = msgspec.json.decode(self.body)
        except RecursionError:
            raise InvalidInputError("the body is nested too deep") from None
        except (msgspec.DecodeError, UnicodeError) as error:
            raise InvalidInputError(f"the body is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise InvalidInputError(f"the body: expected a JSON object, got {_kind(data)}")
        return data


class _Reference(msgspec.Struct):
    name: str
    subject: str
    version: int


class _Schema(msgspec.Struct, rename="camel"):
    schema: str | None = None
    schema_type: str | None = None
    references: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] | None = None
    rule_set: Any = None
    version: int | None = None
    id: int | None = None


_KNOWN: Final = {field.encode_name for field in msgspec.structs.fields(_Schema)} | {"subject", "guid", "deleted"}
"""Fields that are not kept as unknown ones. The last three are those of answers, which clients may send back to us."""


class SchemaRequest(msgspec.Struct, frozen=True):
    """A schema that a body holds. ``version`` and ``id`` are 0 if not given, ``more`` are fields that nobody here knows."""

    text: SchemaText
    version: int
    id: int
    more: dict[str, Any] | None


def schema_of(call: Call, subject: str) -> SchemaRequest:
    """The schema in the body, as one for ``subject``. Raises ``Refusal`` and ``BusError``."""
    data = call.fields()
    if data.get("schema") is not None and not isinstance(data["schema"], str):
        raise InvalidInputError(f"schema: expected the schema as a JSON string, got {_kind(data['schema'])}; put it in quotes")
    try:
        given = msgspec.convert(data, _Schema)
    except msgspec.ValidationError as error:
        raise InvalidInputError(told(error)) from None
    if not (given.schema or "").strip():
        raise Refusal(422, INVALID_SCHEMA, "schema: expected the text of a schema")
    definition = str(given.schema)
    size = len(definition.encode())
    if size > _MAX_SCHEMA_BYTES:
        raise Refusal(422, SCHEMA_TOO_LARGE, f"the schema has {size:,} bytes; at most {_MAX_SCHEMA_BYTES:,} are accepted")
    if (given.schema_type or "AVRO") not in FORMATS:
        raise SchemaError(f"schemaType: {given.schema_type!r} is not supported; accepted: {', '.join(FORMATS)}")
    check_metadata(given.metadata)
    check_rule_set(given.rule_set)
    for name, number in (("version", given.version), ("id", given.id)):
        if number is not None and number > _MAX_NUMBER:
            raise InvalidInputError(f"{name}: expected at most {_MAX_NUMBER}, got {number}")
    text = SchemaText(
        format=given.schema_type or "AVRO",
        definition=definition,
        references=tuple(_reference(call, subject, i, each) for i, each in enumerate(given.references or [])),
        metadata=given.metadata,
        rule_set=given.rule_set,
    )
    more = {name: value for name, value in data.items() if name not in _KNOWN}
    return SchemaRequest(text, max(given.version or 0, 0), max(given.id or 0, 0), more or None)


def _reference(call: Call, subject: str, i: int, data: dict[str, Any]) -> SchemaReference:
    """A reference with the numbers and the context that it stands for: that of the schema itself, where the subject is there, and
    else the default one."""
    here = f"references[{i}]"
    try:
        given = msgspec.convert(data, _Reference)
    except msgspec.ValidationError as error:
        raise SchemaError(told(error, here)) from None
    store, context = call.subjects.store, subject.removesuffix(unqualified(subject))
    named = given.subject.removeprefix(_DEFAULT)
    if context and not given.subject.startswith(":.") and store.versions(call.tenant_id, context + named, deleted=True):
        named = context + named
    version = given.version
    if version == LATEST:
        try:
            version = call.subjects.version(call.tenant_id, named, LATEST).version
        except NotFoundError as error:
            raise SchemaError(f"{here} ({given.name}): {error.message}") from None
    if not 1 <= version <= _MAX_NUMBER:
        raise SchemaError(f"{here}.version: expected 1 to {_MAX_NUMBER}, or -1 for the latest, got {version}")
    return SchemaReference(given.name, named, version)


def unqualified(subject: str) -> str:
    """A subject's name without its context."""
    return subject.split(":", 2)[2] if subject.startswith(":.") and subject.count(":") >= 2 else subject


def context_named(segment: str) -> str:
    """The context that a path names in ``/contexts/{segment}``, with or without its dot and its colons."""
    name = segment.strip(":").removeprefix(".")
    return f":.{name}:" if name else ""


def segments_of(raw_path: bytes) -> list[str]:
    """The parts of a path, each decoded once; slashes in names are encoded and part nothing. Raises ``InvalidInputError``."""
    parts = raw_path.decode("latin-1").split("/")[1:]
    if parts and not parts[-1]:
        parts.pop()
    try:
        return [unquote(part, errors="strict") if "%" in part else part.encode("latin-1").decode() for part in parts]
    except UnicodeError:
        raise InvalidInputError("the path: expected percent-encoded UTF-8") from None


def _kind(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
