"""The registry's REST surface as plain HTTP: what is answered to what, and the errors."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from event_streaming_bus.api.confluent.server import serve_registry
from event_streaming_bus.errors import InUseError, InvalidInputError
from event_streaming_bus.store.storage import open_storage

ESB = Path(sys.executable).with_name("esb")
MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
STRING = '{"type":"string"}'
USER = '{"type":"record","name":"User","fields":[{"name":"name","type":"string"}]}'
USER_2 = '{"type":"record","name":"User","fields":[{"name":"name","type":"string"},{"name":"age","type":"int","default":0}]}'
USER_BROKEN = '{"type":"record","name":"User","fields":[{"name":"name","type":"string"},{"name":"age","type":"int"}]}'
RULE = {"name": "r", "kind": "CONDITION", "mode": "WRITE", "type": "CEL", "expr": "true"}


def start(folder: Path, *options: str) -> "subprocess.Popen[str]":
    command = [ESB, "registry", "--data", str(folder), "--auth", "off", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = start(tmp_path_factory.mktemp("registry"), "--port", "0")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving the schema registry of "), process.communicate(timeout=60)[1]
        yield line.split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def told(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    assert response.headers["x-content-type-options"] == "nosniff"
    return response.json()


def refused(response: httpx.Response) -> tuple[int, int, str]:
    assert response.headers["content-type"] == MEDIA_TYPE
    assert response.headers["x-content-type-options"] == "nosniff"
    error = response.json()
    assert error.keys() == {"error_code", "message"}
    assert "Traceback" not in error["message"]
    return response.status_code, error["error_code"], error["message"]


def register(http: httpx.Client, name: str, schema: str, **more: Any) -> Any:
    return told(http.post(f"/subjects/{name}/versions", json={"schema": schema, **more}))


# --- registering and finding ------------------------------------------------------------------------------------------


def test_an_answer_has_all_that_is_known_of_a_version(http: httpx.Client) -> None:
    metadata, rules = {"properties": {"owner": "us"}}, {"domainRules": [RULE | {"more": 1}], "enableAt": "soon"}
    made = register(http, "full", USER, metadata=metadata, ruleSet=rules, flavour={"of": ["the", "month"]}, subject="other")
    assert made == {
        "subject": "full",
        "version": 1,
        "id": made["id"],
        "guid": made["guid"],
        "schemaType": "AVRO",
        "schema": USER,
        "metadata": metadata,
        "ruleSet": rules,
        "flavour": {"of": ["the", "month"]},
    }
    assert told(http.get("/subjects/full/versions/latest")) == told(http.get("/subjects/full/versions/-1")) == made
    assert told(http.post("/subjects/full", json={"schema": USER})) == made
    by_id = told(http.get(f"/schemas/ids/{made['id']}"))
    assert by_id == {name: made[name] for name in ("id", "guid", "schemaType", "schema", "metadata", "ruleSet")}
    assert told(http.get(f"/schemas/guids/{made['guid'].upper()}")) == by_id


def test_the_bare_schema_can_be_had(http: httpx.Client) -> None:
    made = register(http, "bare", "  " + STRING)
    for path in ("/subjects/bare/versions/1/schema", f"/schemas/ids/{made['id']}/schema"):
        answer = http.get(path)
        assert (answer.text, answer.headers["content-type"]) == ("  " + STRING, MEDIA_TYPE)


def test_all_schemas_are_listed_page_by_page(http: httpx.Client) -> None:
    for schema in (USER, USER_2):
        register(http, "listed-1", schema)
    register(http, "listed-2", STRING, schemaType="JSON")
    register(http, ":.listed:listed-3", USER)

    def of(**query: Any) -> list[tuple[str, int]]:
        return [(each["subject"], each["version"]) for each in told(http.get("/schemas", params=query))]

    assert of(subjectPrefix="listed-") == [("listed-1", 1), ("listed-1", 2), ("listed-2", 1)]
    assert of(subjectPrefix="listed-", latestOnly="true") == [("listed-1", 2), ("listed-2", 1)]
    assert of(subjectPrefix="listed-", offset=1, limit=1) == [("listed-1", 2)]
    assert of(subjectPrefix=":*:listed-", limit=-1, latestOnly="True")[0] == (":.listed:listed-3", 1)
    told(http.delete("/subjects/listed-1/versions/1"))
    assert of(subjectPrefix="listed-1") == [("listed-1", 2)]
    assert of(subjectPrefix="listed-1", deleted="true") == [("listed-1", 1), ("listed-1", 2)]
    assert told(http.get("/subjects/listed-1/versions/1?deleted=true"))["deleted"] is True
    assert told(http.get("/subjects", params={"subjectPrefix": ":.listed:"})) == [":.listed:listed-3"]


def test_the_latest_version_that_is_there_is_deleted(http: httpx.Client) -> None:
    for schema in (USER, USER_2):
        register(http, "last", schema)
    assert [told(http.delete("/subjects/last/versions/latest")) for _ in range(2)] == [2, 1]
    assert refused(http.delete("/subjects/last/versions/latest"))[:2] == (404, 40401)
    assert told(http.delete("/subjects/last/versions/latest?permanent=true")) == 2


def test_a_reference_to_the_latest_version_gets_its_number(http: httpx.Client) -> None:
    register(http, "latest-user", USER)
    references = [{"name": "User", "subject": "latest-user", "version": -1}]
    register(http, "users", '{"type":"array","items":"User"}', references=references)
    register(http, "latest-user", USER_2)
    assert told(http.get("/subjects/users/versions/1"))["references"][0]["version"] == 1


def test_schemas_are_imported_with_their_ids(http: httpx.Client) -> None:
    body = {"schema": USER, "id": 4711, "version": 7}
    assert refused(http.post("/subjects/imported/versions", json=body))[:2] == (422, 42205)
    assert told(http.put("/mode/imported", json={"mode": "import"})) == {"mode": "IMPORT"}
    assert told(http.get("/mode/imported?defaultToGlobal=true")) == {"mode": "IMPORT"}
    # The text may be there already, under another id that this one cannot have beside it: contexts keep ids apart.
    there = "/contexts/.import"
    told(http.put(f"{there}/mode", json={"mode": "IMPORT"}))
    made = told(http.post(f"{there}/subjects/imported/versions", json=body))
    assert (made["id"], made["version"], made["subject"]) == (4711, 7, ":.import:imported")
    assert told(http.post(f"{there}/subjects/imported/versions", json=body)) == made
    assert refused(http.post(f"{there}/subjects/imported/versions", json=body | {"schema": USER_BROKEN}))[:2] == (422, 42207)
    told(http.put(f"{there}/mode?force=True", json={"mode": "READWRITE"}))
    assert told(http.post(f"{there}/subjects/imported/versions", json={"schema": USER_2}))["id"] == 4712


def test_metadata_is_searched_however_often_it_is_encoded(http: httpx.Client) -> None:
    register(http, "searched", USER, metadata={"properties": {"a b": "50%", "c": "d"}})
    for query in ("key=a%20b&value=50%25", "key=a%2520b&value=50%2525", "key=a+b&value=50%25&key=c&value=d", ""):
        assert told(http.get(f"/subjects/searched/metadata?{query}"))["version"] == 1
    assert refused(http.get("/subjects/searched/metadata?key=c"))[:2] == (404, 40403)
    assert refused(http.get("/subjects/nowhere/metadata?key=c&value=d"))[:2] == (404, 40401)


# --- compatibility and settings ---------------------------------------------------------------------------------------


def test_a_check_tells_what_breaks_if_it_is_asked_to(http: httpx.Client) -> None:
    register(http, "checked", USER)
    path, body = "/compatibility/subjects/checked/versions", {"schema": USER_BROKEN}
    assert told(http.post(f"{path}/latest", json=body)) == {"is_compatible": False}
    answer = told(http.post(f"{path}?verbose=True", json=body))
    assert answer["is_compatible"] is False
    assert "/fields/1" in answer["messages"][0]
    assert told(http.post(f"{path}/1?verbose=true", json={"schema": USER_2})) == {"is_compatible": True, "messages": []}
    assert refused(http.post(f"{path}/latest", json={"schema": "{"}))[:2] == (422, 42201)
    status, code, message = refused(http.post("/subjects/checked/versions", json=body))
    assert (status, code) == (409, 409)
    assert answer["messages"][0] in message


def test_settings_are_shown_with_the_level_that_counts(http: httpx.Client) -> None:
    assert told(http.get("/config/set?defaultToGlobal=true")) == {"compatibilityLevel": "BACKWARD"}
    assert told(http.put("/config/set", json={"normalize": True, "later": [1]})) == {"normalize": True, "later": [1]}
    assert told(http.get("/config/set")) == {"compatibilityLevel": "BACKWARD", "normalize": True, "later": [1]}
    told(http.put("/config/set", json={"later": None, "compatibility": "full"}))
    assert told(http.get("/config/set")) == {"compatibilityLevel": "FULL", "normalize": True}
    first = register(http, "set", '{"type": "record", "fields": [], "name": "Nothing"}')
    assert register(http, "set", '{"name": "Nothing", "type": "record", "fields": []}')["version"] == first["version"] == 1
    assert told(http.delete("/config/set")) == {"compatibilityLevel": "FULL", "normalize": True}
    assert refused(http.delete("/config/set"))[:2] == refused(http.delete("/mode/set"))[:2] == (404, 40401)


def test_what_else_there_is(http: httpx.Client) -> None:
    assert told(http.get("/")) == told(http.get("/registry/")) == {}
    assert told(http.get("/v1/metadata/version"))["version"]
    assert told(http.get("/v1/metadata/id"))["scope"]["clusters"]
    assert told(http.get("/contexts"))[0] == "."
    assert http.head("/subjects").status_code == 200


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/subjects/none/versions", 404, 40401),
        ("GET", "/subjects/none/versions/latest", 404, 40401),
        ("DELETE", "/subjects/none", 404, 40401),
        ("GET", "/subjects/none/versions/0", 422, 42202),
        ("GET", "/subjects/none/versions/1.5", 422, 42202),
        ("GET", "/subjects/none/versions/99999999999999999999", 422, 42202),
        ("DELETE", "/subjects/none/versions/-2", 422, 42202),
        ("GET", "/schemas/ids/99999", 404, 40403),
        ("GET", "/schemas/ids/99999999999999999999", 404, 40403),
        ("GET", "/schemas/ids/9999999999", 404, 40403),
        ("GET", "/schemas/ids/one", 404, 40403),
        ("GET", "/schemas/ids/99999/versions", 404, 40403),
        ("GET", "/schemas/guids/none", 404, 40403),
        ("GET", "/config/none", 404, 40408),
        ("GET", "/mode/none", 404, 40409),
        ("GET", "/associations/resources/-/orders?resourceType=topic&associationType=value", 404, 404),
        ("POST", "/associations", 404, 404),
        ("DELETE", "/associations/resources/x", 404, 404),
        ("GET", "/nowhere", 404, 404),
        ("GET", "/subjects/a/b/c", 404, 404),
        ("PATCH", "/config", 405, 405),
        ("PUT", "/subjects/x", 405, 405),
        ("GET", "/subjects?deleted=perhaps", 400, 400),
        ("GET", "/subjects?limit=many", 400, 400),
        ("GET", "/subjects/%FF/versions", 400, 400),
        ("GET", "/subjects?" + "a=b&" * 201, 400, 400),
    ],
)
def test_what_is_not_there_is_told_by_its_code(http: httpx.Client, method: str, path: str, status: int, code: int) -> None:
    for prefix in ("", "/registry"):
        assert refused(http.request(method, prefix + path))[:2] == (status, code)


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        ({}, 422, 42201, "schema"),
        ({"schema": " "}, 422, 42201, "schema"),
        ({"schema": None}, 422, 42201, "schema"),
        ({"schema": "{"}, 422, 42201, ""),
        ({"schema": '{"type":"no-such"}'}, 422, 42201, "no-such"),
        ({"schema": "[" * 100_000}, 422, 42201, ""),
        ({"schema": '"\\ud800"'}, 422, 42201, ""),
        ({"schema": '{"type":"nonsense"}', "schemaType": "JSON"}, 422, 42201, "/type"),
        ({"schema": "message A {}", "schemaType": "PROTOBUF"}, 422, 42201, "accepted: AVRO, JSON"),
        ({"schema": {"type": "string"}}, 400, 400, "schema: expected the schema as a JSON string, got an object"),
        ({"schema": STRING, "schemaType": 1}, 400, 400, "schemaType"),
        ({"schema": STRING, "references": {}}, 400, 400, "references"),
        ({"schema": STRING, "references": [{"name": "x", "subject": "y"}]}, 422, 42201, "references[0]"),
        ({"schema": STRING, "references": [{"name": "x", "subject": "y", "version": 0}]}, 422, 42201, "references[0].version"),
        ({"schema": STRING, "references": [{"name": "x", "subject": "y", "version": -1}]}, 422, 42201, "references[0] (x)"),
        ({"schema": STRING, "references": [{"name": "x", "subject": "y", "version": 10**30}]}, 422, 42201, "references[0]"),
        ({"schema": STRING, "metadata": []}, 400, 400, "metadata"),
        ({"schema": STRING, "metadata": {"properties": {"n": 1}}}, 400, 400, "metadata.properties"),
        ({"schema": STRING, "version": "1"}, 400, 400, "version"),
        ({"schema": STRING, "id": True}, 400, 400, "id"),
        ({"schema": STRING, "id": 10**12}, 400, 400, "id"),
        ({"schema": STRING, "id": 10**30}, 400, 400, "id"),
        ({"schema": STRING, "id": 5}, 422, 42205, "import mode"),
        ({"schema": STRING, "ruleSet": []}, 422, 42210, "ruleSet"),
        ({"schema": STRING, "ruleSet": {"domainRules": [{"name": "r"}]}}, 422, 42210, "ruleSet.domainRules[0]"),
        ({"schema": STRING, "ruleSet": {"domainRules": [RULE | {"kind": "K"}]}}, 422, 42210, "ruleSet.domainRules[0].kind"),
        ({"schema": STRING, "ruleSet": {"domainRules": [RULE | {"mode": "UPGRADE"}]}}, 422, 42210, "WRITEREAD"),
        ({"schema": STRING, "ruleSet": {"migrationRules": [RULE]}}, 422, 42210, "ruleSet.migrationRules[0].mode"),
        ({"schema": STRING, "ruleSet": {"domainRules": [RULE | {"type": ""}]}}, 422, 42210, "ruleSet.domainRules[0].type"),
        ({"schema": STRING, "ruleSet": {"domainRules": [RULE, RULE]}}, 422, 42210, "ruleSet.domainRules[1].name"),
        ([], 400, 400, "expected a JSON object, got a list"),
        (b"{", 400, 400, "not JSON"),
        (b"", 400, 400, "not JSON"),
        (b"\xff", 400, 400, "not JSON"),
        (b"[" * 100_000, 400, 400, "nested too deep"),
    ],
)
def test_a_malformed_schema_is_refused(http: httpx.Client, body: Any, status: int, code: int, message: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    for path in ("/subjects/malformed/versions", "/compatibility/subjects/malformed/versions"):
        if code == 42205 and path.startswith("/compat"):
            continue
        answer = http.post(path, content=content, headers={"Content-Type": MEDIA_TYPE})
        assert refused(answer)[:2] == (status, code)
        assert message in answer.json()["message"]
    assert refused(http.get("/subjects/malformed/versions"))[:2] == (404, 40401)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/config", {"compatibility": "SOME"}, 422, 42203),
        ("/config", {"compatibility": 7, "compatibilityLevel": "NONE"}, 422, 42203),
        ("/config", {"compatibilityLevel": []}, 422, 42203),
        ("/config/x", {"normalize": "yes"}, 400, 400),
        ("/config/x", {"defaultMetadata": {"tags": []}}, 400, 400),
        ("/config/x", {"overrideRuleSet": {"domainRules": [{}]}}, 422, 42210),
        ("/config/__GLOBAL", {"compatibility": "NONE"}, 422, 42208),
        ("/config/a%00b", {"compatibility": "NONE"}, 422, 42208),
        ("/mode", {"mode": "SOMETIMES"}, 422, 42204),
        ("/mode/x", {}, 422, 42204),
        ("/mode/x", [], 400, 400),
    ],
)
def test_malformed_settings_are_refused(http: httpx.Client, path: str, body: Any, status: int, code: int) -> None:
    assert refused(http.put(path, json=body))[:2] == (status, code)


@pytest.mark.parametrize("subject", ["a%0Ab", "x" * 250, "__EMPTY", ":.ctx:"])
def test_a_subject_has_a_name_that_can_be_shown(http: httpx.Client, subject: str) -> None:
    assert refused(http.post(f"/subjects/{subject}/versions", json={"schema": STRING}))[:2] == (422, 42208)


def test_a_path_that_is_not_there_for_a_method_says_which_are(http: httpx.Client) -> None:
    assert http.put("/subjects/x").headers["allow"] == "POST, DELETE"


def test_what_is_too_large_is_refused(http: httpx.Client) -> None:
    large = json.dumps({"schema": json.dumps({"description": "x" * (1 << 20)}), "schemaType": "JSON"})
    kind = {"Content-Type": "application/json"}
    assert refused(http.post("/subjects/large/versions", content=large, headers=kind))[:2] == (422, 42209)
    assert refused(http.post("/subjects/large/versions", content=b" " * (3 << 20), headers=kind))[:2] == (413, 413)


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_what_any_page_can_send_changes_nothing(http: httpx.Client, media_type: str) -> None:
    body = json.dumps({"compatibility": "NONE"}).encode()
    assert refused(http.put("/config", content=body, headers={"Content-Type": media_type}))[:2] == (415, 415)


def test_other_hosts_are_refused(http: httpx.Client) -> None:
    status, code, message = refused(http.get("/subjects", headers={"Host": "evil.example"}))
    assert (status, code) == (400, 400)
    assert "this server is not evil.example" in message


def test_tenants_are_told_apart_by_their_header_alone(http: httpx.Client) -> None:
    register(http, "tenants", USER)
    assert "tenants" in told(http.get("/subjects", headers={"target-sr-cluster": "other"}))
    assert told(http.get("/subjects", headers={"X-Tenant-Id": "other"})) == []


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InUseError, match="choose another with --port"):
        serve_registry(open_storage(tmp_path), "127.0.0.1", taken.getsockname()[1])


def test_others_are_only_served_if_that_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="--allow-remote"):
        serve_registry(open_storage(tmp_path), "0.0.0.0", 0)
