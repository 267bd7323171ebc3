"""A search for witnesses against the Avro compatibility check and the codec.

Schemas are made by chance, and evolved in the ways that people evolve theirs. Wherever ``differences`` finds none, every value
that the writer can write must be read by the reader, equal in what both have. ``ESB_WITNESS_PAIRS`` says how many pairs.
"""

import base64
import copy
import io
import json
import os
import random
from collections import Counter
from typing import Any

import fastavro
import pytest

from event_streaming_bus.registry.avro.compatibility import differences
from event_streaming_bus.registry.avro.schema import AvroSchema
from event_streaming_bus.registry.avro.types import AvroDataError
from event_streaming_bus.registry.avro.violations import violations_of

# Read at import: the settings of the machine are taken away from the tests themselves.
PAIRS = int(os.environ.get("ESB_WITNESS_PAIRS", "1200"))
SEED = int(os.environ.get("ESB_WITNESS_SEED", "20240607"))
VALUES = 4

PRIMITIVES = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"]
LOGICAL = {
    "int": ["date", "time-millis"],
    "long": ["time-micros", "timestamp-millis", "timestamp-micros", "timestamp-nanos", "local-timestamp-millis"],
    "string": ["uuid"],
    "bytes": ["decimal"],
}
INTS = [0, 1, -1, 63, 64, -64, -65, 8191, 8192, -8193, 2**20, -(2**20) - 1, 2**31 - 1, -(2**31)]
LONGS = [*INTS, 2**31, 2**53 + 1, -(2**53) - 1, 2**62, 2**63 - 1, -(2**63), 1_700_000_000_123]
FLOATS = [0.0, -0.0, 1.5, -2.25, 1e30, float("inf"), 2.0**-126]
TEXTS = ["", "a", "ä€😀", "x" * 63, "y" * 64, "z" * 9000, "true", "aGk=", "\0"]
BINARIES = [b"", b"\0", b"hi", bytes(range(256)), b"q" * 64, "é".encode()]


