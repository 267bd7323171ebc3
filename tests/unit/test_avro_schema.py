"""Avro schemas: what is refused with which pointer, values in and out, and data that is not what it says."""

import io
import json
import random
import time
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.errors import BusError, SchemaError, ValidationFailedError
from event_streaming_bus.models import rfc3339
from event_streaming_bus.registry.avro.schema import AvroSchema
from event_streaming_bus.registry.avro.types import AvroDataError


def schema(definition: Any, *references: Any) -> AvroSchema:
    return AvroSchema(json.dumps(definition), [json.dumps(reference) for reference in references])


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: Any = "int", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


def default(kind: Any, value: Any) -> dict[str, Any]:
    return record(field("x", kind, default=value))


ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
FIXED = {"type": "fixed", "name": "F", "size": 2}
LINKED = record(field("value"), field("next", ["null", "R"]))

# --- parsing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "pointer", "message"),
    [
        (5, "", "expected the name of a type, an object or a list of types, got 5"),
        ({}, "", "expected 'type' to be the name of a type"),
        ({"type": ["null"]}, "/type", "got a JSON list"),
        ("nope", "", 'unknown type "nope"; no named types are known here'),
        (record(field("a", ["null", "Nope"]), name="x.R"), "/fields/0/type/1", "named types known here: x.R"),
        (record(field("a", record(name="R"))), "/fields/0/type/name", "the type R is defined twice"),
        (record(field("a", ["null", "null"])), "/fields/0/type/1", "may hold null only once"),
        ([["null"]], "/0", "may not directly hold another union"),
        ([], "", "at least one type"),
        (record(name="9a"), "/name", 'got "9a"'),
        (record(name="a..b"), "/name", "expected a name"),
        (record(name="int"), "/name", "primitive"),
        (record(namespace=5), "/namespace", "expected a text, got 5"),
        ({"type": "record", "name": "R"}, "", "needs 'fields'"),
        (record("a"), "/fields/0", "expected a field as an object"),
        (record({"name": "a"}), "/fields/0", "a field needs 'type'"),
        (record(field("a-b")), "/fields/0/name", 'got "a-b"'),
        (record(field("a"), field("a")), "/fields/1/name", "two fields named 'a'"),
        (record(field("a", order="up")), "/fields/0/order", "ascending, descending, ignore"),
        (record(field("a", aliases="b")), "/fields/0/aliases", "expected a list of names"),
        ({**ENUM, "symbols": []}, "/symbols", "one or more"),
        ({**ENUM, "symbols": ["A", "A"]}, "/symbols/1", "twice"),
        ({**ENUM, "symbols": ["A", "é"]}, "/symbols/1", "expected a symbol"),
        ({**ENUM, "default": "C"}, "/default", "one of the symbols A, B"),
        ({**FIXED, "size": -1}, "/size", "a whole number of bytes"),
        ({"type": "array"}, "", "an array needs 'items'"),
        ({"type": "map", "values": "Nope"}, "/values", "unknown type"),
        (default("int", "a"), "/fields/0/default", "expected a whole number from -2147483648 to 2147483647"),
        (default("int", 1 << 31), "/fields/0/default", "expected a whole number"),
        (default("boolean", 0), "/fields/0/default", "expected true or false"),
        (default("string", None), "/fields/0/default", "expected a text"),
        (default("bytes", "Ā"), "/fields/0/default", "U+0000 to U+00FF"),
        (default(FIXED, "abc"), "/fields/0/default", "a text of 2 characters"),
        (default(ENUM, "C"), "/fields/0/default", "one of the symbols A, B"),
        (default("float", 1e300), "/fields/0/default", "the range of a float"),
        (default(["null", "int"], "a"), "/fields/0/default", "union's types accepts: null or int"),
        (default({"type": "array", "items": "int"}, [1, "a"]), "/fields/0/default/1", "a whole number"),
        (default(record(field("y"), name="Q"), {}), "/fields/0/default", "the field 'y' of record Q"),
        (default("R", {}), "/fields/0/default", "it needs itself"),
        (logical("bytes", "decimal", precision=1001), "/precision", "1000 digits at most"),
    ],
)
def test_a_malformed_schema_is_refused_with_its_place(definition: Any, pointer: str, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        schema(definition)
    assert caught.value.details["pointer"] == pointer
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":\n "record",}', "line 2, column 11"),
        ("", "line 1, column 1"),
        ('{"type": "int", "x": NaN}', "NaN is not accepted"),
        ("[" * 100_000, "nested more than 100 levels"),
        ('{"type":"array","items":' * 101 + '"int"' + "}" * 101, "nested more than 100 levels"),
        ('{"type":"array","items":' * 2000 + '"int"' + "}" * 2000, "nested more than 100 levels"),
        ('"' + "x" * (1 << 20) + '"', "at most 1,048,576 are accepted"),
    ],
)
def test_text_that_is_no_json_or_too_much_is_refused_quickly(text: str, message: str) -> None:
    started_s = time.perf_counter()
    with pytest.raises(SchemaError, match=message):
        AvroSchema(text)
    assert time.perf_counter() - started_s < 5


