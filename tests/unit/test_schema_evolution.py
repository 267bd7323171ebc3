"""How schemas evolve: semantic versions, strategies, levels, deprecation, and who may still publish."""

from collections.abc import Iterator
from typing import Any

import pytest

from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import AlreadyExistsError, InvalidInputError, SchemaError
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import EventConfig, StreamConfig
from event_streaming_bus.registry.registry_errors import (
    DeprecatedSchemaError,
    IncompatibleSchemaError,
    NotPermittedError,
    ReferenceExistsError,
    SemanticVersionError,
)
from event_streaming_bus.registry.service import describe
from event_streaming_bus.registry.streams import make_stream, set_schema
from event_streaming_bus.testing import read_all, temporary_bus

ORDER: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"id": {"type": "string"}, "total": {"type": "number"}},
    "required": ["id"],
}
WITH_NOTE = {**ORDER, "properties": {**ORDER["properties"], "note": {"type": "string"}}}
WITHOUT_TOTAL = {**ORDER, "properties": {"id": {"type": "string"}}}
NEEDS_TOTAL = {**ORDER, "required": ["id", "total"]}


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def config(schema: Any, version: str | None = None, **more: Any) -> dict[str, Any]:
    return {"schema_name": "order", "json_schema": schema, **({"schema_version": version} if version else {}), **more}


# --- semantic versions ------------------------------------------------------------------------------------------------


async def test_versions_follow_from_what_has_changed(bus: Bus) -> None:
    register = bus.schemas.register
    assert register(config(ORDER)).schema_version == "1.0"
    assert register(config(WITH_NOTE)).schema_version == "1.1"
    assert register(config(NEEDS_TOTAL, evolution_strategy="BREAKING_CHANGE")).schema_version == "2.0"
    assert [r.version for r in await bus.schemas.list_versions("order")] == [1, 2, 3]


@pytest.mark.parametrize("version", ["1.0", "0.9", "1.0.0"])
async def test_a_version_must_come_after_the_latest(bus: Bus, version: str) -> None:
    bus.schemas.register(config(ORDER, "1.0"))
    expected = AlreadyExistsError if version == "1.0" else SemanticVersionError
    with pytest.raises(expected, match=r"new version|the next one is 1\.1"):
        bus.schemas.register(config(WITH_NOTE, version))


async def test_two_may_come_after_one_and_a_patch_after_a_patch(bus: Bus) -> None:
    for schema, version in ((ORDER, "1.0"), (WITH_NOTE, "1.0.1"), ({**WITH_NOTE, "title": "t"}, "2.0")):
        bus.schemas.register(config(schema, version))
    assert bus.schemas.find("default", "order").schema_version == "2.0"


async def test_a_breaking_change_needs_a_new_major_version(bus: Bus) -> None:
    bus.schemas.register(config(ORDER, "1.0"))
    with pytest.raises(SemanticVersionError, match=r"2\.0, not 1\.1"):
        bus.schemas.register(config(NEEDS_TOTAL, "1.1", evolution_strategy="BREAKING_CHANGE"))
    with pytest.raises(SemanticVersionError, match=r"2\.0, not 1\.1"):
        bus.schemas.register(config(NEEDS_TOTAL, "1.1", compatibility_level="NONE"))
    assert bus.schemas.register(config(NEEDS_TOTAL, "2.0", compatibility_level="NONE")).schema_version == "2.0"


# --- levels and groups ------------------------------------------------------------------------------------------------


async def test_what_is_incompatible_is_refused_with_the_reason_and_the_way_out(bus: Bus) -> None:
    bus.schemas.register(config(ORDER))
    with pytest.raises(IncompatibleSchemaError, match="total") as caught:
        bus.schemas.register(config(NEEDS_TOTAL))
    (incompatibility,) = caught.value.details["incompatibilities"]
    (difference,) = incompatibility["differences"]
    assert (incompatibility["version"], incompatibility["direction"]) == (1, "BACKWARD")
    assert difference["pointer"].startswith("/required")
    assert difference["kind"].isupper()
    assert difference["fix"].endswith(".")
    assert len(await bus.schemas.list_schemas()) == 1