class Maker:
    """Schemas by chance. The types of one schema have different names."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.count = 0
        self.namespaces = rng.choice([[""], ["a.", "a.b."]])  # a mixture would make names mean what the tests do not follow
        self.open: list[str] = []
        self.done: list[str] = []

    def name(self) -> str:
        self.count += 1
        return f"{self.rng.choice(self.namespaces)}T{self.count}"

    def primitive(self) -> Any:
        kind = self.rng.choice(PRIMITIVES[1:])
        if kind in LOGICAL and self.rng.random() < 0.3:
            return logical(self.rng, kind)
        return kind

    def type(self, depth: int) -> Any:
        rng = self.rng
        draw = rng.random()
        if depth <= 0 or draw < 0.4:
            return self.primitive()
        if draw < 0.5:
            return {"type": "enum", "name": self.name(), "symbols": rng.sample("ABCDEFG", rng.randint(1, 5))}
        if draw < 0.55:
            return {"type": "fixed", "name": self.name(), "size": rng.choice([0, 1, 4, 16])}
        if draw < 0.65:
            return {"type": "array", "items": self.type(depth - 1)}
        if draw < 0.72:
            return {"type": "map", "values": self.type(depth - 1)}
        if draw < 0.85:
            return self.union(depth)
        if draw < 0.9 and self.open:
            return rng.choice([["null", rng.choice(self.open)], {"type": "array", "items": rng.choice(self.open)}])
        if draw < 0.93 and self.done:
            return rng.choice(self.done)
        return self.record(depth - 1)

    def union(self, depth: int) -> list[Any]:
        branches: dict[str, Any] = {"null": "null"} if self.rng.random() < 0.7 else {}
        for _ in range(self.rng.randint(1, 3)):
            branch = self.type(depth - 1)
            if not isinstance(branch, list):
                key = branch if isinstance(branch, str) else branch.get("name", branch["type"])
                branches.setdefault(key, branch)
        found = list(branches.values()) or ["null"]
        if self.rng.random() < 0.3:
            self.rng.shuffle(found)
        return found

    def record(self, depth: int) -> dict[str, Any]:
        name = self.name()
        self.open.append(name)
        fields = [self.field(f"f{i}", depth) for i in range(self.rng.randint(0, 5))]
        self.open.remove(name)
        self.done.append(name)
        return {"type": "record", "name": name, "fields": fields}

    def field(self, name: str, depth: int) -> dict[str, Any]:
        field = {"name": name, "type": self.type(depth)}
        if self.rng.random() < 0.3:
            give_default(self.rng, field)
        return field


def logical(rng: random.Random, kind: str) -> dict[str, Any]:
    made: dict[str, Any] = {"type": kind, "logicalType": rng.choice(LOGICAL[kind])}
    if made["logicalType"] == "decimal":
        made |= {"precision": rng.choice([4, 9, 20]), "scale": rng.choice([0, 2, 4])}
    return made


def give_default(rng: random.Random, field: dict[str, Any]) -> None:
    kind = field["type"]
    kind = kind[0] if isinstance(kind, list) else kind
    simple = kind if isinstance(kind, str) else kind["type"]
    defaults = {
        "null": None, "boolean": True, "int": 7, "long": -8, "float": 1.5, "double": 2.5,
        "string": "d", "bytes": "\x00\xff", "array": [], "map": {},
    }  # fmt: skip
    if isinstance(kind, dict) and kind.get("logicalType") == "uuid":
        field["default"] = "123e4567-e89b-12d3-a456-426614174000"
    elif simple in defaults:
        field["default"] = defaults[simple]
    elif simple == "enum" and isinstance(kind, dict):
        field["default"] = kind["symbols"][0]
    elif simple == "fixed" and isinstance(kind, dict):
        field["default"] = "\x01" * kind["size"]


# --- evolving -----------------------------------------------------------------------------------------------------------


def slots(node: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Every place of a schema that holds a type, as (container, key)."""
    found = [] if found is None else found
    if isinstance(node, list):
        for i, each in enumerate(node):
            found.append((node, i))
            slots(each, found)
    elif isinstance(node, dict):
        for key in ("items", "values"):
            if key in node:
                found.append((node, key))
                slots(node[key], found)
        for field in node.get("fields", []):
            found.append((field, "type"))
            slots(field["type"], found)
    return found


def evolved(rng: random.Random, schema: Any) -> Any:
    """The schema with one to three changes. It may be no schema any more."""
    box = [copy.deepcopy(schema)]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = [(box, 0), *slots(box[0])]
        container, key = rng.choice(places)
        change(rng, box, container, key)
    return box[0]


def change(rng: random.Random, box: list[Any], container: Any, key: Any) -> None:
    node = container[key]
    if isinstance(node, list):
        change_union(rng, container, key, node)
    elif isinstance(node, dict) and node["type"] == "record" and rng.random() < 0.9:
        change_record(rng, box, node)
    elif isinstance(node, dict) and node["type"] == "enum" and rng.random() < 0.9:
        change_enum(rng, box, node)
    elif isinstance(node, dict) and node["type"] == "fixed" and rng.random() < 0.7:
        if rng.random() < 0.5:
            node["size"] = rng.choice([1, 4, 5, 16])
        else:
            rename(rng, box, node)
    elif isinstance(node, dict) and "logicalType" in node and rng.random() < 0.6:
        changed = rng.choice([node["type"], logical(rng, node["type"])])
        container[key] = changed
    elif rng.random() < 0.25 and not isinstance(container, list):
        container[key] = ["null", node] if rng.random() < 0.7 else [node, "null"]
    elif isinstance(node, str) and node in LOGICAL and rng.random() < 0.2:
        container[key] = logical(rng, node)
    else:
        promoted = {"int": ["long", "float", "double"], "long": ["float", "double"], "float": ["double"],
                    "string": ["bytes"], "bytes": ["string"]}  # fmt: skip
        simple = node if isinstance(node, str) else node["type"]
        container[key] = rng.choice(promoted.get(simple, PRIMITIVES) if rng.random() < 0.8 else PRIMITIVES)


