"""The registry as confluent-kafka's own client, serializers and deserializers see it, against running servers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka.schema_registry import (
    Metadata,
    MetadataProperties,
    MetadataTags,
    Rule,
    RuleKind,
    RuleMode,
    RuleSet,
    Schema,
    SchemaReference,
    SchemaRegistryClient,
    ServerConfig,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.common.schema_registry_client import RuleParams
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.schema_registry_client import ConfigCompatibilityLevel
from confluent_kafka.schema_registry.serde import SchemaId
from confluent_kafka.serialization import MessageField, SerializationContext

ESB = Path(sys.executable).with_name("esb")


def record(name: str, *fields: dict[str, Any], **more: Any) -> str:
    return json.dumps({"type": "record", "name": name, **more, "fields": fields})


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


USER = record("User", field("name", "string"), field("age", "int"))
USER_2 = record("User", field("name", "string"), field("age", "int"), field("email", ["null", "string"], default=None))
USER_BROKEN = record("User", field("name", "string"), field("age", "int"), field("email", "string"))
ORDER = json.dumps(
    {
        "type": "object",
        "title": "Order",
        "properties": {"id": {"type": "string"}, "total": {"type": "number", "minimum": 0}},
        "required": ["id"],
    }
)


def value_of(topic: str) -> SerializationContext:
    return SerializationContext(topic, MessageField.VALUE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


def served(folder: Path, command: str) -> Iterator[str]:
    """Where the command serves the folder, for as long as it is needed."""
    process = subprocess.Popen(
        [ESB, "--data", str(folder), command, "--port", "0", "--auth", "off"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving "), process.communicate(timeout=60)[1]
        yield next(word for word in line.split() if word.startswith("http://"))
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


@pytest.fixture(scope="module")
def serve_url(folder: Path) -> Iterator[str]:
    yield from (f"{url}/registry" for url in served(folder, "serve"))


@pytest.fixture(scope="module")
def registry_url(folder: Path, serve_url: str) -> Iterator[str]:
    """A registry of its own on the folder that the other server is serving."""
    yield from served(folder, "registry")


Connect = Callable[..., SchemaRegistryClient]


@pytest.fixture
def connect(serve_url: str) -> Iterator[Connect]:
    opened: list[SchemaRegistryClient] = []

    def new(url: str = serve_url) -> SchemaRegistryClient:  # no certificates: loading them takes most of a client's time
        opened.append(SchemaRegistryClient({"url": url, "max.retries": 0, "ssl.ca.location": False}))
        return opened[-1]

    yield new
    for client in opened:
        client.close()


@pytest.fixture
def client(connect: Connect) -> SchemaRegistryClient:
    return connect()


def refused(call: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[int, int, str]:
    with pytest.raises(SchemaRegistryError) as caught:
        call(*arguments, **named)
    return caught.value.http_status_code, caught.value.error_code, caught.value.error_message


# --- serializers and deserializers ------------------------------------------------------------------------------------


def test_avro_is_written_with_a_new_schema_and_read_by_another_client(connect: Connect) -> None:
    client = connect()
    written = AvroSerializer(client, USER)({"name": "Ada", "age": 36}, value_of("users"))
    assert written is not None
    assert written[:5] == b"\0" + client.get_latest_version("users-value").schema_id.to_bytes(4, "big")
    assert AvroDeserializer(connect())(written, value_of("users")) == {"name": "Ada", "age": 36}


def test_avro_of_a_newer_writer_is_read_with_an_older_schema(connect: Connect) -> None:
    client, topic = connect(), value_of("evolved")
    old = AvroSerializer(client, USER)({"name": "Ada", "age": 36}, topic)
    new = AvroSerializer(client, USER_2)({"name": "Bob", "age": 7, "email": "b@x"}, topic)
    reader, newer_reader = AvroDeserializer(connect(), USER), AvroDeserializer(connect(), USER_2)
    assert [reader(old, topic), reader(new, topic)] == [{"name": "Ada", "age": 36}, {"name": "Bob", "age": 7}]
    assert newer_reader(old, topic) == {"name": "Ada", "age": 36, "email": None}
    assert client.get_versions("evolved-value") == [1, 2]


def test_json_is_written_with_a_new_schema_and_read_by_another_client(connect: Connect) -> None:
    client, topic = connect(), value_of("orders")
    written = JSONSerializer(ORDER, client)({"id": "o1", "total": 2.5}, topic)
    assert JSONDeserializer(ORDER, schema_registry_client=connect())(written, topic) == {"id": "o1", "total": 2.5}
    assert JSONDeserializer(None, schema_registry_client=connect())(written, topic) == {"id": "o1", "total": 2.5}
    assert client.get_latest_version("orders-value").schema.schema_type == "JSON"


def test_ids_in_headers_are_guids(connect: Connect) -> None:
    from confluent_kafka.schema_registry import header_schema_id_serializer

    client, headers = connect(), []
    topic = SerializationContext("headed", MessageField.VALUE, headers)
    write = AvroSerializer(client, USER, conf={"schema.id.serializer": header_schema_id_serializer})
    written = write({"name": "Ada Lovelace", "age": 36}, topic)
    assert [name for name, _ in headers] == ["__value_schema_id"]
    assert AvroDeserializer(connect())(written, topic) == {"name": "Ada Lovelace", "age": 36}
    guid = client.get_latest_version("headed-value").guid
    assert SchemaId("AVRO", guid=guid).guid_to_bytes() == headers[0][1]
    assert connect().get_schema_by_guid(guid).schema_str == USER


def test_the_latest_version_is_used_and_nothing_registered(connect: Connect) -> None:
    client, topic = connect(), value_of("latest")
    client.register_schema("latest-value", Schema(USER))
    client.register_schema("latest-value", Schema(USER_2))
    write = AvroSerializer(connect(), USER, conf={"auto.register.schemas": False, "use.latest.version": True})
    written = write({"name": "Ada", "age": 36, "email": "a@x"}, topic)
    assert AvroDeserializer(connect())(written, topic) == {"name": "Ada", "age": 36, "email": "a@x"}
    read = AvroDeserializer(connect(), conf={"use.latest.version": True})
    old = AvroSerializer(connect(), USER)({"name": "Bob", "age": 7}, topic)
    assert read(old, topic) == {"name": "Bob", "age": 7, "email": None}


def test_a_schema_that_is_not_there_is_not_registered_against_the_will_of_the_writer(client: SchemaRegistryClient) -> None:
    write = AvroSerializer(client, USER, conf={"auto.register.schemas": False})
    assert refused(write, {"name": "Ada", "age": 36}, value_of("absent"))[:2] == (404, 40401)
    client.register_schema("absent-value", Schema(USER_2))
    assert refused(write, {"name": "Ada", "age": 36}, value_of("absent"))[:2] == (404, 40403)


def test_normalized_schemas_are_one(connect: Connect) -> None:
    client = connect()
    spaced = json.dumps(json.loads(ORDER), indent=4)
    turned = json.dumps(dict(reversed(json.loads(ORDER).items())))
    first = client.register_schema("normal", Schema(spaced, "JSON"), normalize_schemas=True)
    assert connect().register_schema("normal", Schema(turned, "JSON"), normalize_schemas=True) == first
    assert connect().lookup_schema("normal", Schema(ORDER, "JSON"), normalize_schemas=True).version == 1
    assert client.get_versions("normal") == [1]
    topic = value_of("normal")
    write = JSONSerializer(turned, connect(), conf={"normalize.schemas": True, "subject.name.strategy": lambda *_: "normal"})
    assert write({"id": "x"}, topic)[:5] == b"\0" + first.to_bytes(4, "big")


def test_avro_schemas_refer_to_others(connect: Connect) -> None:
    client, topic = connect(), value_of("visits")
    client.register_schema("place", Schema(record("Place", field("city", "string"), namespace="geo")))
    references = [SchemaReference("geo.Place", "place", 1)]
    visit = Schema(record("Visit", field("at", "geo.Place"), field("back_at", ["null", "geo.Place"])), "AVRO", references)
    payload = {"at": {"city": "Rome"}, "back_at": {"city": "Oslo"}}
    written = AvroSerializer(client, visit)(payload, topic)
    assert AvroDeserializer(connect())(written, topic) == payload
    found = connect().get_latest_version("visits-value")
    assert found.schema.references == references
    assert client.get_referenced_by("place", 1) == client.get_referenced_by("place") == [found.schema_id]
    assert refused(client.delete_version, "place", 1)[:2] == (422, 42206)
    resolved = connect().get_schema(found.schema_id, fmt="resolved").schema_str
    assert json.loads(resolved)["fields"][0]["type"] == json.loads(client.get_version("place", 1).schema.schema_str)
    assert connect().get_schema(found.schema_id, fmt="no-such").schema_str == visit.schema_str
    connect().register_schema("resolved", Schema(resolved))


def test_json_schemas_refer_to_others(connect: Connect) -> None:
    client, topic = connect(), value_of("parcels")
    place = json.dumps({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
    client.register_schema("place-json", Schema(place, "JSON"))
    parcel = Schema(
        json.dumps({"type": "object", "title": "Parcel", "properties": {"to": {"$ref": "place.json"}}}),
        "JSON",
        [SchemaReference("place.json", "place-json", 1)],
    )
    written = JSONSerializer(parcel, client)({"to": {"city": "Rome"}}, topic)
    assert JSONDeserializer(parcel, schema_registry_client=connect())(written, topic) == {"to": {"city": "Rome"}}
    wrong = Schema(parcel.schema_str, "JSON", [SchemaReference("place.json", "place-json", 9)])
    status, code, message = refused(client.register_schema, "wrong", wrong)
    assert (status, code) == (422, 42201)
    assert "references[0] (place.json): Version 9 not found" in message


# --- registering, finding, deleting -----------------------------------------------------------------------------------


def test_a_schema_is_registered_once_and_found_in_every_way(connect: Connect) -> None:
    first = connect().register_schema_full_response("found", Schema(USER))
    assert (first.version, first.schema.schema_str) == (1, USER)
    again, client = connect().register_schema_full_response("found", Schema(USER)), connect()
    assert (again.schema_id, again.guid, again.version) == (first.schema_id, first.guid, 1)
    assert client.register_schema("found-too", Schema(USER)) == first.schema_id
    second = client.register_schema("found", Schema(USER_2))
    assert second != first.schema_id
    assert connect().lookup_schema("found", Schema(USER)).version == 1
    assert client.get_latest_version("found").version == 2
    assert (client.get_version("found", 1).guid, client.get_version("found").version) == (first.guid, 2)
    assert client.get_schema(first.schema_id).schema_str == connect().get_schema(first.schema_id, "found").schema_str == USER
    assert {"found", "found-too"} <= set(client.get_subjects_by_schema_id(first.schema_id))
    assert client.get_subjects_by_schema_id(second, "found") == ["found"]
    assert [(use.subject, use.version) for use in client.get_schema_versions(second, "found")] == [("found", 2)]
    assert client.get_subjects("found") == ["found", "found-too"]
    assert client.get_subjects("found", offset=1, limit=1) == ["found-too"]
    assert client.get_schema_types() == ["JSON", "AVRO"]


@pytest.mark.parametrize("subject", ["a/b", "50%", "a b", "100%25", "über/%2F", "q?x=1&y#z", "plus+", "a:b"])
def test_subjects_may_have_any_name(connect: Connect, subject: str) -> None:
    client = connect()
    number = client.register_schema(subject, Schema(USER))
    assert subject in client.get_subjects()
    assert (client.get_latest_version(subject).subject, client.get_versions(subject)) == (subject, [1])
    assert connect().get_schema(number, subject).schema_str == USER
    client.set_compatibility(subject, "FULL")
    assert client.get_compatibility(subject) == "FULL"
    assert client.delete_subject(subject) == [1]
    assert client.delete_subject(subject, permanent=True) == [1]
    assert subject not in client.get_subjects(deleted=True)


def test_what_is_deleted_is_gone_in_two_steps(connect: Connect) -> None:
    client = connect()
    first, _ = (client.register_schema("deleted", Schema(text)) for text in (USER, USER_2))
    assert refused(client.delete_version, "deleted", 1, permanent=True)[:2] == (404, 40407)
    assert client.delete_version("deleted", 1) == 1
    assert refused(client.delete_version, "deleted", 1)[:2] == (404, 40406)
    assert (client.get_versions("deleted"), client.get_versions("deleted", deleted=True)) == ([2], [1, 2])
    assert client.get_versions("deleted", deleted_only=True) == [1]
    assert refused(connect().get_version, "deleted", 1)[:2] == (404, 40402)
    assert connect().get_version("deleted", 1, deleted=True).schema_id == first
    assert refused(connect().lookup_schema, "deleted", Schema(USER))[:2] == (404, 40403)
    assert connect().lookup_schema("deleted", Schema(USER), deleted=True).version == 1
    assert refused(client.delete_subject, "deleted", permanent=True)[:2] == (404, 40405)
    assert client.delete_subject("deleted") == [2]
    assert refused(client.delete_subject, "deleted")[:2] == (404, 40404)
    assert ("deleted" in client.get_subjects(), "deleted" in client.get_subjects(deleted=True)) == (False, True)
    assert "deleted" in client.get_subjects(deleted_only=True)
    assert connect().get_schema(first).schema_str == USER
    assert client.delete_subject("deleted", permanent=True) == [1, 2]
    assert refused(client.get_versions, "deleted", deleted=True)[:2] == (404, 40401)


def test_an_id_is_never_given_to_another_schema(connect: Connect) -> None:
    client = connect()
    last = client.register_schema("ids", Schema(record("Unique", field("x", "long"))))
    client.delete_subject("ids")
    client.delete_subject("ids", permanent=True)
    assert refused(connect().get_schema, last)[:2] == (404, 40403)
    assert client.register_schema("ids", Schema(record("Another", field("y", "long")))) == last + 1


# --- compatibility, settings, modes -----------------------------------------------------------------------------------


def test_an_incompatible_schema_is_refused_with_the_reason(client: SchemaRegistryClient) -> None:
    client.register_schema("strict", Schema(USER))
    status, code, message = refused(client.register_schema, "strict", Schema(USER_BROKEN))
    assert (status, code) == (409, 409)
    assert "/fields/2" in message
    assert not client.test_compatibility("strict", Schema(USER_BROKEN))
    assert client.test_compatibility("strict", Schema(USER_2), verbose=True)
    assert client.test_compatibility("strict", Schema(USER_2), version=1)
    assert not client.test_compatibility_all_versions("strict", Schema(USER_BROKEN), verbose=True)
    assert client.test_compatibility_all_versions("new", Schema(USER))
    assert client.test_compatibility("new", Schema(USER))
    assert refused(client.test_compatibility, "strict", Schema(USER), version=7)[:2] == (404, 40402)


def test_the_level_of_a_subject_decides(client: SchemaRegistryClient) -> None:
    client.register_schema("levels", Schema(USER))
    assert refused(client.get_compatibility, "levels")[:2] == (404, 40408)
    assert client.set_compatibility("levels", "none") == {"compatibility": "NONE"}
    assert client.get_compatibility("levels") == "NONE"
    client.register_schema("levels", Schema(USER_BROKEN))
    assert client.delete_config("levels").compatibility_level == "NONE"
    assert refused(client.get_config, "levels")[:2] == (404, 40408)
    assert refused(client.set_compatibility, "levels", "SOME")[:2] == (422, 42203)


def test_the_level_of_all_subjects_holds_for_those_without_one(client: SchemaRegistryClient) -> None:
    assert client.get_compatibility() == "BACKWARD"
    client.set_compatibility(level="FORWARD")
    try:
        assert client.get_config().compatibility_level == "FORWARD"
        client.register_schema("forward", Schema(USER))
        client.register_schema("forward", Schema(USER_BROKEN))
    finally:
        assert client.delete_config().compatibility_level == "FORWARD"
    assert client.get_compatibility() == "BACKWARD"


def test_settings_add_metadata_and_group_versions(connect: Connect) -> None:
    client = connect()
    client.set_config(
        "grouped",
        ServerConfig(
            compatibility=ConfigCompatibilityLevel.BACKWARD,
            compatibility_group="major",
            default_metadata=Metadata(None, MetadataProperties({"owner": "us"}), None),
            override_metadata=Metadata(None, MetadataProperties({"checked": "yes"}), None),
        ),
    )
    config = client.get_config("grouped")
    assert (config.compatibility_group, config.compatibility_level) == ("major", "BACKWARD")
    assert config.default_metadata.properties.properties == {"owner": "us"}

    def of(major: str) -> Metadata:
        return Metadata(None, MetadataProperties({"major": major}), None)

    client.register_schema("grouped", Schema(USER, metadata=of("1")))
    assert refused(client.register_schema, "grouped", Schema(USER_BROKEN, metadata=of("1")))[0] == 409
    client.register_schema("grouped", Schema(USER_BROKEN, metadata=of("2")))
    found = connect().get_latest_version("grouped").schema.metadata
    assert found.properties.properties == {"owner": "us", "major": "2", "checked": "yes"}


def test_modes_say_what_may_be_registered(connect: Connect) -> None:
    client = connect()
    assert client.get_global_mode() == "READWRITE"
    assert refused(client.get_mode, "modes")[:2] == (404, 40409)
    client.register_schema("modes", Schema(USER))
    assert client.update_mode("modes", "READONLY") == client.get_mode("modes") == "READONLY"
    assert refused(client.register_schema, "modes", Schema(USER_2))[:2] == (422, 42205)
    assert connect().register_schema("modes", Schema(USER)) == client.get_latest_version("modes").schema_id
    assert refused(client.delete_subject, "modes")[:2] == (422, 42205)
    assert refused(client.update_mode, "modes", "IMPORT")[:2] == (422, 42205)
    assert client.update_mode("modes", "IMPORT", force=True) == "IMPORT"
    assert client.delete_mode("modes") == "IMPORT"
    assert refused(client.update_mode, "modes", "SOMETIMES")[:2] == (422, 42204)
    assert client.update_global_mode("READONLY", force=True) == "READONLY"
    try:
        assert refused(client.register_schema, "modes", Schema(USER_2))[:2] == (422, 42205)
    finally:
        client.update_global_mode("READWRITE")
    client.register_schema("modes", Schema(USER_2))


# --- contexts ---------------------------------------------------------------------------------------------------------


def test_contexts_have_subjects_and_ids_of_their_own(connect: Connect, serve_url: str) -> None:
    client, apart = connect(), connect(f"{serve_url}/contexts/.apart")
    only_there = record("OnlyThere", field("x", "long"))
    first = apart.register_schema("things", Schema(only_there))
    assert first == 1
    assert client.get_version(":.apart:things", 1).schema.schema_str == only_there
    assert apart.get_latest_version("things").subject == ":.apart:things"
    assert (client.get_subjects("things"), apart.get_subjects()) == ([], [":.apart:things"])
    assert {".", ".apart"} <= set(client.get_contexts())
    assert apart.get_schema(1).schema_str == connect().get_schema(1, ":.apart:x").schema_str == only_there
    assert connect().get_schema(1, "things").schema_str == only_there
    assert connect().get_schema(1).schema_str != only_there
    assert apart.get_subjects_by_schema_id(1) == [":.apart:things"]
    apart.set_compatibility(level="NONE")
    assert (apart.get_compatibility(), client.get_compatibility(":.apart:")) == ("NONE", "NONE")
    assert client.get_compatibility() == "BACKWARD"
    apart.register_schema("things", Schema(record("OnlyThere", field("x", "string"))))


def test_serializers_work_in_a_context(connect: Connect, serve_url: str) -> None:
    url, topic = f"{serve_url}/contexts/:.own:", value_of("things")
    connect(url).register_schema("place", Schema(record("Place", field("city", "string"))))
    visit = Schema(record("Visit", field("at", "Place")), "AVRO", [SchemaReference("Place", "place", 1)])
    written = AvroSerializer(connect(url), visit)({"at": {"city": "Rome"}}, topic)
    assert AvroDeserializer(connect(url))(written, topic) == {"at": {"city": "Rome"}}
    assert connect().get_latest_version(":.own:things-value").schema.references[0].subject == ":.own:place"


# --- metadata and rule sets -------------------------------------------------------------------------------------------


def test_metadata_and_rule_sets_come_back_as_they_were(connect: Connect) -> None:
    metadata = Metadata(MetadataTags({"User.name": ["PII"]}), MetadataProperties({"owner": "us", "50%": "a/b c"}), ["owner"])
    rules = RuleSet(
        [Rule("up", None, RuleKind.TRANSFORM, RuleMode.UPGRADE, "JSONATA", None, None, "$", None, None, None)],
        [
            Rule(
                "positive", "Ages are.", RuleKind.CONDITION, RuleMode.WRITE, "CEL", ["PII"], RuleParams({"k": "v"}),
                "message.age > 0", "NONE", "ERROR", False,
            )
        ],
        [],
    )  # fmt: skip
    schema = Schema(USER, "AVRO", [], metadata, rules)
    client = connect()
    number = client.register_schema("ruled", schema)
    for found in (connect().get_schema(number), connect().get_latest_version("ruled").schema):
        assert (found.metadata, found.rule_set) == (metadata, rules)
    assert connect().lookup_schema("ruled", schema).schema_id == number
    assert connect().get_latest_with_metadata("ruled", {"owner": "us", "50%": "a/b c"}).version == 1
    assert refused(connect().get_latest_with_metadata, "ruled", {"owner": "them"})[:2] == (404, 40403)
    # A later version that brings none keeps them, so that what has been agreed on is not lost by the way.
    later = connect().register_schema_full_response("ruled", Schema(USER_2))
    assert (later.schema.metadata, later.schema.rule_set) == (metadata, rules)


def test_the_newest_version_with_some_metadata_is_used(connect: Connect) -> None:
    client, topic = connect(), value_of("staged")
    for text, stage in ((USER, "prod"), (USER_2, "test")):
        client.register_schema("staged-value", Schema(text, metadata=Metadata(None, MetadataProperties({"stage": stage}), None)))
    conf = {"auto.register.schemas": False, "use.latest.with.metadata": {"stage": "prod"}}
    written = AvroSerializer(connect(), USER, conf=conf)({"name": "Ada", "age": 36}, topic)
    assert written[:5] == b"\0" + client.get_version("staged-value", 1).schema_id.to_bytes(4, "big")


# --- beside the other routes of a server ------------------------------------------------------------------------------


def test_the_registry_keeps_to_its_own_path_and_to_the_hosts_of_the_server(serve_url: str) -> None:
    answer = httpx.get(f"{serve_url}/subjects", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["error_code"]) == (400, 400)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert httpx.get(f"{serve_url}x/subjects").status_code == httpx.get(serve_url + "/nowhere").status_code == 404
    elsewhere = serve_url.removesuffix("registry") + "subjects"
    assert httpx.get(elsewhere).headers["content-type"].startswith("application/problem+json")


# --- the registry as a server of its own ------------------------------------------------------------------------------


def test_a_registry_of_its_own_shares_the_folder(connect: Connect, registry_url: str) -> None:
    client, other, topic = connect(), connect(registry_url), value_of("shared")
    written = AvroSerializer(other, USER)({"name": "Ada", "age": 36}, topic)
    assert AvroDeserializer(client)(written, topic) == {"name": "Ada", "age": 36}
    assert connect(f"{registry_url}/registry").get_latest_version("shared-value").version == 1
    newest = client.register_schema("shared-value", Schema(USER_2))
    assert connect(registry_url).get_latest_version("shared-value").schema_id == newest
    assert connect(f"{registry_url}/contexts/.alone").get_subjects() == []


def test_writers_that_come_at_once_to_two_servers_get_one_version(connect: Connect, serve_url: str, registry_url: str) -> None:
    clients = [connect(url) for url in (serve_url, registry_url) for _ in range(4)]

    def register(client: SchemaRegistryClient, schema: Schema) -> int:
        return client.register_schema("raced", schema)

    with ThreadPoolExecutor(len(clients)) as pool:
        for n in range(1, 6):
            schema = Schema(record("Raced", *(field(f"f{i}", "int", default=0) for i in range(n))))
            assert len(set(pool.map(register, clients, [schema] * len(clients)))) == 1
    assert clients[0].get_versions("raced") == [1, 2, 3, 4, 5]
