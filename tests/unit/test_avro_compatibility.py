"""The Avro compatibility check: a table of evolutions in both directions, and what is told of them."""

import json
import time
from typing import Any

import pytest

from event_streaming_bus.registry.avro.compatibility import MAX_DIFFERENCES, differences
from event_streaming_bus.registry.avro.schema import AvroSchema
from event_streaming_bus.registry.avro.types import AvroDataError

TYPE, NAME, SIZE = "TYPE_MISMATCH", "NAME_MISMATCH", "FIXED_SIZE_MISMATCH"
SYMBOLS, FIELD, BRANCH = "MISSING_ENUM_SYMBOLS", "READER_FIELD_MISSING_DEFAULT_VALUE", "MISSING_UNION_BRANCH"
LOGICAL = "LOGICAL_TYPE_MISMATCH"


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: Any = "int", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": symbols, **more}


def fixed(size: int, name: str = "F", **more: Any) -> dict[str, Any]:
    return {"type": "fixed", "name": name, "size": size, **more}


def logical(kind: Any, name: str, **more: Any) -> dict[str, Any]:
    return {**(kind if isinstance(kind, dict) else {"type": kind}), "logicalType": name, **more}


def decimal(precision: int, scale: int) -> dict[str, Any]:
    return logical("bytes", "decimal", precision=precision, scale=scale)


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def map_of(values: Any) -> dict[str, Any]:
    return {"type": "map", "values": values}