def change_union(rng: random.Random, container: Any, key: Any, node: list[Any]) -> None:
    draw = rng.random()
    if draw < 0.3 and len(node) > 1:
        node.pop(rng.randrange(len(node)))
    elif draw < 0.6:
        node.insert(rng.randint(0, len(node)), rng.choice(PRIMITIVES))
    elif draw < 0.8:
        rng.shuffle(node)
    elif not isinstance(container, list):
        container[key] = rng.choice(node)


def change_record(rng: random.Random, box: list[Any], node: dict[str, Any]) -> None:
    fields = node["fields"]
    draw = rng.random()
    if draw < 0.25 or not fields:
        field = {"name": f"n{rng.randint(0, 99)}", "type": Maker(rng).primitive()}
        if rng.random() < 0.7:
            give_default(rng, field)
        fields.insert(rng.randint(0, len(fields)), field)
        return
    field = rng.choice(fields)
    if draw < 0.4:
        fields.remove(field)
    elif draw < 0.6:
        old, field["name"] = field["name"], f"r{rng.randint(0, 99)}"
        if rng.random() < 0.7:
            field["aliases"] = [old, *field.get("aliases", [])]
    elif draw < 0.75:
        rng.shuffle(fields)
    elif draw < 0.85:
        field.pop("default", None)
    elif draw < 0.9:
        give_default(rng, field)
    else:
        rename(rng, box, node)


def change_enum(rng: random.Random, box: list[Any], node: dict[str, Any]) -> None:
    draw = rng.random()
    if draw < 0.35:
        node["symbols"].insert(rng.randint(0, len(node["symbols"])), f"S{rng.randint(0, 99)}")
    elif draw < 0.6 and len(node["symbols"]) > 1:
        node["symbols"].remove(rng.choice([s for s in node["symbols"] if s != node.get("default")] or node["symbols"]))
        if rng.random() < 0.5:
            node["default"] = node["symbols"][0]
    elif draw < 0.8:
        rng.shuffle(node["symbols"])
    elif draw < 0.9:
        node["default"] = node["symbols"][-1]
    else:
        rename(rng, box, node)


def rename(rng: random.Random, box: list[Any], node: dict[str, Any]) -> None:
    """Rename a type, or move it to another namespace, everywhere; mostly with an alias."""
    old, simple = node["name"], node["name"].rpartition(".")[2]
    new = f"{'c.' if '.' in old else ''}{simple if rng.random() < 0.4 else 'N' + simple}"
    for container, key in [(box, 0), *slots(box[0])]:
        if container[key] == old:
            container[key] = new
    node["name"] = new
    if rng.random() < 0.6:
        node["aliases"] = [old, *node.get("aliases", [])]


# --- values -------------------------------------------------------------------------------------------------------------


def named_types(node: Any) -> dict[str, Any]:
    found = {}
    for container, key in [([node], 0), *slots(node)]:
        each = container[key]
        if isinstance(each, dict) and "name" in each:
            found[each["name"]] = each
    return found


def value_of(rng: random.Random, node: Any, names: dict[str, Any], depth: int = 5) -> Any:
    """A value by chance, at the limits of its type as often as not."""
    if isinstance(node, list):
        branches = [b for b in node if depth > 0 or b == "null"] or node
        return value_of(rng, rng.choice(branches), names, depth - 1)
    if isinstance(node, str) and node not in PRIMITIVES:
        return value_of(rng, names[node], names, depth)
    kind = node if isinstance(node, str) else node["type"]
    if isinstance(node, dict) and "logicalType" in node:
        return logical_value(rng, node)
    if kind == "record":
        return {
            f["name"]: value_of(rng, f["type"], names, depth - 1)
            for f in node["fields"]
            if "default" not in f or rng.random() < 0.9
        }
    if kind in ("array", "map"):
        count = rng.choice([0, 1, 3]) if depth > 0 else 0
        values = [value_of(rng, node["items" if kind == "array" else "values"], names, depth - 1) for _ in range(count)]
        return values if kind == "array" else {rng.choice(TEXTS): value for value in values}
    if kind == "enum":
        return rng.choice(node["symbols"])
    if kind == "fixed":
        return bytes(rng.randrange(256) for _ in range(node["size"]))
    return rng.choice(
        {
            "null": [None], "boolean": [True, False], "int": INTS, "long": LONGS, "float": FLOATS,
            "double": [*FLOATS, 0.1, 1e300, -1.7976931348623157e308], "bytes": BINARIES, "string": TEXTS,
        }[kind]
    )  # fmt: skip