@pytest.mark.parametrize(
    ("level", "grows", "shrinks"),
    [
        ("NONE", True, True),
        ("BACKWARD", True, False),
        ("FORWARD", False, True),
        ("FULL", False, False),
        ("BACKWARD_TRANSITIVE", True, False),
        ("FORWARD_TRANSITIVE", False, True),
        ("FULL_TRANSITIVE", False, False),
    ],
)
async def test_the_level_says_who_must_be_able_to_read_what(bus: Bus, level: str, grows: bool, shrinks: bool) -> None:
    bus.schemas.register(config(ORDER, compatibility_level=level))
    assert (await bus.schemas.check_compatibility(config(WITH_NOTE)))["is_compatible"] is grows
    assert (await bus.schemas.check_compatibility(config(WITHOUT_TOTAL)))["is_compatible"] is shrinks


async def test_transitive_levels_look_at_all_versions(bus: Bus) -> None:
    number = {**ORDER, "properties": {"id": {"type": ["string", "integer"]}, "total": {"type": "number"}}}
    only_text = {**ORDER, "properties": {"id": {"type": "string", "maxLength": 5}, "total": {"type": "number"}}}
    bus.schemas.register(config(number, compatibility_level="NONE"))
    bus.schemas.register(config(only_text, "2.0", compatibility_level="NONE"))
    text = {**ORDER, "title": "text again"}
    assert (await bus.schemas.check_compatibility(config(text, compatibility_level="BACKWARD")))["is_compatible"]
    checked = await bus.schemas.check_compatibility(config(text, compatibility_level="BACKWARD_TRANSITIVE"))
    assert [each["version"] for each in checked["incompatibilities"]] == [1]


async def test_a_breaking_change_begins_a_group_of_its_own(bus: Bus) -> None:
    bus.schemas.register(config(ORDER, compatibility_level="BACKWARD_TRANSITIVE"))
    breaking = bus.schemas.register(config(NEEDS_TOTAL, evolution_strategy="BREAKING_CHANGE"))
    after = bus.schemas.register(config({**NEEDS_TOTAL, "required": ["total"]}))
    assert (breaking.schema_version, after.schema_version) == ("2.0", "2.1")
    assert breaking.group_version == after.group_version == 2


async def test_a_level_that_is_registered_is_the_subjects_from_then_on(bus: Bus) -> None:
    bus.schemas.register(config(ORDER, compatibility_level="FORWARD"))
    assert (await bus.schemas.check_compatibility(config(WITH_NOTE)))["compatibility_level"] == "FORWARD"
    assert bus.schemas.subjects.settings.level("default", "another") == "BACKWARD"


async def test_the_format_stays_what_it_is(bus: Bus) -> None:
    bus.schemas.register(config(ORDER))
    with pytest.raises(IncompatibleSchemaError, match="SCHEMA_TYPE_CHANGED"):
        bus.schemas.register({"schema_name": "order", "avro_schema": "string"})


async def test_the_same_again_is_the_same_version(bus: Bus) -> None:
    first = bus.schemas.register(config(ORDER))
    assert bus.schemas.register(config(ORDER, "1.0")) == first
    assert bus.schemas.register(config(dict(reversed(ORDER.items())))) == first
    ruled = config(WITH_NOTE, validation_rules={"business_rules": [{"name": "some", "rule": "total > 0"}]})
    assert bus.schemas.register(ruled) == bus.schemas.register(ruled)


# --- deprecation ------------------------------------------------------------------------------------------------------


async def test_deprecate_marks_those_before_and_refuses_their_producers_after_a_date(bus: Bus) -> None:
    old = bus.schemas.register(config(ORDER))
    bus.log.create_stream(StreamConfig(name="orders", schema_id=old.schema_id))
    await bus.publishing.publish_event(EventConfig(event_type="t"), {"id": "1"}, "orders")
    bus.schemas.register(config(WITH_NOTE, evolution_strategy="DEPRECATE", refuse_producers_after="2013-01-01T00:00:00Z"))
    answer = await bus.schemas.validate_event(old.schema_id, {"id": "2"})
    assert answer["is_valid"]
    assert answer["deprecated"]["refuse_producers_after"] == "2013-01-01T00:00:00.000Z"
    assert "replaced by 1.1" in answer["deprecated"]["message"]
    with pytest.raises(DeprecatedSchemaError, match=r"takes no new events since 2013-01-01.*replaced by 1\.1"):
        await bus.publishing.publish_event(EventConfig(event_type="t"), {"id": "2"}, "orders")
    assert [event.payload for event in read_all(bus, "orders")] == [{"id": "1"}]


