"""Schemas of anybody's making, and payloads and Avro data that meet them."""

import json
from typing import Any, Final

import msgspec
from fuzz_choices import Choices
from fuzz_target import Target

from event_streaming_bus.errors import SchemaError, ValidationFailedError
from event_streaming_bus.registry.avro.schema import AvroSchema
from event_streaming_bus.registry.avro.types import AvroDataError
from event_streaming_bus.registry.parsing import AvroDocument, JsonSchema, ParsedSchema

PAYLOADS: Final[tuple[Any, ...]] = (
    *(None, True, 0, -1.5, 1e308, 2**62, "", "a" * 5000, "2020-01-01", "é😀", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"),
    *([], [1, 1.0, "1", None], {}, {"a": 1, "b": {"a": [{}]}}, {"next": {"next": {"next": None}}}, [[[[[[[[[[]]]]]]]]]]),
)


def two_schemas(data: bytes, kind: type[JsonSchema] | type[AvroDocument]) -> list[ParsedSchema]:
    """The schemas of the texts that a zero byte parts; at most two."""
    found: list[ParsedSchema] = []
    for text in data.split(b"\0")[:2]:
        try:
            found.append(kind(text.decode("utf-8", "replace"), {}))
        except SchemaError as error:
            str(error).encode()
    return found


def payloads_of(data: bytes) -> list[Any]:
    """Those that every schema meets, and what stands behind a second zero byte."""
    try:
        return [*PAYLOADS, *map(msgspec.json.decode, data.split(b"\0")[2:3])]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [*PAYLOADS]


def run_json(data: bytes) -> None:
    schemas = two_schemas(data, JsonSchema)
    for schema in schemas:
        assert isinstance(schema, JsonSchema)
        for payload in payloads_of(data):
            violations = schema.violations(payload)
            assert bool(violations) is not schema.validator.is_valid(payload)
            msgspec.json.encode(violations)
    if len(schemas) == 2:
        reader, writer = schemas
        if not reader.differences(writer):
            for payload in payloads_of(data):
                assert not schemas[0].violations(payload) or schemas[1].violations(payload), "a proof that is none"


def run_avro(data: bytes) -> None:
    schemas = two_schemas(data, AvroDocument)
    written: list[bytes] = []
    for schema in schemas:
        assert isinstance(schema, AvroDocument)
        assert AvroSchema(schema.canonical).canonical == schema.canonical
        for payload in payloads_of(data):
            try:
                encoded = schema.schema.encode(payload)
            except ValidationFailedError:
                assert schema.violations(payload)
                continue
            again = schema.schema.decode(encoded)
            assert schema.schema.encode(again) == encoded
            written.append(encoded)
    if len(schemas) == 2:
        reader, writer = schemas
        assert isinstance(reader, AvroDocument)
        assert isinstance(writer, AvroDocument)
        reader.differences(writer)
        for encoded in written:
            _decoded(writer.schema, encoded, reader.schema)


def _decoded(writer: AvroSchema, data: bytes, reader: AvroSchema | None = None) -> Any:
    try:
        return writer.decode(data, reader)
    except AvroDataError as error:
        str(error).encode()
        return None


def _record(name: str, *fields: tuple[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field, kind in fields]}


SCHEMAS: Final[tuple[AvroSchema, ...]] = tuple(
    AvroSchema(json.dumps(each))
    for each in (
        "string",
        {"type": "array", "items": "null"},
        {"type": "array", "items": {"type": "map", "values": ["null", "bytes", "double"]}},
        _record("Node", ("value", "long"), ("next", ["null", "Node"])),
        _record("Tree", ("children", {"type": "array", "items": "Tree"})),
        _record("Empty"),
        {"type": "array", "items": _record("Nothing", ("n", "null"))},
        _record(
            "All",
            ("f", {"type": "fixed", "name": "F", "size": 5}),
            ("e", {"type": "enum", "name": "E", "symbols": ["A", "B"]}),
            ("d", {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}),
            ("t", {"type": "long", "logicalType": "timestamp-millis"}),
            ("day", {"type": "int", "logicalType": "date"}),
            ("u", {"type": "string", "logicalType": "uuid"}),
            ("dur", {"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}),
            ("b", "boolean"),
            ("g", "float"),
            ("us", {"type": "long", "logicalType": "time-micros"}),
        ),
        _record("Few", ("d", ["null", "string"]), ("f", ["long", "bytes"])),
    )
)


def run_data(data: bytes) -> None:
    """The first bytes choose who wrote it and who reads it."""
    choices = Choices(data)
    writer, reader = choices.of(SCHEMAS), choices.of((*SCHEMAS, None, None, None))
    raw = choices.rest()
    value = _decoded(writer, raw)
    _decoded(writer, raw, reader)
    if value is not None:
        json.dumps(value)
        try:
            encoded = writer.encode(value)
        except ValidationFailedError as error:  # a value that data can have, but no JSON, such as NaN or a decimal of many digits
            str(error).encode()
        else:
            assert writer.decode(encoded) == value


_JSON_WORDS: Final = (
    *(
        b'"$ref":"#"',
        b'"$ref":"#/$defs/a"',
        b'"$defs":{"a":',
        b'"$dynamicRef":"#x"',
        b'"$recursiveRef":"#"',
        b'"$id":"http://x/"',
    ),
    *(
        b'"pattern":"^(a+)+$"',
        b'"pattern":"(a|aa)*b\\\\1"',
        b'"patternProperties":{"^(a*)*$":',
        b'"format":"regex"',
        b'"format":"email"',
    ),
    *(
        b'"allOf":[',
        b'"anyOf":[',
        b'"oneOf":[',
        b'"not":',
        b'"if":',
        b'"uniqueItems":true',
        b'"multipleOf":1e-300',
        b'"maxItems":1e9',
    ),
    *(
        b'"enum":[',
        b'"const":',
        b'"type":"object"',
        b'"required":["a"]',
        b'"properties":{"a":',
        b'"items":',
        b'"prefixItems":[',
        b"true",
    ),
    *(
        b'"unevaluatedProperties":false',
        b'"$schema":"http://json-schema.org/draft-04/schema#"',
        b'"additionalProperties":',
        b"\0",
    ),
)  # fmt: skip
_AVRO_WORDS: Final = (
    *(
        b'"type":"record"',
        b'"name":"A"',
        b'"fields":[',
        b'{"type":"array","items":',
        b'"map","values":',
        b'"default":',
        b'"aliases":["B"]',
    ),
    *(
        b'"logicalType":"decimal"',
        b'"precision":',
        b'"scale":',
        b'"size":99999999999',
        b'"symbols":["A"]',
        b'["null","A"]',
        b'"namespace":"n"',
    ),
    b'"null"', b'"long"', b'"bytes"', b'"fixed"', b'"enum"', b"\0",
)  # fmt: skip
JSON_SCHEMAS: Final = Target("json_schemas", run_json, 4096, _JSON_WORDS)
AVRO_SCHEMAS: Final = Target("avro_schemas", run_avro, 4096, _AVRO_WORDS)
AVRO_DATA: Final = Target(
    "avro_data", run_data, 2048, (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x01\x80\x80\x80\x80\x10", b"\x02", b"\0")
)