def logical_value(rng: random.Random, node: dict[str, Any]) -> Any:
    name = node["logicalType"]
    if name == "decimal":
        unscaled = rng.choice(
            [0, 1, -1, 10 ** min(node["precision"], 15) - 1, -(10 ** min(node["precision"], 15)) + 1, 128, -128]
        )
        return unscaled / 10 ** node["scale"] if node["scale"] else unscaled
    if name == "uuid":
        return rng.choice(["123e4567-e89b-12d3-a456-426614174000", "00000000-0000-0000-0000-000000000000"])
    return rng.choice(INTS if node["type"] == "int" else LONGS)


# --- what equal means, told by the schemas' texts and not by the code under test ----------------------------------------------


def simple_name(name: str) -> str:
    return name.rpartition(".")[2]


def agree(w: Any, r: Any, written: Any, read: Any, names: tuple[dict[str, Any], dict[str, Any]]) -> bool:
    """Whether the value that the reader shows says what the one that the writer shows does, in what both have."""
    if isinstance(w, str) and w not in PRIMITIVES:
        w = names[0][w]
    if isinstance(r, str) and r not in PRIMITIVES:
        r = names[1][r]
    if isinstance(w, list):
        return any(shows(b, written, names[0]) and agree(b, r, written, read, names) for b in w)
    if isinstance(r, list):
        return any(agree(w, b, written, read, names) for b in r)
    wk, rk = (x if isinstance(x, str) else x["type"] for x in (w, r))
    if wk == "record":
        return rk == wk and isinstance(written, dict) and isinstance(read, dict) and records_agree(w, r, written, read, names)
    if wk == "array":
        return rk == wk and isinstance(written, list) and isinstance(read, list) and len(written) == len(read) and all(
            agree(w["items"], r["items"], a, b, names) for a, b in zip(written, read, strict=True)
        )  # fmt: skip
    if wk == "map":
        return rk == wk and isinstance(written, dict) and isinstance(read, dict) and written.keys() == read.keys() and all(
            agree(w["values"], r["values"], written[key], read[key], names) for key in written
        )  # fmt: skip
    if wk == "enum":
        return rk == wk and read == (written if written in r["symbols"] else r.get("default"))
    if (wk, rk) == ("string", "bytes"):
        return isinstance(written, str) and binary(read) == written.encode()
    if (wk, rk) == ("bytes", "string"):
        found = binary(written)
        return found is not None and read == found.decode("utf-8", "replace")
    if rk in ("float", "double") and wk in ("int", "long"):
        return isinstance(written, int) and isinstance(read, float) and read == float(written)
    return (wk == rk or (wk, rk) in {("int", "long"), ("float", "double")}) and type(written) is type(read) and written == read


def binary(shown: Any) -> bytes | None:
    """The bytes that a text shows; ``None`` if it is not what bytes are shown as."""
    try:
        return base64.b64decode(shown, validate=True)
    except (TypeError, ValueError):
        return None


def records_agree(w: Any, r: Any, written: Any, read: Any, names: tuple[dict[str, Any], dict[str, Any]]) -> bool:
    fields = {f["name"]: f for f in w["fields"]}
    taken = {f["name"] for f in r["fields"]} & fields.keys()
    if list(read) != [f["name"] for f in r["fields"]]:
        return False
    for field in r["fields"]:
        source = (
            field["name"]
            if field["name"] in fields
            else next((a for a in field.get("aliases", []) if a in fields and a not in taken), None)
        )
        if source is None:
            if "default" not in field:
                return False
            continue
        taken.add(source)
        if not agree(fields[source]["type"], field["type"], written[source], read[field["name"]], names):
            return False
    return True


