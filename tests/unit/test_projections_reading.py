"""Declaring projections: what is wrong is told with its exact place."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from test_projections_support import TOTALS

from event_streaming_bus.sourcing.projection_errors import ProjectionConfigError
from event_streaming_bus.sourcing.projections.reading import read_projection, read_projection_file

YAML = """\
name: users
from: {aggregate_types: [User]}
tables:
  users:
    columns: {user_id: text, name: text, orders: {type: integer, default: 7}, meta: json}
    key: [user_id]
    indexes: [name, [name, orders]]
on:
  user.created:
    - upsert: {user_id: aggregate_id, name: payload.name, meta: "{'by': user_id}"}
  user.deleted:
    - delete: {user_id: aggregate_id}
"""


def problems(data: Any) -> dict[str, str]:
    with pytest.raises(ProjectionConfigError) as caught:
        read_projection(data)
    return {each["path"]: each["message"] for each in caught.value.details["errors"]}


def test_a_file_declares_one_projection_or_several(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(YAML)
    (one,) = read_projection_file(tmp_path / "one.yaml")
    assert (one.name, one.query.aggregate_types, one.query.event_types) == ("users", ("User",), ("user.created", "user.deleted"))
    (shape,) = one.tables
    assert [(column.name, column.default) for column in shape.columns][2:] == [("orders", 7), ("meta", None)]
    assert shape.indexes == (("name",), ("name", "orders"))
    (tmp_path / "two.json").write_text(json.dumps({"projections": [one.to_data(), TOTALS]}))
    assert [each.name for each in read_projection_file(tmp_path / "two.json")] == ["users", "totals"]


def test_toml_declares_the_same(tmp_path: Path) -> None:
    text = """
    name = "n"
    [table]
    columns = {id = "text", n = "integer"}
    key = ["id"]
    [[on.x]]
    upsert = {id = "aggregate_id", n = 1}
    """
    (tmp_path / "n.toml").write_text(text)
    assert read_projection_file(tmp_path / "n.toml") == [read_projection(tomllib.loads(text))]


def test_what_is_kept_reads_as_it_was() -> None:
    definition = read_projection(TOTALS | {"version": 3, "on_error": "skip", "description": "d"})
    again = read_projection(definition.to_data(), kept=True)
    assert again.to_data() == definition.to_data()
    assert again.hash == definition.hash


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        ({"description": "other"}, False),
        ({"on_error": "skip"}, False),
        ({"version": 2}, True),
        ({"store": "duckdb"}, True),
        ({"from": {}}, True),
        ({"on": {"order.placed": [{"upsert": {"customer": "payload.customer"}}]}}, True),
    ],
)
def test_only_what_changes_rows_makes_another_hash(change: dict[str, Any], is_other: bool) -> None:
    assert (read_projection(TOTALS | change).hash != read_projection(TOTALS).hash) is is_other


def with_action(action: Any) -> Any:
    return TOTALS | {"on": {"order.placed": [action]}}


KEY = {"customer": "payload.customer"}
AT = 'on["order.placed"][0]'


@pytest.mark.parametrize(
    ("data", "path", "told"),
    [
        ([], "", "expected a mapping"),
        (TOTALS | {"name": "a b"}, "name", "expected a name"),
        (TOTALS | {"nmae": 1}, "nmae", "did you mean 'name'?"),
        (TOTALS | {"from": {"types": ["x"]}}, "from.types", "unknown key"),
        (TOTALS | {"from": {"event_types": ["order.placed"]}}, 'on["customer.left"]', "never happens: from.event_types has no"),
        (TOTALS | {"store": "postgres"}, "store", "expected one of sqlite, duckdb"),
        (TOTALS | {"tables": {"a": TOTALS["table"]}}, "tables", "give either table or tables"),
        ({"name": "x", "on": TOTALS["on"]}, "tables", "required, but missing"),
        ({**TOTALS, "table": {"columns": {"a": "string"}, "key": ["a"]}}, "table.columns.a", "expected one of text, integer"),
        ({**TOTALS, "table": {"columns": {"a": "text"}, "key": ["b"]}}, "table.key[0]", "there is no column 'b'"),
        ({**TOTALS, "table": {"columns": {"a": "json"}, "key": ["a"]}}, "table.key[0]", "is json"),
        ({**TOTALS, "table": {"columns": {"a": "number"}, "key": ["a"]}}, "table.key[0]", "is a number"),
        ({**TOTALS, "table": {"columns": {"a": "text", "A": "text"}, "key": ["a"]}}, "table.columns.A", "upper and lower case"),
        ({**TOTALS, "tables": {"_esb_x": TOTALS["table"]}, "table": None}, "tables._esb_x", "expected a name"),
        (
            {**TOTALS, "table": {"columns": {"a": {"type": "integer", "default": "x"}}, "key": ["a"]}},
            "table.columns.a.default",
            "expected an integer of 64 bits, got 'x'",
        ),
        (with_action({"upsrt": KEY}), AT, "did you mean 'upsert' for 'upsrt'?"),
        (with_action({"upsert": KEY, "delete": KEY}), AT, "got upsert and delete"),
        (with_action({"upsert": {"total": "1"}}), f"{AT}.upsert.customer", "the key of totals is customer"),
        (with_action({"upsert": KEY | {"totl": "1"}}), f"{AT}.upsert.totl", "did you mean 'total'?"),
        (with_action({"upsert": KEY | {"total": "1 +"}}), f"{AT}.upsert.total", "does not parse"),
        (with_action({"upsert": KEY | {"total": "amount"}}), f"{AT}.upsert.total", "did you mean payload.amount?"),
        (
            with_action({"upsert": KEY | {"total": "row.totl"}}),
            f"{AT}.upsert.total",
            "no column 'totl' in totals; did you mean",
        ),
        (with_action({"upsert": KEY | {"total": "item.a"}}), f"{AT}.upsert.total", "there is no name item"),
        (with_action({"upsert": {"customer": "row.customer"}}), f"{AT}.upsert.customer", "the key cannot depend on row"),
        (with_action({"upsert": KEY, "where": KEY}), f"{AT}.where", "unknown key"),
        (with_action({"update": KEY, "where": KEY}), f"{AT}.update.customer", "the key of a row cannot be changed"),
        (with_action({"delete": KEY | {"total": "1"}}), f"{AT}.delete.total", "a delete names the key"),
        (with_action({"upsert": KEY, "when": "true", "table": "other"}), f"{AT}.table", "expected totals"),
        ({"name": "x", "class": "nonsense"}, "class", "expected module:Class"),
        ({"name": "x", "class": "a:B", "on": {}}, "on", "unknown key"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(data: Any, path: str, told: str) -> None:
    found = problems(data)
    assert told in found.get(path, ""), found


def test_all_that_is_wrong_in_a_file_is_told_with_its_lines(tmp_path: Path) -> None:
    text = YAML.replace("key: [user_id]", "key: [userid]").replace("from:", "form:")
    (tmp_path / "users.yaml").write_text(text)
    with pytest.raises(ProjectionConfigError) as caught:
        read_projection_file(tmp_path / "users.yaml")
    assert [line.split(": ")[0].rpartition("/")[2] for line in caught.value.message.splitlines()] == [
        "users.yaml:2",
        "users.yaml:6",
    ]


def test_two_projections_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text(json.dumps({"projections": [TOTALS, TOTALS]}))
    with pytest.raises(ProjectionConfigError, match=r"projections\[1\].name: 'totals' is the name of a projection before"):
        read_projection_file(tmp_path / "two.json")