async def test_without_a_date_producers_are_never_refused(bus: Bus) -> None:
    old = bus.schemas.register(config(ORDER))
    bus.log.create_stream(StreamConfig(name="orders", schema_id=old.schema_id))
    deprecated = await bus.schemas.deprecate_schema(old.schema_id, message="use invoices")
    assert describe(deprecated)["deprecated"]["message"] == "use invoices"
    await bus.publishing.publish_event(EventConfig(event_type="t"), {"id": "1"}, "orders")
    assert "deprecated" not in describe(await bus.schemas.activate_schema(old.schema_id))


async def test_what_is_not_active_is_nobodys_latest_and_takes_nothing_new(bus: Bus) -> None:
    old, new = bus.schemas.register(config(ORDER)), bus.schemas.register(config(WITH_NOTE, is_active=False))
    assert bus.schemas.find("default", "order") == old
    bus.log.create_stream(StreamConfig(name="orders", schema_id=new.schema_id))
    with pytest.raises(DeprecatedSchemaError, match="not active"):
        await bus.publishing.publish_event(EventConfig(event_type="t"), {"id": "1"}, "orders")
    await bus.schemas.activate_schema(new.schema_id)
    await bus.publishing.publish_event(EventConfig(event_type="t"), {"id": "1"}, "orders")
    assert bus.schemas.find("default", "order").schema_id == new.schema_id


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"refuse_producers_after": "2013-01-01"}, "only goes with evolution_strategy DEPRECATE"),
        ({"refuse_producers_after": "soon", "evolution_strategy": "DEPRECATE"}, "refuse_producers_after: "),
        ({"avro_schema": "string"}, "expected either json_schema or avro_schema, got both"),
        ({"json_schema": None}, "got neither"),
        ({"references": [{"name": "a"}]}, "references[0]"),
        ({"references": [{"name": "a", "subject": "nowhere", "version": 1}]}, "Subject 'nowhere' not found"),
        ({"migration": {"fields": {"a": "x +"}}}, "migration.fields.a"),
        ({"migration": {"field": {}}}, "did you mean 'fields'"),
        ({"migration": {"fields": {"a..b": "1"}}}, "expected the path of a field"),
        ({"evolution_strategy": "SIDEWAYS"}, "evolution_strategy"),
        ({"schema_version": "1"}, "two or three numbers"),
    ],
)
async def test_a_configuration_that_makes_no_sense_is_refused_with_its_place(bus: Bus, change: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        bus.schemas.register(config(ORDER) | change)
    assert told in caught.value.message
    assert await bus.schemas.list_schemas() == []


# --- comparing --------------------------------------------------------------------------------------------------------


async def test_a_diff_tells_each_change_and_what_it_breaks(bus: Bus) -> None:
    old, new = bus.schemas.register(config(ORDER)), bus.schemas.register(config(WITH_NOTE))
    diff = await bus.schemas.diff_schemas(old.schema_id, new.schema_id)
    assert {"change": "added", "pointer": "/json_schema/properties/note", "after": {"type": "string"}} in diff["changes"]
    assert (diff["is_backward_compatible"], diff["is_forward_compatible"]) == (True, False)
    assert diff["forward"][0]["kind"]
    assert (diff["from"]["schema_version"], diff["to"]["schema_version"]) == ("1.0", "1.1")


# --- references and deleting ------------------------------------------------------------------------------------------


async def test_references_lead_to_other_subjects_and_keep_them(bus: Bus) -> None:
    bus.schemas.register({"schema_name": "customer", "json_schema": {"type": "object", "required": ["email"]}})
    order = bus.schemas.register(
        config(
            {"type": "object", "properties": {"customer": {"$ref": "customer.json"}}},
            references=[{"name": "customer.json", "subject": "customer", "version": 1}],
        )
    )
    assert (await bus.schemas.validate_event(order.schema_id, {"customer": {"email": "a"}}))["is_valid"]
    bad = await bus.schemas.validate_event(order.schema_id, {"customer": {}})
    assert (bad["validation_errors"][0]["path"], bad["validation_errors"][0]["rule"]) == ("customer", "required")
    with pytest.raises(ReferenceExistsError):
        bus.schemas.subjects.delete_subject("default", "customer")


async def test_the_schema_of_a_stream_is_not_deleted(bus: Bus) -> None:
    schema = bus.schemas.register(config(ORDER))
    stream = bus.log.create_stream(StreamConfig(name="orders", schema_id=schema.schema_id))
    with pytest.raises(NotPermittedError, match="the stream orders"):
        await bus.schemas.delete_schema(schema.schema_id)
    bus.log.drop_stream(stream.stream_id)
    assert (await bus.schemas.delete_schema(schema.schema_id)).schema_id == schema.schema_id
    assert await bus.schemas.list_schemas() == []
    await bus.schemas.delete_schema(schema.schema_id, permanent=True)


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_moves_to_another_version_of_its_schema(bus: Bus) -> None:
    bus.schemas.register(config(ORDER))
    stream = make_stream(bus.log, bus.schemas, StreamConfig(name="orders"), "order")
    assert make_stream(bus.log, bus.schemas, StreamConfig(name="orders"), "order") == stream
    with pytest.raises(InvalidInputError):
        await bus.publishing.publish_event(EventConfig(event_type="t"), {"id": "1", "note": "n"}, "orders")
    new = bus.schemas.register(config(WITH_NOTE))
    moved = make_stream(bus.log, bus.schemas, StreamConfig(name="orders"), "order")
    assert (moved.stream_id, moved.config.schema_id) == (stream.stream_id, new.schema_id)
    await bus.publishing.publish_event(EventConfig(event_type="t"), {"id": "1", "note": "n"}, "orders")
    back = set_schema(bus.log, bus.schemas, moved, "order@1.0")
    assert back.config.schema_id == stream.config.schema_id
    with pytest.raises(AlreadyExistsError, match="other settings"):
        make_stream(bus.log, bus.schemas, StreamConfig(name="orders", partitions=2), "order")
    bus.schemas.register({"schema_name": "invoice", "json_schema": True})
    with pytest.raises(AlreadyExistsError, match="has the schema order, not invoice"):
        set_schema(bus.log, bus.schemas, moved, "invoice")


async def test_a_schema_error_names_the_field_with_the_schema(bus: Bus) -> None:
    with pytest.raises(SchemaError, match="json_schema/type"):
        bus.schemas.register(config({"type": "strin"}))
    with pytest.raises(SchemaError, match="avro_schema"):
        bus.schemas.register({"schema_name": "a", "avro_schema": {"type": "record", "name": "A"}})


async def test_a_flow_file_with_a_newer_schema_moves_its_stream(bus: Bus) -> None:
    def flow(schema: Any, **more: Any) -> Any:
        data = {
            "streams": [{"name": "orders", "schema": "order"}, {"name": "out"}],
            "schemas": [config(schema, **more)],
            "processors": [
                {
                    "processor_name": "all",
                    "processor_type": "FILTER",
                    "source_stream_id": "orders",
                    "target_stream_id": "out",
                    "processing_logic": {"filter_expression": "true"},
                }
            ],
        }
        return deploy(parse_flow(data, name="flow"), bus.storage)

    flow(ORDER)
    first = bus.log.find_stream("default", "orders")
    flow(ORDER)
    assert bus.log.find_stream("default", "orders") == first
    flow(WITH_NOTE)
    second = bus.log.find_stream("default", "orders")
    assert second.config.schema_id == bus.schemas.find("default", "order", "1.1").schema_id
    with pytest.raises(IncompatibleSchemaError, match=r"schemas\[0\]: The schema is incompatible"):
        flow(NEEDS_TOTAL)
    assert bus.log.find_stream("default", "orders") == second