def shows(node: Any, value: Any, names: dict[str, Any]) -> bool:
    """Whether a branch of a union may show as this value: roughly, by its JSON type."""
    if isinstance(node, str) and node not in PRIMITIVES:
        node = names[node]
    kind = node if isinstance(node, str) else node["type"]
    if isinstance(node, dict) and "logicalType" in node:
        types_shown = {"uuid": str, "decimal": int | float}
        return isinstance(value, types_shown.get(node["logicalType"], int | str)) and not isinstance(value, bool)
    if kind == "record":
        return isinstance(value, dict) and list(value) == [f["name"] for f in node["fields"]]
    if kind == "enum":
        return value in node["symbols"]
    types: dict[str, Any] = {"null": type(None), "boolean": bool, "int": int, "long": int, "float": float, "double": float,
                             "bytes": str, "string": str, "fixed": str, "array": list, "map": dict}  # fmt: skip
    return type(value) is types[kind]


def parsed(schema: Any) -> AvroSchema | None:
    """The schema, or nothing if chance made it none."""
    try:
        return AvroSchema(json.dumps(schema))
    except ValueError:
        return None
    except Exception as error:
        if type(error).__name__ != "SchemaError":
            raise
        return None


def test_what_is_called_compatible_is_read_with_the_same_meaning() -> None:
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for number in range(PAIRS):
        rng = random.Random(SEED * 1_000_003 + number)
        w = Maker(rng).record(3) if rng.random() < 0.8 else Maker(rng).type(3)
        r = evolved(rng, w)
        if rng.random() < 0.3:
            w, r = r, w
        writer, reader = parsed(w), parsed(r)
        if writer is None or reader is None:
            counts["no schemas"] += 1
            continue
        found = differences(reader, writer)
        kinds.update({f.kind for f in found})
        counts["compatible" if not found else "incompatible"] += 1
        names = named_types(w), named_types(r)
        seen = False
        for _ in range(VALUES):
            try:
                payload = value_of(rng, w, names[0])
            except RecursionError:  # a change has made a type that needs itself: it has no values
                counts["endless"] += 1
                break
            assert writer.violations(payload) == [], (number, w, payload)
            data = writer.encode(payload)
            written = writer.decode(data)
            if not has_union(w) and re_encodes(writer):
                assert writer.encode(written) == data, (number, w, payload, written)
            if found:
                try:
                    seen = not agree(w, r, written, writer.decode(data, reader), names) or seen
                except AvroDataError:
                    seen = True
            else:
                counts["values"] += 1
                read = writer.decode(data, reader)
                assert agree(w, r, written, read, names), (number, w, r, written, read)
                if re_encodes(reader):
                    reader.encode(read)
        counts["incompatible with a witness"] += bool(found) and seen
    print(dict(counts), dict(kinds))
    assert counts["compatible"] > PAIRS // 5
    assert counts["values"] > PAIRS // 2
    assert counts["incompatible"] > PAIRS // 5
    assert counts["incompatible with a witness"] > counts["incompatible"] // 2
    if PAIRS >= 1000:
        assert len(kinds) >= 7


def re_encodes(schema: AvroSchema) -> bool:
    """Whether all that the schema shows can be encoded with it: a default may be no uuid, or no decimal of that precision."""
    return "default" not in schema.canonical or "logicalType" not in schema.canonical


def has_union(node: Any) -> bool:
    return any(isinstance(container[key], list) for container, key in [([node], 0), *slots(node)])


# --- fastavro as the oracle of the codec ---------------------------------------------------------------------------------


def without_logical_types(node: Any) -> Any:
    node = copy.deepcopy(node)
    for container, key in slots([node]):
        if isinstance(container[key], dict):
            container[key].pop("logicalType", None)
    return node


