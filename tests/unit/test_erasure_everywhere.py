"""Personal data everywhere that events go: hidden wherever it is kept, shown to those who read, gone once it is erased."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from bytewax.testing import run_main
from flow_steps import step
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Esb, commands, served

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import GroupConfig
from event_streaming_bus.erasure.service import ErasureService
from event_streaming_bus.errors import SchemaError, ValidationFailedError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.dead_letters import letter_filter
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, EventConfig, InvalidEventPolicy, SerializationFormat, StreamConfig
from event_streaming_bus.registry.deliveries import delivered
from event_streaming_bus.registry.protection import protect_events, reveal_events
from event_streaming_bus.registry.replay.trial import try_schema
from event_streaming_bus.registry.tokens import MARKER_BYTES
from event_streaming_bus.store.history import History
from event_streaming_bus.testing import read_all

MAIL = "anna@example.org"
PERSON = {
    "schema_name": "person",
    "json_schema": {
        "type": "object",
        "x-subject": "/user",
        "properties": {
            "user": {"type": "string"},
            "mail": {"type": "string", "format": "email", "x-personal": True},
            "age": {"type": "integer", "x-personal": True},
            "plan": {"type": "string"},
        },
        "required": ["user", "mail"],
    },
}
ANNA = {"user": "u1", "mail": MAIL, "age": 41, "plan": "gold"}
BOB = {"user": "u2", "mail": "bob@example.org", "age": 42, "plan": "free"}


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with open_bus(tmp_path / "data") as bus:
        stream(bus, "people", PERSON)
        yield bus


def stream(bus: Bus, name: str, schema: dict[str, Any] | None = None, **more: Any) -> None:
    schema_id = None if schema is None else bus.schemas.register(schema).schema_id
    bus.log.create_stream(StreamConfig(name=name, schema_id=schema_id, on_invalid=InvalidEventPolicy.DEAD_LETTER, **more))


def publish(bus: Bus, *payloads: Any, to: str = "people", **config: Any) -> list[str]:
    receipts = bus.publishing.submit(EventConfig(event_type="t", **config), payloads, stream_id=to).result()
    return [receipt.event_id for receipt in receipts]


def shown(bus: Bus, name: str) -> list[Any]:
    return [event.payload for event in reveal_events(bus.storage.subject_keys, read_all(bus, name))]


def erase(bus: Bus, subject: str) -> None:
    ErasureService(bus.storage).erase(subject, reason="r")


def run(bus: Bus, *processors: dict[str, Any]) -> None:
    plan = deploy(parse_flow({"processors": list(processors)}, name="f"), bus.storage)
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))


def assert_nowhere(folder: Path, *texts: str) -> None:
    for path in folder.rglob("*"):
        for text in texts if path.is_file() else ():
            assert text.encode() not in path.read_bytes(), (text, path)


def test_personal_values_are_tokens_in_the_log_and_history_and_plain_to_readers(bus: Bus) -> None:
    publish(bus, ANNA, BOB, json.dumps(ANNA).encode())
    for event in read_all(bus, "people"):
        assert event.payload["user"] in ("u1", "u2")
        assert event.payload["mail"].startswith("esb:enc:1:")
        assert event.payload["age"].startswith("esb:enc:1:")
    assert shown(bus, "people") == [ANNA, BOB, ANNA]
    history = History(bus.storage)
    history.catch_up()
    history.close()
    key = bus.storage.subject_keys.of_subjects("default", ["u1"])["u1"]
    assert_nowhere(bus.folder, MAIL)
    erase(bus, "u1")
    erased = {"user": "u1", "mail": "[erased]", "age": None, "plan": "gold"}
    assert shown(bus, "people") == [erased, BOB, erased]
    bus.close()
    for path in bus.folder.rglob("*"):
        assert not path.is_file() or key.secret not in path.read_bytes()
    assert_nowhere(bus.folder, MAIL)


def test_streams_without_personal_fields_are_as_ever_and_make_no_keys(bus: Bus) -> None:
    stream(bus, "plain", {"schema_name": "plain", "json_schema": {"type": "object"}})
    publish(bus, ANNA, to="plain")
    assert read_all(bus, "plain")[0].payload == ANNA
    assert not (bus.folder / "keys.db").exists()


def test_an_event_without_a_subject_is_refused_with_the_field(bus: Bus) -> None:
    schema = {name: value for name, value in PERSON["json_schema"].items() if name != "x-subject"}  # type: ignore[attr-defined]
    stream(bus, "others", {"schema_name": "other", "json_schema": schema})
    with pytest.raises(ValidationFailedError, match=r"/mail: it is personal, .* no aggregate_id and no key") as caught:
        publish(bus, {"user": "u", "mail": MAIL}, to="others")
    assert caught.value.details["index"] == 0
    publish(bus, {"user": "u", "mail": MAIL}, to="others", key="k")
    publish(bus, {"user": "u", "mail": MAIL}, to="others", aggregate_id="a", key="k")
    erase(bus, "k")
    assert [payload["mail"] for payload in shown(bus, "others")] == ["[erased]", MAIL]


def test_marks_that_cannot_be_kept_are_refused_at_registration(bus: Bus) -> None:
    bad = {"schema_name": "bad", "json_schema": {"not": {"properties": {"a": {"x-personal": True}}}}}
    with pytest.raises(SchemaError, match="/not/properties/a: a field cannot be marked as personal"):
        bus.schemas.register(bad)


def test_members_that_are_there_twice_leave_nothing_behind(bus: Bus) -> None:
    stream(bus, "loose", {"schema_name": "loose", "json_schema": {"properties": {"mail": {"x-personal": True}}}})
    stream(bus, "raw")
    route = {"name": "all", "stream": "raw", "to": ["loose"], "move": True}
    bus.routing.apply(bus.routing.read([route], [""], "default"), "default", "me")
    twice = b'{"mail": "%s", "mail": null}' % MAIL.encode()
    publish(bus, twice, to="loose", key="k")
    publish(bus, twice, to="raw", key="k")
    assert shown(bus, "loose") == [{"mail": None}, {"mail": None}]
    assert_nowhere(bus.folder, MAIL)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TREES = st.recursive(
    st.dictionaries(st.sampled_from(["secret", "open", "inner", "x_1"]), LEAVES, max_size=4),
    lambda inner: st.fixed_dictionaries({"inner": st.lists(inner, max_size=3)}, optional={"secret": LEAVES, "x_1": inner}),
    max_leaves=8,
)
TREE = {
    "$defs": {
        "node": {
            "properties": {"secret": {"x-personal": True}, "inner": {"items": {"$ref": "#/$defs/node"}}},
            "patternProperties": {"^x_": {"x-personal": True}},
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    with open_bus(tmp_path_factory.mktemp("tree")) as bus:
        bus.schemas.register({"schema_name": "tree", "json_schema": TREE})
        yield bus


@settings(max_examples=60)
@given(payloads=st.lists(TREES, min_size=1, max_size=4))
def test_whatever_is_published_comes_back_and_is_hidden_meanwhile(tree: Bus, payloads: list[Any]) -> None:
    guard = tree.schemas.guard("default", tree.schemas.find("default", "tree").schema_id)
    events = [Event("e", "t", 0, msgspec.json.encode(payload), key="k") for payload in payloads]
    hidden = protect_events(guard, events)
    for event in hidden:
        waiting = [event.payload]
        while waiting:
            node = waiting.pop()
            for name, value in node.items() if isinstance(node, dict) else ():
                assert name not in ("secret", "x_1") or value is None or str(value).startswith("esb:enc:1:")
            waiting += node.get("inner", ()) if isinstance(node, dict) and isinstance(node.get("inner"), list) else ()
    assert [e.payload for e in reveal_events(tree.storage.subject_keys, hidden)] == [e.payload for e in events]
    made, refused = delivered(guard, hidden)
    assert (refused, [e.payload for e in made]) == ([], [e.payload for e in hidden])


def test_avro_fields_are_tokens_as_well(bus: Bus) -> None:
    fields = [{"name": "user", "type": "string"}, {"name": "mail", "type": ["null", "string"], "personal": True}]
    avro = {"type": "record", "name": "P", "subject": "/user", "fields": fields}
    stream(bus, "avro", {"schema_name": "avro", "avro_schema": avro})
    publish(bus, {"user": "u1", "mail": MAIL}, {"user": "u2", "mail": None}, to="avro")
    for event in read_all(bus, "avro"):
        assert event.serialization_format is SerializationFormat.AVRO
        assert MAIL.encode() not in event.data
    publish(bus, read_all(bus, "avro")[1].data, to="avro")
    assert [payload["mail"] for payload in shown(bus, "avro")] == [MAIL, None, None]
    erase(bus, "u1")
    assert [payload["mail"] for payload in shown(bus, "avro")] == ["[erased]", None, None]


def test_dead_letters_of_a_broken_schema_hold_nothing_in_the_clear_and_can_be_retried(bus: Bus) -> None:
    publish(bus, ANNA, {"user": "u1", "mail": f"<{MAIL}>", "age": "old"}, {"email": MAIL})
    letters = read_all(bus, "_dead_letters")
    assert len(letters) == 2
    assert MAIL not in str(letters)
    assert all(letter.data.startswith(b'"' + MARKER_BYTES) for letter in letters)
    first, second = reveal_events(bus.storage.subject_keys, letters)
    assert (first.payload, second.payload) == ({"user": "u1", "mail": f"<{MAIL}>", "age": "old"}, {"email": MAIL})
    message = letters[0].metadata["dead_letter"]["error_message"]  # type: ignore[index]
    assert "mail: breaks the schema's 'format'" in message
    retried = list(bus.dead_letters.retry(where=letter_filter()))
    assert [report.result for report in retried] == ["FAILED", "FAILED"]
    assert MAIL not in str(retried)
    loose = PERSON | {"json_schema": {"type": "object", "x-subject": "/user", "properties": {"mail": {"x-personal": True}}}}
    loose |= {"evolution_strategy": "BREAKING_CHANGE"}
    people = bus.log.find_stream("default", "people")
    bus.log.set_stream_schema(people.stream_id, bus.schemas.register(loose).schema_id)
    retried = list(bus.dead_letters.retry(where=letter_filter()))
    assert [report.result for report in retried] == ["RETRIED", "RETRIED"]
    assert shown(bus, "people")[1:] == [{"user": "u1", "mail": f"<{MAIL}>", "age": "old"}, {"email": MAIL}]
    assert MAIL.encode() not in read_all(bus, "people")[1].data


def test_letters_of_the_erased_cannot_be_retried(bus: Bus) -> None:
    publish(bus, {"user": "u1", "mail": "none"})
    publish(bus, {"email": MAIL})
    erase(bus, "u1")
    erase(bus, f"event:{read_all(bus, '_dead_letters')[1].event_id}")
    reports = list(bus.dead_letters.retry(where=letter_filter()))
    assert [report.result for report in reports] == ["FAILED", "FAILED"]
    assert reports[0].message is not None
    assert "erased" in reports[0].message


def test_routed_copies_keep_their_tokens_and_are_judged_by_what_these_stand_for(bus: Bus) -> None:
    stream(bus, "copies", PERSON | {"schema_name": "copy"})
    stream(bus, "plain")
    old = {"schema_name": "old", "json_schema": {"properties": {"age": {"type": "integer", "minimum": 42}}}}
    stream(bus, "old", old)
    route = {"name": "all", "stream": "people", "to": ["copies", "plain", "old"], "set_metadata": {"mail": "payload.mail"}}
    bus.routing.apply(bus.routing.read([route], [""], "default"), "default", "me")
    publish(bus, ANNA, BOB)
    for name in ("copies", "plain"):
        assert shown(bus, name) == [ANNA, BOB]
        assert [e.data for e in read_all(bus, name)] == [e.data for e in read_all(bus, "people")]
    assert shown(bus, "old") == [BOB]
    assert_nowhere(bus.folder, MAIL)
    erase(bus, "u1")
    assert [payload["mail"] for payload in shown(bus, "copies")] == ["[erased]", BOB["mail"]]


def test_routing_to_a_stream_with_personal_fields_hides_what_was_plain(bus: Bus) -> None:
    stream(bus, "raw")
    route = {"name": "all", "stream": "raw", "to": ["people"], "move": True}
    bus.routing.apply(bus.routing.read([route], [""], "default"), "default", "me")
    publish(bus, ANNA, {"user": "u1", "mail": "no address"}, {"mail": MAIL}, to="raw")
    assert shown(bus, "people") == [ANNA]
    assert len(read_all(bus, "_dead_letters")) == 2
    assert_nowhere(bus.folder, MAIL, "no address")


def test_flows_move_personal_values_only_to_personal_fields(bus: Bus) -> None:
    properties = {"who": {"type": "string"}, "contact": {"type": "string", "format": "email", "x-personal": True}}
    stream(bus, "contacts", {"schema_name": "contact", "json_schema": {"properties": properties, "x-subject": "/who"}})
    stream(bus, "ages", {"schema_name": "age", "json_schema": {"properties": {"age": {"type": "integer"}}}})
    publish(bus, ANNA, BOB)
    stream(bus, "gold")
    rename = {"mode": "replace", "fields": {"who": "payload.plan", "contact": "payload.mail"}}
    run(
        bus,
        step("rename", "MAP", rename, "people", target_stream_id="contacts"),
        step("wrong", "MAP", {"mode": "replace", "fields": {"age": "payload.mail"}}, "people", target_stream_id="ages"),
        step("same", "FILTER", {"filter_expression": "payload.plan == 'gold'"}, "people", target_stream_id="gold"),
    )
    assert shown(bus, "contacts") == [{"who": "gold", "contact": MAIL}, {"who": "free", "contact": BOB["mail"]}]
    assert shown(bus, "gold") == [ANNA]
    assert shown(bus, "ages") == []
    assert_nowhere(bus.folder, MAIL)
    erase(bus, "u1")  # whose it is goes with the value, whatever the output says
    assert [payload["contact"] for payload in shown(bus, "contacts")] == ["[erased]", BOB["mail"]]


def test_events_of_the_erased_still_go_through_flows(bus: Bus) -> None:
    stream(bus, "copies", PERSON | {"schema_name": "copy"})
    publish(bus, ANNA, BOB)
    erase(bus, "u1")
    run(bus, step("copy", "FILTER", {"filter_expression": "true"}, "people", target_stream_id="copies"))
    assert [payload["mail"] for payload in shown(bus, "copies")] == ["[erased]", BOB["mail"]]


async def test_consumers_see_personal_values_and_park_them_hidden(bus: Bus) -> None:
    publish(bus, ANNA, BOB)
    GroupCoordinator(bus.storage).create("default", GroupConfig(group_name="g"))
    async with bus.consumer("g", ["people"]) as consumer:
        events = await consumer.poll()
        assert [event.payload for event in events] == [ANNA, BOB]
        assert consumer.park(events[0], "not now")
        await consumer.commit()
    (letter,) = read_all(bus, "_dead_letters")
    assert letter.payload["mail"].startswith("esb:enc:1:")
    assert shown(bus, "_dead_letters") == [ANNA]


def test_a_token_that_is_published_by_hand_shows_nothing(bus: Bus) -> None:
    stream(bus, "plain")
    publish(bus, ANNA)
    stolen = read_all(bus, "people")[0].payload["mail"]
    publish(bus, {"x": stolen}, [stolen], to="plain")
    assert shown(bus, "plain") == [{"x": stolen}, [stolen]]


def test_other_versions_read_what_is_personal(bus: Bus) -> None:
    publish(bus, ANNA)
    newer = msgspec.json.decode(msgspec.json.encode(PERSON))
    newer["json_schema"]["properties"]["more"] = {"x-personal": True}
    people = bus.log.find_stream("default", "people")
    bus.log.set_stream_schema(people.stream_id, bus.schemas.register(newer).schema_id)
    publish(bus, ANNA | {"more": "m"})
    assert shown(bus, "people") == [ANNA, ANNA | {"more": "m"}]


def test_avro_of_the_erased_is_upcast_although_rules_do_not_hold_for_what_is_left(bus: Bus) -> None:
    fields: list[dict[str, Any]] = [{"name": "user", "type": "string"}, {"name": "mail", "type": "string", "personal": True}]
    avro = {"type": "record", "name": "P", "subject": "/user", "fields": fields}
    rules = {"business_rules": [{"name": "ours", "rule": "mail.endswith('@example.org')"}]}
    config = {"schema_name": "avro", "avro_schema": avro, "validation_rules": rules}
    stream(bus, "avro", config)
    publish(bus, {"user": "u1", "mail": MAIL}, {"user": "u2", "mail": "b@example.org"}, to="avro")
    erase(bus, "u1")
    fields.append({"name": "plan", "type": "string", "default": "free"})
    stream(bus, "copies", config | {"schema_name": "copy"})
    source = bus.log.find_stream("default", "avro")
    bus.log.set_stream_schema(source.stream_id, bus.schemas.register(config).schema_id)
    run(bus, step("copy", "FILTER", {"filter_expression": "payload.plan == 'free'"}, "avro", target_stream_id="copies"))
    assert [payload["mail"] for payload in shown(bus, "copies")] == ["[erased]", "b@example.org"]


def test_a_schema_is_tried_on_what_tokens_stand_for(bus: Bus) -> None:
    publish(bus, ANNA, BOB)
    strict = {"schema_name": "strict", "json_schema": {"properties": {"age": {"type": "integer", "minimum": 42}}}}
    report = try_schema(bus.storage, strict, "people")
    assert (report.checked, report.invalid) == (2, 1)


# --- from outside -----------------------------------------------------------------------------------------------------


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    with commands(tmp_path, monkeypatch) as run:
        with open_bus(tmp_path / "esb-data") as bus:
            stream(bus, "people", PERSON)
            publish(bus, ANNA, BOB, {"user": "u1"})
        yield run


def test_the_command_line_shows_erases_and_verifies(esb: Esb) -> None:
    assert [json.loads(line)["payload"] for line in esb("read", "people", "--json").out.splitlines()] == [ANNA, BOB]
    letter = json.loads(esb("dead-letters", "list", "--json").out)["dead_letter_id"]
    assert json.loads(esb("dead-letters", "show", letter).out)["payload"] == {"user": "u1"}
    assert esb("erasures", "list").err == "nobody was erased yet\n"
    assert "Add --yes" in esb("erase", "u1", "--reason", "r", code=2).err
    assert "no personal data" in esb("erase", "u7", "--reason", "r", "--yes", code=1).err
    done = json.loads(esb("erase", "u1", "--reason", "asked", "--count", "--yes", "--json").out)
    assert (done["events"], done["erased_by"], done["number"]) == (2, "esb", 1)
    payloads = [json.loads(line)["payload"]["mail"] for line in esb("read", "people", "--json").out.splitlines()]
    assert payloads == ["[erased]", BOB["mail"]]
    assert json.loads(esb("dead-letters", "show", letter).out)["payload"] is None
    assert json.loads(esb("erasures", "list", "--json").out)["certificate_id"] == done["certificate_id"]
    assert "asked" in esb("erasures", "list").out
    assert esb("erasures", "verify").err == "1 certificate: intact\n"
    assert json.loads(esb("erasures", "verify", "--json").out) == {"is_intact": True, "certificates": 1, "problems": []}
    assert esb("erasures", "reapply").err == "0 keys destroyed\n"
    assert json.loads(esb("erasures", "report", "u1").out)["certificate_ids"] == [done["certificate_id"]]


async def test_rest_shows_erases_and_verifies(tmp_path: Path) -> None:
    with open_bus(tmp_path) as bus:
        stream(bus, "people", PERSON)
    with served(tmp_path) as url:
        async with httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=30) as client:
            body = {"event_type": "t", "stream_id": "people", "payload": ANNA}
            event_id = (await client.post("/events", json=body)).json()["event_id"]
            assert (await client.get(f"/events/{event_id}")).json()["payload"] == ANNA
            history = (await client.get(f"/events/{event_id}/processing-history")).json()["processing_history"]
            assert history[0]["input_data"]["payload"] == ANNA
            refused = await client.post("/erasures", json={"subject": "u9", "reason": "r"})
            assert (refused.status_code, refused.json()["title"]) == (404, "SubjectNotKnown")
            told = (await client.post("/erasures/subject-report", json={"subject": "u1", "count_events": True})).json()
            assert (told["has_key"], told["events"]) == (True, {"people": 1})
            made = await client.post("/erasures", json={"subject": "u1", "reason": "r", "user_id": "me"})
            assert (made.status_code, made.json()["erased_by"]) == (201, "me")
            certificate = made.json()
            assert (await client.get("/erasures")).json() == {"erasures": [certificate], "next_cursor": None}
            assert (await client.get(f"/erasures/{certificate['certificate_id']}")).json() == certificate
            assert (await client.get("/erasures/ers_none")).status_code == 404
            assert (await client.get("/erasures/verify")).json()["is_intact"] is True
            assert (await client.get(f"/events/{event_id}")).json()["payload"] == ANNA | {"mail": "[erased]", "age": None}
    assert_nowhere(tmp_path, MAIL)