A = field("a")
TREE = record(field("v"), field("kids", array("R")))
LINKED = record(field("v"), field("next", ["null", "R"]))
# (what is done, before, after, kinds of the new schema reading old data, kinds of the old schema reading new data)
EVOLUTIONS: list[tuple[str, Any, Any, list[str], list[str]]] = [
    ("nothing", record(A), record(A), [], []),
    ("doc added", record(A), record(A, doc="d"), [], []),
    ("fields re-ordered", record(A, field("b", "string")), record(field("b", "string"), A), [], []),
    ("field with a default added", record(A), record(A, field("b", default=1)), [], []),
    ("field without a default added", record(A), record(A, field("b")), [FIELD], []),
    ("two fields without a default added", record(A), record(A, field("b"), field("c")), [FIELD, FIELD], []),
    ("field with a default removed", record(A, field("b", default=1)), record(A), [], []),
    ("nullable field with a default added", record(A), record(A, field("b", ["null", "int"], default=None)), [], []),
    ("nullable field without a default added", record(A), record(A, field("b", ["null", "int"])), [FIELD], []),
    ("field renamed", record(A), record(field("b")), [FIELD], [FIELD]),
    ("field renamed with an alias", record(A), record(field("b", aliases=["a"])), [], [FIELD]),
    ("field renamed with an alias of no field", record(A), record(field("b", aliases=["c"])), [FIELD], [FIELD]),
    ("alias of a field that is there", record(A, field("b")), record(A, field("c", aliases=["a"], default=1)), [], [FIELD]),
    ("default removed", record(field("a", default=1)), record(A), [], []),
    ("record renamed", record(A), record(A, name="S"), [NAME], [NAME]),
    ("record renamed with an alias", record(A), record(A, name="S", aliases=["R"]), [], [NAME]),
    ("record moved to a namespace", record(A), record(A, namespace="x.y"), [], []),
    ("record renamed and moved with a full alias", record(A, name="x.R"), record(A, name="y.S", aliases=["x.R"]), [], [NAME]),
    ("record renamed and moved with a short alias", record(A, name="x.R"), record(A, name="y.S", aliases=["R"]), [NAME], [NAME]),
    ("int to long", "int", "long", [], [TYPE]),
    ("int to float", "int", "float", [], [TYPE]),
    ("int to double", "int", "double", [], [TYPE]),
    ("long to float", "long", "float", [], [TYPE]),
    ("long to double", "long", "double", [], [TYPE]),
    ("float to double", "float", "double", [], [TYPE]),
    ("string to bytes", "string", "bytes", [], [TYPE]),
    ("int to string", "int", "string", [TYPE], [TYPE]),
    ("int to boolean", "int", "boolean", [TYPE], [TYPE]),
    ("null to int", "null", "int", [TYPE], [TYPE]),
    ("bytes to fixed", "bytes", fixed(4), [TYPE], [TYPE]),
    ("enum to string", enum("A"), "string", [TYPE], [TYPE]),
    ("record to map", record(A), map_of("int"), [TYPE], [TYPE]),
    ("array to map", array("int"), map_of("int"), [TYPE], [TYPE]),
    ("items promoted", array("int"), array("long"), [], [TYPE]),
    ("values promoted", map_of("float"), map_of("double"), [], [TYPE]),
    ("items changed", array("int"), array("string"), [TYPE], [TYPE]),
    ("field type promoted", record(A), record(field("a", "long")), [], [TYPE]),
    ("symbol added", enum("A", "B"), enum("A", "B", "C"), [], [SYMBOLS]),
    ("symbol added to an enum with a default", enum("A", default="A"), enum("A", "B", default="A"), [], []),
    ("symbol removed", enum("A", "B"), enum("A"), [SYMBOLS], []),
    ("symbol removed, with a default", enum("A", "B"), enum("A", default="A"), [], []),
    ("symbols re-ordered", enum("A", "B"), enum("B", "A"), [], []),
    ("enum renamed", enum("A"), {**enum("A"), "name": "G"}, [NAME], [NAME]),
    ("fixed grown", fixed(4), fixed(8), [SIZE], [SIZE]),
    ("fixed renamed", fixed(4), fixed(4, name="G"), [NAME], [NAME]),
    ("fixed renamed with an alias", fixed(4), fixed(4, name="G", aliases=["F"]), [], [NAME]),
    ("made nullable", "int", ["null", "int"], [], [TYPE]),
    ("made nullable and promoted", "int", ["null", "long"], [], [TYPE, TYPE]),
    ("branch added", ["null", "int"], ["null", "int", "string"], [], [BRANCH]),
    ("branch removed", ["null", "int", "string"], ["null", "int"], [BRANCH], []),
    ("branches re-ordered", ["null", "int"], ["int", "null"], [], []),
    ("branch promoted", ["null", "int"], ["null", "long"], [], [BRANCH]),
    ("union of one to its type", ["int"], "int", [], []),
    ("unions with nothing in common", ["int", "null"], ["string", "boolean"], [BRANCH, BRANCH], [BRANCH, BRANCH]),
    ("record in a union changed", ["null", record(A)], ["null", record(A, field("b"))], [FIELD], []),
    ("record in a union renamed", ["null", record(A)], ["null", record(A, name="S")], [BRANCH], [BRANCH]),
    ("tree", TREE, record(field("v", "long"), field("kids", array("R"))), [], [TYPE]),
    ("tree with a new field", TREE, record(field("v"), field("kids", array("R")), field("n")), [FIELD], []),
    ("linked list", LINKED, record(field("v"), field("next", ["null", "R"]), field("n", default=0)), [], []),
    ("uuid to text", logical("string", "uuid"), "string", [], [LOGICAL]),
    ("duration to fixed", logical(fixed(12), "duration"), fixed(12), [], []),
    ("unknown logical type dropped", logical("int", "mood"), "int", [], []),
    ("time to number", logical("long", "timestamp-millis"), "long", [LOGICAL], [LOGICAL]),
    ("millis to micros", logical("long", "timestamp-millis"), logical("long", "timestamp-micros"), [LOGICAL], [LOGICAL]),
    ("time to local time", logical("long", "timestamp-millis"), logical("long", "local-timestamp-millis"), [LOGICAL], [LOGICAL]),
    ("date to long", logical("int", "date"), "long", [LOGICAL], [TYPE]),
    ("decimal to bytes", decimal(9, 2), "bytes", [LOGICAL], [LOGICAL]),
    ("scale changed", decimal(9, 2), decimal(9, 3), [LOGICAL], [LOGICAL]),
    ("precision grown", decimal(9, 2), decimal(12, 2), [], [LOGICAL]),
    ("fixed to uuid", fixed(16), logical(fixed(16), "uuid"), [LOGICAL], [LOGICAL]),
]  # fmt: skip


def schema(definition: Any) -> AvroSchema:
    return AvroSchema(json.dumps(definition))


@pytest.mark.parametrize(("before", "after", "backward", "forward"), [pytest.param(*e[1:], id=e[0]) for e in EVOLUTIONS])
def test_an_evolution_is_compatible_in_each_direction_or_not(before: Any, after: Any, backward: Any, forward: Any) -> None:
    old, new = schema(before), schema(after)
    assert [d.kind for d in differences(new, old)] == backward
    assert [d.kind for d in differences(old, new)] == forward


def test_the_table_is_long_enough() -> None:
    assert len(EVOLUTIONS) >= 50