def shown(kind: Any, value: Any, names: dict[str, Any]) -> Any:
    """A value of fastavro's as JSON."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: shown(kind, each, names) for key, each in value.items()}
    return [shown(kind, each, names) for each in value] if isinstance(value, list) else value


def test_the_codec_agrees_with_fastavro() -> None:
    checked = 0
    for number in range(PAIRS // 3):
        rng = random.Random(SEED * 7919 + number)
        text = without_logical_types([Maker(rng).record(3)][0])
        schema = parsed(text)
        if schema is None:
            continue
        theirs = fastavro.parse_schema(copy.deepcopy(text), {})
        for _ in range(VALUES):
            data = schema.encode(value_of(rng, text, named_types(text)))
            value = fastavro.schemaless_reader(io.BytesIO(data), theirs)
            assert schema.decode(data) == shown(text, value, {}), (text, value)
            checked += 1
            if not has_union(text):  # fastavro takes bytes for an array of ints where a union has both
                again = io.BytesIO()
                fastavro.schemaless_writer(again, theirs, value)
                assert again.getvalue() == data
    assert checked > PAIRS // 3


def test_no_data_does_anything_but_decode_or_fail_as_data() -> None:
    decoded = 0
    for number in range(PAIRS // 3):
        rng = random.Random(SEED * 104_729 + number)
        text = Maker(rng).record(3)
        schema, reader = parsed(text), parsed(evolved(rng, text))
        if schema is None:
            continue
        data = bytearray(schema.encode(value_of(rng, text, named_types(text))))
        for _ in range(4):
            for _ in range(rng.randint(1, 3)):
                if data:
                    data[rng.randrange(len(data))] = rng.choice([0, 1, 2, 3, 127, 128, 255, rng.randrange(256)])
            if rng.random() < 0.3:
                del data[rng.randrange(len(data) + 1) :]
            elif rng.random() < 0.3:
                data += rng.randbytes(rng.randint(1, 9))
            for with_reader in (None, reader, schema.projected(["f0", "f2"])):
                try:
                    schema.decode(bytes(data), with_reader)
                    decoded += 1
                except AvroDataError:
                    pass
    assert decoded > PAIRS // 10


@pytest.mark.parametrize("kept", [[], ["f1"], ["f0", "f3"]])
def test_a_projection_shows_what_the_whole_shows(kept: list[str]) -> None:
    checked = 0
    for number in range(PAIRS // 10):
        rng = random.Random(SEED * 31 + number)
        text = Maker(rng).record(3)
        schema = parsed(text)
        if schema is None:
            continue
        data = schema.encode(value_of(rng, text, named_types(text)))
        whole = schema.decode(data)
        assert schema.decode(data, schema.projected(kept)) == {key: value for key, value in whole.items() if key in kept}
        checked += 1
    assert checked > PAIRS // 20


def spoilt(rng: random.Random, value: Any) -> Any:
    """The value with one thing in it exchanged, added or taken away."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        draw = rng.random()
        if draw < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | ({"extra": 1} if draw < 0.2 else {key: spoilt(rng, value[key])})
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = rng.randrange(len(value))
        return [*value[:i], spoilt(rng, value[i]), *value[i + 1 :]]
    return rng.choice(
        [
            None,
            True,
            5,
            -1,
            2**31,
            2**63,
            1.5,
            1e300,
            "",
            "A",
            "aGk=",
            b"hi",
            [],
            {},
            [1],
            {"a": 1},
            {"f0": 1},
            "2013-01-01",
            ("int", 1),
        ]
    )


def test_the_explanation_agrees_with_the_encoder() -> None:
    counts: Counter[bool] = Counter()
    for number in range(PAIRS // 3):
        rng = random.Random(SEED * 613 + number)
        text = Maker(rng).record(3)
        schema = parsed(text)
        if schema is None:
            continue
        for _ in range(VALUES):
            payload = spoilt(rng, value_of(rng, text, named_types(text)))
            explained = violations_of(schema.type, payload)
            refused = schema.violations(payload)
            assert explained == refused, (text, payload)
            counts[bool(refused)] += 1
            if not refused:
                schema.decode(schema.encode(payload))
    assert min(counts[True], counts[False]) > PAIRS // 20
