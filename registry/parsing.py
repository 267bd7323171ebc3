"""Schemas parsed: what the formats have in common."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.json_places import placed
from event_streaming_bus.registry.avro import compatibility as avro_compatibility
from event_streaming_bus.registry.avro.personal import personal_of_avro
from event_streaming_bus.registry.avro.schema import AvroSchema
from event_streaming_bus.registry.differences import Difference
from event_streaming_bus.registry.json import compatibility as json_compatibility
from event_streaming_bus.registry.json.personal import personal_of_json
from event_streaming_bus.registry.json.schema import JsonSchemaValidator
from event_streaming_bus.registry.personal import PersonalFields
from event_streaming_bus.registry.violations import Violation
from event_streaming_bus.store.schemas import SchemaText, guid_of

_MAX_PARSED: Final = 512
_MAX_DEFINITION_BYTES: Final = 1 << 20
T = TypeVar("T")


class ParsedSchema(Protocol):
    """A schema of some format, ready for use."""

    canonical: str
    """The definition written the one way in which all that mean the same are written, as far as the format allows."""
    personal: PersonalFields | None
    """The fields that it marks as personal; None if it marks none."""

    def __hash__(self) -> int:
        """Each is equal to itself alone."""
        ...

    def violations(self, payload: object) -> list[Violation]:
        """What is wrong with a decoded payload."""
        ...

    def differences(self, writer: "ParsedSchema") -> list[Difference]:
        """Why this schema may not read what is written by ``writer``, one of the same format; empty if it reads all of it."""
        ...


class JsonSchema:
    """A JSON Schema with those it refers to."""

    def __init__(self, definition: str, references: Mapping[str, str]) -> None:
        self.document = read_json(definition)
        self.references = {name: read_json(text) for name, text in references.items()}
        self.validator = JsonSchemaValidator(self.document, self.references)
        self.canonical = msgspec.json.encode(self.document, order="deterministic").decode()
        self.personal = personal_of_json(self.document, self.references)

    def violations(self, payload: object) -> list[Violation]:
        return self.validator.violations(payload)

    def differences(self, writer: ParsedSchema) -> list[Difference]:
        assert isinstance(writer, JsonSchema)  # noqa: S101 - the caller has looked at the formats
        return json_compatibility.differences(self.document, writer.document, self.references, writer.references)


class AvroDocument:
    """An Avro schema with those it refers to."""

    def __init__(self, definition: str, references: Mapping[str, str]) -> None:
        self.schema = AvroSchema(definition, list(references.values()))
        self.canonical = self.schema.canonical
        self.personal = personal_of_avro(definition, list(references.values()))

    def violations(self, payload: object) -> list[Violation]:
        return self.schema.violations(payload)

    def differences(self, writer: ParsedSchema) -> list[Difference]:
        assert isinstance(writer, AvroDocument)  # noqa: S101 - the caller has looked at the formats
        return avro_compatibility.differences(self.schema, writer.schema)


FORMATS: Final[Mapping[str, Callable[[str, Mapping[str, str]], ParsedSchema]]] = {"AVRO": AvroDocument, "JSON": JsonSchema}
"""The formats that there are. Each takes the definition, and those that it refers to by name: a definition after all that it
refers to itself."""


def read_json(definition: str) -> Any:
    """The definition as data. Raises ``SchemaError`` with line and column for what is no JSON."""
    if len(definition.encode()) > _MAX_DEFINITION_BYTES:
        raise SchemaError(f"the schema has {len(definition.encode()):,} bytes; at most {_MAX_DEFINITION_BYTES:,} are accepted")
    try:
        return msgspec.json.decode(definition)
    except RecursionError:
        raise SchemaError("the schema is nested too deep") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise SchemaError(f"the schema is no JSON: {placed(str(error), definition.encode())}") from None


class Parser:
    """Parses schemas, and keeps the 512 used last."""

    def __init__(self) -> None:
        self._parsed: OrderedDict[tuple[str, ...], ParsedSchema] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, text: SchemaText, references: Mapping[str, SchemaText]) -> ParsedSchema:
        """The schema. ``references``: what it refers to by name, directly or through others, each after all that it refers to
        itself. Raises ``SchemaError``."""
        if text.format not in FORMATS:
            raise SchemaError(f"the format {text.format!r} is not supported; accepted: {', '.join(FORMATS)}")
        key = (guid_of(text), *(part for name, each in references.items() for part in (name, guid_of(each))))
        with self._lock:
            parsed = self._parsed.get(key)
            if parsed is not None:
                self._parsed.move_to_end(key)
                return parsed
        parsed = FORMATS[text.format](text.definition, {name: each.definition for name, each in references.items()})
        with self._lock:
            self._parsed[key] = parsed
            while len(self._parsed) > _MAX_PARSED:
                self._parsed.popitem(last=False)
        return parsed
