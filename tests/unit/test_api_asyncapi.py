"""The AsyncAPI document: its structure by the specification's rules, and what it says of streams."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from event_streaming_bus.api.asyncapi import document
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.models import StreamConfig
from event_streaming_bus.registry.streams import make_stream

KEY = re.compile(r"[A-Za-z0-9._-]+")
MEMBERS = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
CHANNEL = {"address", "messages", "title", "summary", "description", "servers", "parameters", "tags", "externalDocs", "bindings"}
OPERATION = {
    "action",
    "channel",
    "title",
    "summary",
    "description",
    "security",
    "tags",
    "bindings",
    "traits",
    "messages",
    "reply",
}
MESSAGE = {"headers", "payload", "correlationId", "contentType", "name", "title", "summary", "description", "tags", "bindings"}


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with open_bus(tmp_path) as bus:
        yield bus


def make(bus: Bus, name: str, schema: dict[str, Any] | None = None, **fields: Any) -> None:
    if schema is not None:
        bus.schemas.register({"schema_name": name, **schema})
    make_stream(bus.log, bus.schemas, StreamConfig(name=name, **fields), None if schema is None else name)


def told(bus: Bus) -> dict[str, Any]:
    found = document(bus.storage, "default", "localhost:8080", "http")
    check(found)
    return found


def check(found: dict[str, Any]) -> None:
    """What the specification demands of a document."""
    assert found["asyncapi"] == "3.0.0"
    assert found.keys() <= MEMBERS
    assert {"title", "version"} <= found["info"].keys()
    for server in found["servers"].values():
        assert {"host", "protocol"} <= server.keys()
        assert "/" not in server["host"]
    for name, channel in found["channels"].items():
        assert KEY.fullmatch(name)
        assert plain(channel) <= CHANNEL
        assert isinstance(channel["address"], str)
        for message in channel["messages"].values():
            assert resolved(found, message) in found["components"]["messages"].values()
    for name, operation in found["operations"].items():
        assert KEY.fullmatch(name)
        assert plain(operation) <= OPERATION
        assert operation["action"] in ("send", "receive")
        channel = resolved(found, operation["channel"])
        assert channel in found["channels"].values()
        for message in operation["messages"]:  # of the operation's own channel, and no other way
            assert message["$ref"].startswith(f"{operation['channel']['$ref']}/messages/")
            assert resolved(found, message) in channel["messages"].values()
    for name, message in found["components"]["messages"].items():
        assert KEY.fullmatch(name)
        assert plain(message) <= MESSAGE
        assert resolved(found, message["headers"])["type"] == "object"
        assert re.fullmatch(r"\$message\.(header|payload)#/.+", message["correlationId"]["location"])
        payload = message["payload"]
        if "schemaFormat" in payload:
            assert payload.keys() == {"schemaFormat", "schema"}
    for name, schema in found["components"]["schemas"].items():
        assert KEY.fullmatch(name)
        jsonschema.Draft202012Validator.check_schema(schema)


def plain(value: dict[str, Any]) -> set[str]:
    return {name for name in value if not name.startswith("x-")}


def resolved(found: dict[str, Any], reference: dict[str, Any]) -> Any:
    assert reference.keys() == {"$ref"}
    value: Any = found
    for part in reference["$ref"].removeprefix("#/").split("/"):
        value = value[part]
    return value


def test_a_stream_is_a_channel_that_can_be_published_to_and_consumed(bus: Bus) -> None:
    make(bus, "orders.eu", partitions=3, retention_ms=5000, description="Orders of Europe")
    found = told(bus)
    channel = found["channels"]["orders.eu"]
    assert (channel["address"], channel["description"]) == ("orders.eu", "Orders of Europe")
    assert (channel["x-partitions"], channel["x-lanes"], channel["x-retention-ms"]) == (
        3,
        ["CRITICAL", "HIGH", "NORMAL", "LOW"],
        5000,
    )
    assert {name: each["action"] for name, each in found["operations"].items()} == {
        "publish.orders.eu": "receive",
        "consume.orders.eu": "send",
    }
    envelope = found["components"]["schemas"]["Envelope"]["properties"]
    assert envelope.keys() >= {"event_id", "event_type", "timestamp", "key", "lane", "offset", "correlation_id"}
    assert "payload" not in envelope


def test_a_payload_has_the_schema_of_its_stream_in_its_own_language(bus: Bus) -> None:
    json_schema = {
        "type": "object",
        "$defs": {"money": {"type": "number", "minimum": 0}},
        "properties": {"total": {"$ref": "#/$defs/money"}},
    }
    make(bus, "orders", {"json_schema": json_schema, "event_type": "order.created"})
    make(bus, "old", {"json_schema": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}})
    make(bus, "users", {"avro_schema": {"type": "record", "name": "User", "fields": [{"name": "id", "type": "string"}]}})
    make(bus, "free")
    messages = told(bus)["components"]["messages"]
    payload = messages["orders"]["payload"]
    assert messages["orders"]["name"] == "order.created"
    assert payload["schemaFormat"] == "application/schema+json;version=draft-2020-12"
    assert payload["schema"] == {"$id": f"urn:esb:schema:{messages['orders']['x-schema-id']}", **json_schema}
    jsonschema.Draft202012Validator(payload["schema"]).validate({"total": 1})
    assert messages["old"]["payload"]["schemaFormat"] == "application/schema+json;version=draft-07"
    assert messages["users"]["payload"]["schemaFormat"] == "application/vnd.apache.avro+json;version=1.9.0"
    assert messages["users"]["payload"]["schema"]["name"] == "User"
    assert "schemaFormat" not in messages["free"]["payload"]


def test_a_bus_without_streams_has_a_document_too(bus: Bus) -> None:
    assert told(bus)["channels"] == {}
