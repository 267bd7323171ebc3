"""``esb schemas`` and ``POST /api/v1/schemas/try``: what they print or answer, and their exit codes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient
from running import Done, Esb, commands

from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.services import Services
from event_streaming_bus.store.storage import open_storage

ORDER: dict[str, Any] = {
    "schema_name": "order",
    "json_schema": {"type": "object", "properties": {"id": {"type": "string"}, "total": {"type": "number"}}, "required": ["id"]},
    "validation_rules": {"business_rules": [{"name": "positive", "rule": "total > 0"}]},
}
STRICT = {**ORDER, "json_schema": {**ORDER["json_schema"], "required": ["id", "total"]}}


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    """Runs a command in this process, in a folder of its own with the files ``order.json`` and ``strict.json``."""
    with commands(tmp_path, monkeypatch) as run:
        Path("order.json").write_text(json.dumps(ORDER))
        Path("strict.json").write_text(json.dumps(STRICT))
        yield run


@pytest.fixture
def registered(esb: Esb) -> Esb:
    """With the schema ``order`` 1.0."""
    esb("schemas", "register", "order.json")
    return esb


@pytest.fixture
def events(esb: Esb) -> Esb:
    """With a stream of three orders: one is fine, one breaks the rule, one lacks its total."""
    esb("stream", "create", "orders")
    esb("publish", "orders", "-", stdin='{"id": "a", "total": 5}\n{"id": "b", "total": -5}\n{"id": "c"}\n')
    return esb


def rows(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


# --- try ----------------------------------------------------------------------------------------------------------------


def test_try_lists_the_events_that_would_fail_and_why(events: Esb) -> None:
    done = events("schemas", "try", "strict.json", "--against", "orders", code=1)
    assert "order on 3 events of orders:" in done.out
    assert done.out.split("\n")[3].split() == ["1", "2", "0", "0"]
    for told in ("required at total", "'total' is a required property", "positive at total", "0/NORMAL/1"):
        assert told in done.out
    assert "order is compatible with what is registered, at level BACKWARD." in done.out
    assert events("schemas", "list").out == ""


def test_try_ends_with_0_if_nothing_fails_and_it_is_compatible(events: Esb) -> None:
    loose = {"schema_name": "order", "json_schema": {"type": "object"}}
    [report] = rows(events("schemas", "try", "-", "--against", "orders", "--json", stdin=json.dumps(loose)))
    assert (report["passes"], report["checked"], report["failures"]) == (True, 3, [])
    Path("loose.yaml").write_text("schema_name: order\njson_schema: {type: object}\n")
    assert events("schemas", "try", "loose.yaml", "--against", "orders", "--since", "2999-01-01").out.startswith(
        "orders holds no such"
    )


def test_try_tells_an_incompatible_candidate(events: Esb) -> None:
    events("schemas", "register", "order.json")
    done = events("schemas", "try", "strict.json", "--against", "orders", "--limit", "1", code=1)
    assert (
        "order is not compatible at level BACKWARD:\n    BACKWARD with version 1 (1.0): REQUIRED_ATTRIBUTE_ADDED at /required"
        in done.out
    )
    assert "more events than the 1 that were checked" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["order.json", "--against", "ordrs"], 1, "esb: There is no stream 'ordrs'. Did you mean 'orders'?"),
        (["none.json", "--against", "orders"], 1, "esb: none.json: there is no such file"),
        (["two.json", "--against", "orders"], 1, "esb: two.json: expected one schema, got 2"),
        (["bad.yaml", "--against", "orders"], 1, "esb: bad.yaml:2: json_schema/type: "),
        (["order.json", "--against", "orders", "--since", "soon"], 2, "'--since': 'soon' is no time; expected RFC 3339"),
        (["order.json", "--against", "orders", "--since", "2", "--until", "1"], 2, "--until: expected a time after"),
        (["order.json"], 2, "Missing option '--against'"),
    ],
)
def test_try_tells_a_mistake_in_one_message(events: Esb, arguments: list[str], code: int, told: str) -> None:
    Path("two.json").write_text(json.dumps({"schemas": [ORDER, ORDER]}))
    Path("bad.yaml").write_text("schema_name: bad\njson_schema: {type: objct}\n")
    done = events("schemas", "try", *arguments, code=code)
    assert told in done.err
    assert done.out == ""


def test_try_without_a_data_folder_makes_none(esb: Esb) -> None:
    assert "There is no data folder" in esb("schemas", "try", "order.json", "--against", "orders", code=1).err
    assert not Path("esb-data").exists()


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
def test_a_schema_is_tried_over_rest(events: Esb) -> None:
    with TestClient(create_app(Services(open_storage()), hosts=["*"])) as http:
        body = {"schema": STRICT, "stream": "orders", "since": "2000-01-01T00:00:00Z", "examples": 1}
        answer = http.post("/api/v1/schemas/try", json=body)
        assert answer.status_code == 200, answer.text
        report = answer.json()
        assert (report["checked"], report["invalid"], report["is_limited"], report["passes"]) == (3, 2, False, False)
        assert [len(failure["examples"]) for failure in report["failures"]] == [1, 1]
        assert http.post("/api/v1/schemas/try", json=body | {"limit": 1}).json()["is_limited"]
        for more, status, told in (
            ({"stream": "ordrs"}, 404, "Did you mean 'orders'"),
            ({"since": "soon"}, 400, "since: 'soon' is no time"),
            ({"limit": 0}, 400, "limit: expected"),
            ({"limit": 10**9}, 400, "limit: at most"),
            ({"schema": {"schema_name": "x"}}, 422, "json_schema: expected either"),
            ({"streem": "x"}, 400, "streem: unknown field; did you mean 'stream'?"),
        ):
            refused = http.post("/api/v1/schemas/try", json=body | more)
            assert (refused.status_code, told in refused.json()["detail"]) == (status, True), refused.text


# --- registering, looking and comparing ---------------------------------------------------------------------------------


def test_a_schema_is_registered_once_and_listed(registered: Esb) -> None:
    done = registered("schemas", "register", "order.json")
    assert done.out.startswith("unchanged     order@1.0  sch_")
    [row] = rows(registered("schemas", "list", "--json"))
    assert (row["schema_name"], row["latest"], row["versions"], row["state"]) == ("order", "1.0", 1, "active")
    [version] = rows(registered("schemas", "list", "order", "--json"))
    assert json.loads(registered("schemas", "show", "order@1.0", "--json").out) == version
    assert "schema_version        1.0" in registered("schemas", "show", "order").out
    assert "Did you mean 'order'" in registered("schemas", "show", "oder", code=1).err


def test_all_schemas_of_a_file_are_registered_or_none(registered: Esb) -> None:
    Path("two.json").write_text(json.dumps({"schemas": [STRICT, ORDER | {"schema_name": "other"}]}))
    done = registered("schemas", "register", "two.json", code=1)
    assert "refused       order  two.json\n" in done.out
    assert "two.json:1: schemas[0]: incompatible at level BACKWARD" in done.out
    assert "nothing is registered" in done.err
    assert [row["schema_name"] for row in rows(registered("schemas", "list", "--json"))] == ["order"]


def test_check_tells_each_difference_and_registers_nothing(registered: Esb) -> None:
    [told] = rows(registered("schemas", "check", "strict.json", "--json", code=1))
    [difference] = told["incompatibilities"][0]["differences"]
    assert (told["verdict"], difference["kind"], difference["pointer"]) == ("refused", "REQUIRED_ATTRIBUTE_ADDED", "/required")
    assert difference["fix"] in registered("schemas", "check", "strict.json", code=1).out
    assert registered("schemas", "check", "order.json").out == "unchanged     order 1.0  order.json\n"


def test_check_needs_no_data_folder(esb: Esb) -> None:
    assert esb("schemas", "check", "order.json").out == "new           order 1.0  order.json\n"
    assert not Path("esb-data").exists()


def test_payloads_are_validated_line_by_line(registered: Esb) -> None:
    lines = '{"id": "a", "total": 1}\n\n{"id": 3, "total": 1}\noops\n{"id": "a"}\n'
    done = registered("schemas", "validate", "order", "-", stdin=lines, code=1)
    assert done.out.splitlines() == [
        "standard input:3: id: 3 is not of type 'string' [type]",
        "standard input:4: (the payload): not JSON: JSON is malformed: invalid character (byte 0) [json]",
        "standard input:5: total: cannot be evaluated: total is null [positive]",
    ]
    assert done.err == "4 payloads against order 1.0: 3 not valid\n"
    assert [row["line"] for row in rows(registered("schemas", "validate", "order", "-", "--json", stdin=lines, code=1))] == [
        3,
        4,
        5,
    ]
    assert registered("schemas", "validate", "order@1.0", "-", stdin='{"id": "a", "total": 1}').code == 0
    assert "none.ndjson: there is no such file" in registered("schemas", "validate", "order", "none.ndjson", code=1).err


def test_two_versions_are_compared(registered: Esb) -> None:
    Path("next.json").write_text(json.dumps(STRICT | {"evolution_strategy": "BREAKING_CHANGE"}))
    registered("schemas", "register", "next.json")
    done = registered("schemas", "diff", "order@1.0", "order@2.0")
    assert 'added /json_schema/required/1: "total"\n' in done.out
    assert "BACKWARD  no: " in done.out
    assert "FORWARD   yes: " in done.out
    [told] = rows(registered("schemas", "diff", "order@2.0", "order.json", "--json"))
    assert (told["is_backward_compatible"], told["is_forward_compatible"]) == (True, False)
    assert "there is 1.0, 2.0" in registered("schemas", "diff", "order@1.0", "order@9.0", code=1).err


# --- the life of a version ----------------------------------------------------------------------------------------------


def test_a_version_is_deprecated_deactivated_and_activated(registered: Esb) -> None:
    def told() -> Any:
        return json.loads(registered("schemas", "show", "order@1.0", "--json").out)

    registered("schemas", "deprecate", "order@1.0", "--refuse-after", "2030-01-01T00:00:00Z", "--message", "use 2.0")
    deprecated = told()["deprecated"]
    assert (deprecated["refuse_producers_after"], deprecated["message"]) == ("2030-01-01T00:00:00.000Z", "use 2.0")
    registered("schemas", "activate", "order@1.0")
    assert "deprecated" not in told()
    registered("schemas", "deactivate", "order@1.0")
    assert told()["is_active"] is False
    assert "expected NAME@VERSION" in registered("schemas", "deactivate", "order", code=2).err


def test_a_schema_is_deleted_first_and_removed_then(registered: Esb) -> None:
    assert "--yes" in registered("schemas", "delete", "order", code=2).err
    assert "was not deleted first" in registered("schemas", "delete", "order@1.0", "--permanent", "--yes", code=1).err
    registered("schemas", "delete", "order@1.0", "--yes")
    assert registered("schemas", "list", "--json").out == ""
    assert [row["state"] for row in rows(registered("schemas", "list", "--deleted", "--json"))] == ["deleted"]
    registered("schemas", "delete", "order", "--permanent", "--yes")
    assert registered("schemas", "list", "--deleted", "--json").out == ""


def test_the_schema_of_a_stream_is_not_deleted(registered: Esb) -> None:
    registered("stream", "create", "orders", "--schema", "order")
    done = registered("schemas", "delete", "order", "--yes", code=1)
    assert "is the schema of the stream orders" in done.err


def test_levels_are_shown_and_set(registered: Esb) -> None:
    assert registered("schemas", "level", "order").out == "order: BACKWARD (inherited)\n"
    assert registered("schemas", "level", "--all", "full").out == "all schemas: FULL\n"
    assert registered("schemas", "level", "order").out == "order: FULL (inherited)\n"
    assert registered("schemas", "level", "order", "NONE").out == "order: NONE\n"
    assert "Invalid compatibility level 'HALF'; accepted: NONE" in registered("schemas", "level", "order", "half", code=1).err
    assert registered("schemas", "level", code=2).out == ""


# --- folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_applied_after_showing_its_plan(esb: Esb) -> None:
    Path("contracts/money").mkdir(parents=True)
    Path("contracts/a.json").write_text(
        json.dumps({"schema_name": "a", "json_schema": {"$ref": "m"}, "references": [{"name": "m", "subject": "money"}]})
    )
    Path("contracts/money/money.yaml").write_text("schema_name: money\njson_schema: {type: number}\ncompatibility_level: FULL\n")
    plan = "new           money 1.0  contracts/money/money.yaml\nnew           a 1.0  contracts/a.json\n"
    assert esb("schemas", "apply", "contracts", "--dry-run").out == plan
    assert not Path("esb-data").exists()
    refused = esb("schemas", "apply", "contracts", code=2)
    assert (refused.out, "2 versions will be registered. Add --yes" in refused.err) == (plan, True)
    assert esb("schemas", "list").out == ""
    assert esb("schemas", "apply", "contracts", "--yes").err == "2 new\n2 versions registered\n"
    assert esb("schemas", "apply", "contracts").err == "2 unchanged\n"
    Path("contracts/a.json").write_text(json.dumps({"schema_name": "a", "json_schema": {"type": "strin"}}))
    Path("contracts/b.json").write_text(json.dumps({"schema_name": "b", "json_schema": True}))
    done = esb("schemas", "apply", "contracts", "--yes", code=1)
    assert "contracts/a.json:1: json_schema/type" in done.out
    assert done.err == "1 new, 1 unchanged, 1 refused; nothing is registered\n"
    assert "nowhere: there is no such folder" in esb("schemas", "apply", "nowhere", code=1).err


def test_an_export_is_applied_elsewhere_and_overwrites_nothing_unasked(registered: Esb) -> None:
    registered("schemas", "level", "order", "FULL")
    assert registered("schemas", "export", "out").out == "2 files written, 0 overwritten, 0 unchanged\n"
    assert registered("schemas", "export", "out").out == "0 files written, 0 overwritten, 2 unchanged\n"
    exported = Path("out/order/1.0.yaml")
    exported.write_text(exported.read_text() + "# mine\n")
    done = registered("schemas", "export", "out", code=1)
    assert done.err == "esb: out/order/1.0.yaml: there with other contents; --force overwrites them (nothing was written)\n"
    assert registered("schemas", "export", "out", "--force").out == "0 files written, 1 overwritten, 1 unchanged\n"
    registered("--data", "other", "schemas", "apply", "out", "--yes")
    assert registered("--data", "other", "schemas", "level", "order").out == "order: FULL\n"
    assert registered("--data", "other", "schemas", "export", "out").out == "0 files written, 0 overwritten, 2 unchanged\n"
    open_storage("other").close()


def test_an_export_says_what_could_not_be_made_again(registered: Esb) -> None:
    Path("next.json").write_text(json.dumps(STRICT | {"compatibility_level": "NONE"}))
    registered("schemas", "register", "next.json")
    registered("schemas", "level", "order", "BACKWARD")
    Path("last.json").write_text(json.dumps({**STRICT, "event_type": "t"}))
    registered("schemas", "register", "last.json")
    registered("schemas", "delete", "order@2.0", "--yes")
    done = registered("schemas", "export", "out")
    assert "esb: apply would refuse this in an empty registry: out/order/2.1.yaml: incompatible at level BACKWARD" in done.err