def test_a_difference_names_the_place_the_values_and_what_to_do() -> None:
    before = record(field("order", record(A, field("state", enum("NEW", "PAID")), name="Order")))
    after = record(field("order", ["null", record(A, field("state", enum("NEW")), field("b"), name="Order")]))
    found = {d.kind: d for d in differences(schema(after), schema(before))}
    symbols, missing = found[SYMBOLS], found[FIELD]
    assert symbols.pointer == "/fields/0/type/1/fields/1/type/symbols"
    assert "may be PAID" in symbols.message
    assert symbols.fix == "Keep PAID, or give the enum a default symbol."
    assert (missing.pointer, missing.side) == ("/fields/0/type/1/fields/2", "reader")
    assert missing.message == "b is not written by record Order, and has no default"


def test_a_difference_within_a_reference_points_to_where_it_is_referred_to() -> None:
    item, changed = record(A, name="Item"), record(field("a", "string"), name="Item")
    order = json.dumps(record(field("x"), field("items", array("Item"))))
    old, new = AvroSchema(order, [json.dumps(item)]), AvroSchema(order, [json.dumps(changed)])
    assert [(d.kind, d.pointer) for d in differences(new, old)] == [(TYPE, "/fields/1/type/items")]


def test_a_field_renamed_by_alias_is_read_from_the_old_name() -> None:
    old, new = schema(record(A, field("b"))), schema(record(field("b"), field("z", aliases=["a"])))
    assert old.decode(old.encode({"a": 1, "b": 2}), new) == {"b": 2, "z": 1}


def test_names_exchanged_by_aliases_stay_as_they_are() -> None:
    old = schema(record(A, field("b")))
    new = schema(record(field("a", aliases=["b"]), field("b", aliases=["a"])))
    assert differences(new, old) == []
    assert old.decode(old.encode({"a": 1, "b": 2}), new) == {"a": 1, "b": 2}


def test_an_int_stays_an_int_in_a_union_that_has_one_behind_a_double() -> None:
    long = schema("long")
    assert long.decode(long.encode(2**60 + 1), schema(["double", "long"])) == 2**60 + 1
    assert long.decode(long.encode(5), schema(["string", "double"])) == 5.0


def test_a_default_of_the_reader_is_shown_as_a_value_would_be() -> None:
    reader = schema(record(A, field("b", "bytes", default="\u00ff"), field("d", decimal(4, 2), default="\u0001"),
                           field("r", record(field("x", "int", default=3), name="Q"), default={}),
                           field("l", array("int"), default=[1])))  # fmt: skip
    writer = schema(record(A))
    first, second = writer.decode_many([b"\2", b"\4"], reader)
    assert first == {"a": 1, "b": "/w==", "d": 0.01, "r": {"x": 3}, "l": [1]}
    first["l"].append(2)
    assert second["l"] == [1]


def test_what_is_incompatible_fails_only_for_the_data_that_it_is_about() -> None:
    old, new = schema(enum("A", "B")), schema(enum("A"))
    assert old.decode(old.encode("A"), new) == "A"
    with pytest.raises(AvroDataError, match="a symbol was written that E does not have"):
        old.decode(old.encode("B"), new)
    wide, narrow = schema(record(field("u", ["null", "string"]))), schema(record(field("u", ["null", "int"])))
    assert wide.decode(wide.encode({"u": None}), narrow) == {"u": None}
    with pytest.raises(AvroDataError, match="at u: string was written, which null or int does not have"):
        wide.decode(wide.encode({"u": "x"}), narrow)


def test_a_number_is_never_read_as_another_time_nor_a_decimal_with_another_scale() -> None:
    millis, micros = schema(logical("long", "timestamp-millis")), schema(logical("long", "timestamp-micros"))
    with pytest.raises(AvroDataError, match="change their meaning"):
        millis.decode(millis.encode(0), micros)
    cents = schema(decimal(9, 2))
    assert cents.decode(cents.encode("1.25"), schema(decimal(9, 3))) == 1.25


def test_the_check_is_bounded_for_schemas_made_to_be_slow() -> None:
    def ring(length: int) -> AvroSchema:  # of types that are all called R, each in a namespace of its own
        rest = [record(field("x", ["null", f"n{i - 1}.R"]), name=f"n{i}.R") for i in range(1, length)]
        return schema(record(field("all", ["null", *rest], default=None), field("x", ["null", f"n{length - 1}.R"]), name="n0.R"))

    started_s = time.perf_counter()
    assert [d.kind for d in differences(ring(907), ring(900))] == ["TOO_COMPLEX"]
    different = schema(record(*(field(f"f{i}", "string") for i in range(5000))))
    assert len(differences(different, schema(record()))) == MAX_DIFFERENCES
    assert time.perf_counter() - started_s < 5
