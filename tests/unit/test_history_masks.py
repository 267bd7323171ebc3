"""Masking: values that a schema marks as sensitive never come into the history; and what is told of a step is bounded."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import ValidationFailedError
from event_streaming_bus.models import EventConfig, InvalidEventPolicy, SerializationFormat, StreamConfig
from event_streaming_bus.store.history import History
from event_streaming_bus.store.history.bounded import MAX_DATA_BYTES, bounded_text
from event_streaming_bus.store.history.masks import Mask
from event_streaming_bus.testing import read_all, temporary_bus

SECRET = "4111-1111"
MARKED = {"type": "string", "x-sensitive": True}


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def masked(schema: Any, value: Any, *, avro: bool = False, **references: Any) -> Any:
    return json.loads(Mask({"": schema, **references}, is_avro=avro).masked(json.dumps(value).encode()))


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"properties": {"card": MARKED}}, {"card": SECRET, "n": 1}, {"card": "***", "n": 1}),
        ({"properties": {"card": MARKED}}, {"card": None}, {"card": None}),
        ({"properties": {"card": MARKED}}, {"card": {"number": SECRET}}, {"card": "***"}),
        ({"properties": {"a": {"properties": {"b": MARKED}}}}, {"a": {"b": SECRET}}, {"a": {"b": "***"}}),
        ({"properties": {"cards": {"items": MARKED}}}, {"cards": [SECRET, SECRET]}, {"cards": ["***", "***"]}),
        ({"prefixItems": [{}, MARKED]}, ["a", SECRET], ["***", "***"]),
        ({"patternProperties": {"^card": MARKED}}, {"card2": SECRET, "x": 1}, {"card2": "***", "x": 1}),
        ({"properties": {"x": {}}, "additionalProperties": MARKED}, {"x": 1, "y": SECRET}, {"x": 1, "y": "***"}),
        ({"oneOf": [{"properties": {"a": MARKED}}, {"required": ["b"]}]}, {"a": SECRET}, {"a": "***"}),
        ({"$defs": {"card": MARKED}, "properties": {"c": {"$ref": "#/$defs/card"}}}, {"c": SECRET}, {"c": "***"}),
        ({"$defs": {"c": MARKED | {"$anchor": "card"}}, "properties": {"c": {"$ref": "#card"}}}, {"c": SECRET}, {"c": "***"}),
        (
            {"properties": {"card": MARKED, "next": {"$ref": "#"}}},
            {"next": {"next": {"card": SECRET}}},
            {"next": {"next": {"card": "***"}}},
        ),
        ({"x-sensitive": True}, SECRET, "***"),
        ({"properties": {"card": {"x-sensitive": False}}}, {"card": "x"}, {"card": "x"}),
    ],
)
def test_marked_fields_of_a_json_schema_are_masked_wherever_they_are(schema: Any, value: Any, expected: Any) -> None:
    assert masked(schema, value) == expected


def test_marks_of_schemas_that_are_referred_to_count(bus: Bus) -> None:
    schema = {"properties": {"card": {"$ref": "card.json"}, "other": {"$ref": "card.json#/$defs/plain"}}}
    card = MARKED | {"$defs": {"plain": {"type": "string"}}}
    assert masked(schema, {"card": SECRET, "other": "x"}, **{"card.json": card}) == {"card": "***", "other": "x"}


def test_marked_fields_of_an_avro_schema_are_masked() -> None:
    card = {"type": "record", "name": "Card", "fields": [{"name": "number", "type": "string", "x-sensitive": True}]}
    fields = [
        {"name": "card", "type": ["null", card]},
        {"name": "more", "type": {"type": "array", "items": "Card"}},
        {"name": "by", "type": {"type": "map", "values": "Card"}},
        {"name": "n", "type": "int"},
    ]
    one = {"number": SECRET}
    value = {"card": one, "more": [one], "by": {"x": one}, "n": 1}
    hidden = {"number": "***"}
    schema = {"type": "record", "name": "Order", "fields": fields}
    assert masked(schema, value, avro=True) == {"card": hidden, "more": [hidden], "by": {"x": hidden}, "n": 1}


def test_what_is_no_json_is_masked_as_a_whole() -> None:
    assert Mask({"": {"properties": {"card": MARKED}}}, is_avro=False).masked(b"\xff" + SECRET.encode()) == b'"***"'


def everything(history: History) -> str:
    tables = ("events", "processing_history", "dead_letters", "late_events")
    return "".join(repr(list(history.query(f"FROM {table}").rows())) for table in tables)


@pytest.mark.parametrize("written", [SerializationFormat.JSON, SerializationFormat.AVRO])
def test_sensitive_values_never_come_into_the_history(bus: Bus, written: SerializationFormat) -> None:
    if written is SerializationFormat.JSON:
        given: dict[str, Any] = {"json_schema": {"properties": {"card": MARKED, "n": {"type": "integer"}}}}
    else:
        fields = [{"name": "card", "type": "string", "x-sensitive": True}, {"name": "n", "type": "int"}]
        given = {"avro_schema": {"type": "record", "name": "Order", "fields": fields}}
    schema = bus.schemas.register({"schema_name": "s", "schema_version": "1.0", **given})
    bus.log.create_stream(StreamConfig(name="orders", schema_id=schema.schema_id))
    config = EventConfig(event_type="t", serialization_format=written)
    bus.publishing.submit(config, [{"card": SECRET, "n": 1}, {"card": SECRET, "n": 2}], stream_id="orders").result()
    assert read_all(bus, "orders")[0].payload["card"] == SECRET
    history = History(bus.storage)
    history.catch_up()
    rows = history.query("SELECT payload->>'card', (payload->>'n')::INT FROM events ORDER BY 2")
    assert list(rows.rows()) == [("***", 1), ("***", 2)]
    assert SECRET not in everything(history)
    history.close()


def test_dead_letters_are_masked_by_name_wherever_the_value_is(bus: Bus) -> None:
    definition = {"properties": {"card": MARKED, "n": {"type": "integer"}}, "required": ["n"]}
    schema = bus.schemas.register({"schema_name": "s", "schema_version": "1.0", "json_schema": definition})
    policy = InvalidEventPolicy.DEAD_LETTER
    bus.log.create_stream(StreamConfig(name="orders", schema_id=schema.schema_id, on_invalid=policy))
    payloads = [{"card": SECRET}, {"deep": [{"card": SECRET}]}, {"n": 1, "card": SECRET}]
    bus.publishing.submit(EventConfig(event_type="t"), payloads, stream_id="orders").result()
    history = History(bus.storage)
    history.catch_up()
    assert len(list(history.query("FROM dead_letters").rows())) == 2
    assert SECRET not in everything(history)
    history.close()


def test_a_schema_without_marks_costs_nothing_and_changes_nothing(bus: Bus) -> None:
    schema = bus.schemas.register({"schema_name": "s", "schema_version": "1.0", "json_schema": {"required": ["n"]}})
    bus.log.create_stream(StreamConfig(name="orders", schema_id=schema.schema_id))
    bus.publishing.submit(EventConfig(event_type="t"), [b'{"n":  1.50}'], stream_id="orders").result()
    with pytest.raises(ValidationFailedError):
        bus.publishing.submit(EventConfig(event_type="t"), [{}], stream_id="orders").result()
    history = History(bus.storage)
    history.catch_up()
    assert list(history.query("SELECT payload FROM events").rows()) == [('{"n":  1.50}',)]
    history.close()


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_what_a_step_was_given_is_cut_and_says_so(bus: Bus) -> None:
    bus.create_stream("orders")
    (receipt,) = bus.publishing.submit(EventConfig(event_type="t"), [{"text": "x" * 50_000}], stream_id="orders").result()
    history = History(bus.storage)
    history.catch_up()
    (step,) = history.processing_history("default", receipt.event_id)["processing_history"]
    assert (step["input_data"]["truncated"], step["input_data"]["total_bytes"]) == (True, 50_011)
    assert len(step["input_data"]["payload"]) == MAX_DATA_BYTES
    history.close()


def test_what_a_step_found_out_is_cut_and_stays_json() -> None:
    assert bounded_text(None) is None
    assert bounded_text('{"a":1}') == '{"a":1}'
    told = json.loads(bounded_text('"' + "ü" * 20_000 + '"') or "")
    assert (told["truncated"], told["total_bytes"]) == (True, 40_002)
    assert len(told["start"].encode()) <= MAX_DATA_BYTES