def test_defaults_that_stand_for_very_many_values_are_refused() -> None:
    levels = [record(field("v", default=0), name="A0")]
    levels += [record(*(field(n, f"A{i - 1}", default={}) for n in "xy"), name=f"A{i}") for i in range(1, 60)]
    with pytest.raises(SchemaError, match="defaults amount to more than"):
        schema(levels)


def test_a_large_schema_is_parsed_within_a_second() -> None:
    large = json.dumps(record(*(field(f"f{i}", ["null", "string"], default=None) for i in range(12_000))))
    started_s = time.perf_counter()
    AvroSchema(large)
    assert time.perf_counter() - started_s < 5


@pytest.mark.parametrize("text", ["string", '"string"', ' "string" ', '{"type":"string"}'])
def test_a_primitive_is_written_in_several_ways(text: str) -> None:
    assert AvroSchema(text).canonical == '"string"'
    assert AvroSchema(text).name is None


def test_the_canonical_text_is_independent_of_how_names_and_keys_are_written() -> None:
    short = record(
        field("a", {"type": "enum", "name": "E", "symbols": ["A"]}), field("b", "E"), namespace="x.y", doc="d", aliases=["Old"]
    )
    full = {
        "doc": "d",
        "fields": [field("a", {"symbols": ["A"], "name": "x.y.E", "type": "enum"}), {"type": {"type": "x.y.E"}, "name": "b"}],
        "aliases": ["x.y.Old"],
        "name": "x.y.R",
        "type": "record",
    }
    assert schema(short).canonical == AvroSchema(json.dumps(full, indent=4)).canonical
    assert schema(short).name == "x.y.R"
    assert schema(short).canonical != schema({**short, "doc": "other"}).canonical
    assert schema(default("int", 1)).canonical != schema(default("int", 2)).canonical
    assert schema(logical("int", "date")).canonical != schema("int").canonical
    assert AvroSchema(schema(short).canonical).canonical == schema(short).canonical


def test_references_give_named_types_in_dependency_order() -> None:
    money = record(field("amount", "long"), name="shop.Money")
    item = record(field("price", "Money"), name="shop.Item")
    order = schema(record(field("items", {"type": "array", "items": "shop.Item"})), money, item, money)
    assert order.decode(order.encode({"items": [{"price": {"amount": 5}}]})) == {"items": [{"price": {"amount": 5}}]}
    with pytest.raises(SchemaError, match=r"references\[0\]: /fields/0/type: unknown type"):
        schema("int", item, money)
    assert schema("shop.Item", money, item).name == "shop.Item"


def test_schemas_with_the_same_names_do_not_disturb_each_other() -> None:
    first, second = schema(record(field("a", ENUM))), schema(record(field("a", {**ENUM, "symbols": ["X"]})))
    assert first.decode(first.encode({"a": "B"})) == {"a": "B"}
    assert second.violations({"a": "B"})[0].message == "expected one of X, got text 'B'"


def test_unknown_and_invalid_logical_types_are_ignored() -> None:
    for kind in (
        logical("int", "mood"),
        logical("string", "date"),
        logical("bytes", "decimal", precision=2, scale=3),
        logical("bytes", "decimal"),
        {**FIXED, "logicalType": "decimal", "precision": 40},
        {**FIXED, "logicalType": "uuid"},
        {"type": "int", "logicalType": 5},
    ):
        assert schema(kind).type.logical == ""


# --- values in and out ----------------------------------------------------------------------------------------------------

UUID_TEXT = "123e4567-e89b-12d3-a456-426614174000"
NOON = datetime(2013, 1, 1, 10, 0, 0, 123456, tzinfo=UTC)
MONEY = logical("bytes", "decimal", precision=9, scale=2)
WHOLE = logical("bytes", "decimal", precision=30)
VALUES: list[tuple[Any, Any, Any]] = [
    ("null", None, None),
    ("boolean", True, True),
    ("int", -(1 << 31), -(1 << 31)),
    ("long", (1 << 63) - 1, (1 << 63) - 1),
    ("float", 0.5, 0.5),
    ("float", 3, 3.0),
    ("double", 1 << 60, float(1 << 60)),
    ("double", float("-inf"), float("-inf")),
    ("string", "ä€😀", "ä€😀"),
    ("bytes", b"hi", "aGk="),
    ("bytes", bytearray(b"hi"), "aGk="),
    ("bytes", "aGk=", "aGk="),
    ("bytes", "", ""),
    (FIXED, "aGk=", "aGk="),
    (ENUM, "B", "B"),
    (ENUM, StrEnum("S", {"B": "B"}).B, "B"),
    ({"type": "array", "items": "int"}, (1, 2), [1, 2]),
    ({"type": "map", "values": "int"}, {"a": 1, "": 2}, {"a": 1, "": 2}),
    (record(field("a")), MappingProxyType({"a": 1}), {"a": 1}),
    (logical("int", "date"), date(2013, 1, 31), "2013-01-31"),
    (logical("int", "date"), "1969-12-31", "1969-12-31"),
    (logical("int", "date"), datetime(2013, 1, 31, tzinfo=UTC), "2013-01-31"),
    (logical("int", "date"), -1, "1969-12-31"),
    (logical("int", "date"), 1 << 30, 1 << 30),
    (logical("int", "time-millis"), time_of_day(10, 0, 1, 999_999), "10:00:01.999"),
    (logical("int", "time-millis"), "23:59:59", "23:59:59.000"),
    (logical("int", "time-millis"), 86_400_000, 86_400_000),
    (logical("long", "time-micros"), time_of_day(0, 0, 0, 1), "00:00:00.000001"),
    (logical("long", "timestamp-millis"), NOON, "2013-01-01T10:00:00.123Z"),
    (logical("long", "timestamp-millis"), NOON.replace(tzinfo=None), "2013-01-01T10:00:00.123Z"),
    (logical("long", "timestamp-millis"), NOON.astimezone(timezone(timedelta(hours=5, minutes=30))), "2013-01-01T10:00:00.123Z"),
    (logical("long", "timestamp-millis"), "2013-01-01T12:00:00+02:00", "2013-01-01T10:00:00.000Z"),
    (logical("long", "timestamp-millis"), "1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
    (logical("long", "timestamp-millis"), -1, "1969-12-31T23:59:59.999Z"),
    (logical("long", "timestamp-millis"), 253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    (logical("long", "timestamp-millis"), 253_402_300_800_000, 253_402_300_800_000),
    (logical("long", "timestamp-millis"), -(1 << 63), -(1 << 63)),
    (logical("long", "timestamp-micros"), NOON, "2013-01-01T10:00:00.123456Z"),
    (logical("long", "timestamp-nanos"), "2013-01-01T10:00:00.123456789Z", "2013-01-01T10:00:00.123456789Z"),
    (logical("long", "timestamp-nanos"), NOON, "2013-01-01T10:00:00.123456000Z"),
    (logical("long", "local-timestamp-millis"), "2013-01-01T10:00:00", "2013-01-01T10:00:00.000"),
    (logical("long", "local-timestamp-micros"), NOON.replace(tzinfo=None), "2013-01-01T10:00:00.123456"),
    (logical("long", "local-timestamp-nanos"), 1, "1970-01-01T00:00:00.000000001"),
    (logical("string", "uuid"), UUID(UUID_TEXT), UUID_TEXT),
    (logical("string", "uuid"), UUID_TEXT, UUID_TEXT),
    ({"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}, UUID_TEXT, UUID_TEXT),
    ({"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}, b"\0" * 12, "AAAAAAAAAAAAAAAA"),
    (MONEY, Decimal("12.50"), 12.5),
    (MONEY, Decimal("1E+3"), 1000.0),
    (MONEY, Decimal("1.2500"), 1.25),
    (MONEY, 0.07, 0.07),
    (MONEY, -1234567.89, -1234567.89),
    (MONEY, 5, 5.0),
    (MONEY, "-0.01", -0.01),
    (WHOLE, 10**29, 10**29),
    (WHOLE, 1e22, 10**22),
    ({"type": "fixed", "name": "M", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 2}, "-1.50", -1.5),
    (["null", "int"], ("int", 5), 5),
    (["null", "int"], ("null", None), None),
    (["int", "double"], 5, 5),
    (["double", "long"], 5, 5),
    (["float", "double"], 0.1, 0.1),
    (["bytes", "string"], "abcd", "abcd"),
    (["bytes", "string"], b"\0", "AA=="),
    (["string", ENUM], "A", "A"),
    (["null", logical("long", "timestamp-millis")], NOON, "2013-01-01T10:00:00.123Z"),
    (["null", {"type": "array", "items": "string"}], ("a", "b"), ["a", "b"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "payload", "shown"), VALUES)
def test_a_value_is_taken_and_shown(kind: Any, payload: Any, shown: Any) -> None:
    avro = schema(kind)
    assert avro.violations(payload) == []
    data = avro.encode(payload)
    read = avro.decode(data)
    assert (read, type(read)) == (shown, type(shown))
    assert avro.decode(avro.encode(read)) == shown, "what is shown is taken"
    if not isinstance(kind, list):
        assert avro.encode(read) == data
    if not isinstance(kind, list) and kind != "null":
        nested = schema(record(field("x", {"type": "map", "values": ["null", kind]}), name="Nested"))
        assert isinstance(payload, tuple) or nested.decode(nested.encode({"x": {"k": payload}})) == {"x": {"k": shown}}


REFUSED: list[tuple[Any, Any, str, str, str]] = [
    ("int", True, "", "type", "expected a whole number, got true"),
    ("int", 1 << 31, "", "range", "from -2147483648 to 2147483647"),
    ("long", 1 << 63, "", "range", "expected a whole number"),
    ("long", 1.0, "", "type", "expected a whole number, got 1.0"),
    ("double", "1", "", "type", "expected a number, got text '1'"),
    ("double", True, "", "type", "expected a number"),
    ("double", 10**400, "", "range", "the range of a double"),
    ("float", 1e300, "", "range", "the range of a float"),
    ("boolean", 1, "", "type", "expected true or false, got 1"),
    ("string", 5, "", "type", "expected a text, got 5"),
    ("string", "\ud800", "", "type", "lone surrogates"),
    ("null", 0, "", "type", "expected null, got 0"),
    ("bytes", "no base64!", "", "type", "expected base64 text or bytes"),
    (FIXED, "aGkh", "", "size", "expected 2 bytes, got 3"),
    (ENUM, "C", "", "enum", "expected one of A, B, got text 'C'"),
    (ENUM, ["A"], "", "enum", "expected one of A, B"),
    ({"type": "array", "items": "int"}, "ab", "", "type", "expected a list, got text 'ab'"),
    ({"type": "array", "items": "int"}, [1, None], "[1]", "type", "got null"),
    ({"type": "map", "values": "int"}, {1: 1}, "", "type", "keys that are text, got 1"),
    ({"type": "map", "values": "int"}, {"k": "x"}, "k", "type", "expected a whole number"),
    (record(field("a")), [], "", "type", "expected an object for record R"),
    (record(field("a"), field("b", default=1)), {}, "a", "required", "is missing and has no default; expected int"),
    (record(field("a"), field("b", default=1)), {"a": 1, "c": 2}, "c", "additionalProperties", "its fields: a, b"),
    (record(field("a", record(field("b", ["null", ENUM]), name="Q"))), {"a": {"b": "x"}}, "a.b", "enum", "one of A, B, got"),
    (["null", record(field("a"))], {"a": "x"}, "a", "type", "expected a whole number"),
    (["null", record(field("a"), name="P"), record(field("b"), name="Q")], {"c": 1}, "", "union", "not record P: a: is missing"),
    (logical("int", "date"), "01.02.2013", "", "logicalType", "a date as in 2013-01-31"),
    (logical("int", "date"), NOON, "", "logicalType", "without a time of day"),
    (logical("int", "date"), True, "", "logicalType", "a date as in"),
    (logical("int", "time-millis"), "25:00:00", "", "logicalType", "a time of day"),
    (logical("long", "timestamp-millis"), "yesterday", "", "logicalType", "as in 2013-01-01T10:00:00.000Z, or milliseconds"),
    (logical("long", "timestamp-millis"), 1.5, "", "logicalType", "or milliseconds since 1970, got 1.5"),
    (logical("long", "timestamp-micros"), "2013-02-30T10:00:00Z", "", "logicalType", "or microseconds since 1970"),
    (logical("long", "local-timestamp-millis"), "2013-01-01T10:00:00Z", "", "logicalType", "without an offset"),
    (logical("string", "uuid"), "123", "", "logicalType", "expected a UUID"),
    (MONEY, 1.005, "", "logicalType", "at most 9 digits, 2 of them after the point, got 1.005"),
    (MONEY, "12345678.00", "", "logicalType", "at most 9 digits"),
    (MONEY, "1e999999999", "", "logicalType", "at most 9 digits"),
    (MONEY, "1e-999999999", "", "logicalType", "at most 9 digits"),
    (MONEY, float("nan"), "", "logicalType", "at most 9 digits"),
    (MONEY, True, "", "logicalType", "at most 9 digits"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "payload", "path", "rule", "message"), REFUSED)
def test_a_value_is_refused_with_its_path_and_rule(kind: Any, payload: Any, path: str, rule: str, message: str) -> None:
    avro = schema(kind)
    (found,) = avro.violations(payload)
    assert (found.path, found.rule) == (path, rule)
    assert message in found.message
    with pytest.raises(ValidationFailedError) as caught:
        avro.encode(payload)
    assert caught.value.details["violations"] == [found]


def test_violations_name_every_place_up_to_a_bound() -> None:
    avro = schema(record(field("a"), field("b", "string"), field("c", {"type": "array", "items": "long"})))
    found = avro.violations({"a": "x", "c": [1, "y", None], "d": 1})
    assert [(v.path, v.pointer, v.rule) for v in found] == [
        ("a", "/a", "type"),
        ("b", "/b", "required"),
        ("c[1]", "/c/1", "type"),
        ("c[2]", "/c/2", "type"),
        ("d", "/d", "additionalProperties"),
    ]
    assert len(schema({"type": "array", "items": "int"}).violations(["x"] * 500)) == 100


def test_the_first_refused_of_many_is_named() -> None:
    avro = schema(record(field("a")))
    with pytest.raises(ValidationFailedError, match="a: expected a whole number") as caught:
        avro.encode_many([{"a": 1}, {"a": None}, {"a": "x"}])
    assert caught.value.details["index"] == 1
    assert avro.encode_many([{"a": 1}, {"a": 2}], b"\0\1") == [b"\0\1\2", b"\0\1\4"]


def test_defaults_fill_in() -> None:
    avro = schema(
        record(field("a"), field("u", ["null", "int"], default=None), field("t", logical("long", "timestamp-millis"), default=0))
    )
    assert avro.decode(avro.encode({"a": 1})) == {"a": 1, "u": None, "t": "1970-01-01T00:00:00.000Z"}


def test_the_branch_of_a_union_of_records_is_the_one_that_has_the_fields() -> None:
    union = ["null", record(field("a"), field("x", "string", default=""), name="n.A"), record(field("a"), field("b"), name="n.B"),
             {"type": "map", "values": "string"}]  # fmt: skip
    avro, theirs = schema(union), fastavro.parse_schema(union, {})
    for payload, branch in (
        ({"a": 1}, 1),
        ({"a": 1, "b": 2}, 2),
        ({"a": "t"}, 3),
        ({"b": "t"}, 3),
        (("n.B", {"a": 1, "b": 2}), 2),
        (("A", {"a": 1}), 1),
    ):
        data = avro.encode(payload)
        assert data[0] == 2 * branch
        if payload[0:1] != ("A",) if isinstance(payload, tuple) else True:
            buffer = io.BytesIO()
            fastavro.schemaless_writer(buffer, theirs, payload)
            assert buffer.getvalue() == data


def test_ambiguous_nested_unions_take_no_exponential_time() -> None:
    a = record(
        field("x", ["null", "A", record(field("x", ["null", "A", "B"]), field("k", "string"), name="B")]), field("k"), name="A"
    )
    avro = schema(record(field("t", ["null", a, "B"])))
    value: Any = None
    for i in range(80):
        value = {"x": value, "k": 1 if i % 2 else "s"}
    started_s = time.perf_counter()
    assert avro.decode(avro.encode({"t": value})) == {"t": value}
    value = 5
    for i in range(80):
        value = {"x": value, "k": 1 if i % 2 else "s"}
    assert avro.violations({"t": value})[0].rule == "union"
    assert time.perf_counter() - started_s < 5


def test_a_projection_reads_some_fields_and_skips_the_rest() -> None:
    avro = schema(
        record(field("a"), field("b", LINKED | {"name": "L", "fields": [field("next", ["null", "L"])]}), field("c", ENUM))
    )
    reader = avro.projected(["c", "a", "nope"])
    assert reader is not None
    assert avro.decode(avro.encode({"a": 1, "b": {"next": {"next": None}}, "c": "B"}), reader) == {"a": 1, "c": "B"}
    assert schema("int").projected(["a"]) is None


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_times_are_shown_as_everywhere_on_the_bus(time_ms: int) -> None:
    avro = schema(logical("long", "timestamp-millis"))
    assert avro.decode(avro.encode(time_ms)) == rfc3339(time_ms)


@given(st.decimals(-(10**7) + 1, 10**7 - 1, places=2))
def test_decimals_are_what_fastavro_reads(value: Decimal) -> None:
    theirs = fastavro.parse_schema(MONEY, {})
    avro = schema(MONEY)
    for payload in (value, float(value), str(value)):
        data = avro.encode(payload)
        assert fastavro.schemaless_reader(io.BytesIO(data), theirs) == value
        assert avro.decode(data) == float(value)


def test_logical_types_are_what_fastavro_writes() -> None:
    names = ["int date", "int time-millis", "long time-micros", "long timestamp-millis", "long timestamp-micros"]
    names += ["long local-timestamp-micros", "string uuid"]
    kinds = [logical(*name.split()) for name in names]
    rng = random.Random(5)
    for _ in range(200):
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=rng.randrange(-(10**15), 10**16))
        values = [at.date(), at.time(), at.time(), at, at, at.replace(tzinfo=None), UUID(int=rng.getrandbits(128))]
        for kind, value in zip(kinds, values, strict=True):
            buffer = io.BytesIO()
            fastavro.schemaless_writer(buffer, fastavro.parse_schema(kind, {}), value)
            assert schema(kind).encode(value) == buffer.getvalue(), (kind, value)


# --- data that is not what it says ------------------------------------------------------------------------------------------

HUGE = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x3f"  # 2**61 - 1


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("string", b"", "ends too early"),
        ("string", b"\x08abc", "a length is negative or more than there is"),
        ("string", b"\x07abc", "a length is negative"),
        ("string", HUGE + b"abc", "a length is negative or more than there is"),
        ("string", b"\x02\xff", "not UTF-8"),
        ("string", b"\x02ab", "followed by bytes of something else, 1 in all"),
        ("long", b"\x80", "ends too early"),
        ("long", b"\xff" * 12 + b"\1", "more than 64 bits"),
        ("int", b"\xff\xff\xff\xff\xff\1", "more than 32 bits"),
        ("double", b"\0" * 7, "ends too early"),
        ("boolean", b"\2", "neither 0 nor 1"),
        (ENUM, b"\1", "no such symbol"),
        (ENUM, b"\4", "no such symbol"),
        (FIXED, b"a", "a length is negative or more"),
        (["null", "int"], b"\1", "no such branch"),
        (["null", "int"], b"\4", "no such branch"),
        ({"type": "array", "items": "null"}, HUGE + b"\0", "items that take no bytes"),
        ({"type": "array", "items": {"type": "array", "items": "null"}}, b"\xfe\xff\x07" + b"\xfe\xff\x07\0" * 70_000, "take no"),
        ({"type": "array", "items": "null"}, b"\xfe\xff\x03" * 70_000 + b"\0", "items that take no bytes"),
        ({"type": "array", "items": "double"}, HUGE + b"\0", "more items than there are bytes for"),
        ({"type": "map", "values": "null"}, HUGE + b"\0", "more items than there are bytes for"),
        ({"type": "array", "items": "int"}, b"\1\x7f", "a block's size is more than there is"),
        ({"type": "array", "items": "int"}, b"\1\4\2\0", "a block is not as long as it says"),
        (LINKED, b"\2\2" * 100_000 + b"\2\0", "nested deeper than 200 levels"),
        (MONEY, b"\x80\x10" + b"\x7f" * 1024, "a decimal of 512 bytes at most"),
    ],
)  # fmt: skip
def test_data_that_is_no_value_is_told_so(kind: Any, data: bytes, message: str) -> None:
    started_s = time.perf_counter()
    with pytest.raises(AvroDataError, match=message) as caught:
        schema(kind).decode(data)
    assert isinstance(caught.value, BusError | ValueError)
    assert time.perf_counter() - started_s < 5


def test_the_error_names_the_place_and_which_of_many() -> None:
    avro = schema(record(field("orders", {"type": "array", "items": record(field("note", "string"), name="Order")})))
    good = avro.encode({"orders": [{"note": "a"}]})
    with pytest.raises(AvroDataError, match=r"no value of record R: at orders\[\].note: a length is negative or more") as caught:
        avro.decode_many([good, b"\2\x08a", good])
    assert caught.value.details == {"path": "orders[].note", "index": 1}


def test_skipped_data_is_bounded_too() -> None:
    avro = schema(
        record(field("a", {"type": "array", "items": "double"}), field("n", {"type": "array", "items": "null"}), field("b"))
    )
    reader = avro.projected(["b"])
    for data in (HUGE + b"\0", b"\0" + HUGE + b"\0", b"\1" + HUGE, b"\2" + b"\0" * 3):
        with pytest.raises(AvroDataError):
            avro.decode(data, reader)
    assert avro.decode(b"\1\x10" + b"\0" * 8 + b"\0\0\2", reader) == {"b": 1}


def test_an_offset_leaves_out_what_stands_before() -> None:
    avro = schema("string")
    assert avro.decode(b"\0\0\0\0\7\2a", offset=5) == "a"
    assert avro.decode_many([memoryview(b"\0\2a"), bytearray(b"\1\2b")], offset=1) == ["a", "b"]
    with pytest.raises(AvroDataError, match="ends too early"):
        avro.decode(b"\0", offset=5)


def test_values_may_be_nested_200_levels_deep_and_no_more() -> None:
    avro = schema(LINKED)
    value: Any = None
    for _ in range(200):
        value = {"value": 1, "next": value}
    assert avro.decode(avro.encode(value)) == value
    for _ in range(100_000):
        value = {"value": 1, "next": value}
    assert [v.rule for v in avro.violations(value)] == ["depth"]


def test_a_chain_of_many_types_is_compiled_without_deep_calls() -> None:
    chain = [record(field("v"), name="A0"), *(record(field("x", f"A{i - 1}"), name=f"A{i}") for i in range(1, 2000))]
    value: Any = {"v": 1}
    for _ in range(3):
        value = {"x": value}
    avro = schema("A3", *chain)
    assert avro.decode(avro.encode(value)) == value
    for _ in range(1996):
        value = {"x": value}
    assert [v.rule for v in schema("A1999", *chain).violations(value)] == ["depth"]
