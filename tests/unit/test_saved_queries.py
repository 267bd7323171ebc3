"""Saved queries: in their store, over REST, and on the command line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import commands, served

from event_streaming_bus.errors import InvalidInputError, NotFoundError, QueryError
from event_streaming_bus.store import saved_queries as module
from event_streaming_bus.store.saved_queries import SavedQueries

SINCE = "SELECT count(*) AS events FROM events WHERE stream = $stream AND published_at > $since"


@pytest.fixture
def queries(tmp_path: Path) -> Iterator[SavedQueries]:
    opened = SavedQueries(tmp_path / "log.db")
    yield opened
    opened.close()


def test_a_saved_query_is_found_changed_and_removed(queries: SavedQueries) -> None:
    made = queries.put("one", "recent", SINCE, description="How many", defaults={"since": "2020-01-01"}, changed_by="me")
    assert made.parameters == ("since", "stream")
    assert queries.find("one", "recent") == made
    assert made.values({"stream": "orders"}) == {"since": "2020-01-01", "stream": "orders"}
    queries.put("one", "recent", "SELECT 1")
    queries.put("one", "all", "FROM events")
    assert [(query.name, query.sql) for query in queries.all("one")] == [("all", "FROM events"), ("recent", "SELECT 1")]
    queries.remove("one", "recent")
    with pytest.raises(NotFoundError, match="recent"):
        queries.find("one", "recent")
    with pytest.raises(NotFoundError):
        queries.remove("one", "recent")


def test_each_tenant_has_its_own(queries: SavedQueries) -> None:
    queries.put("one", "q", "SELECT 1")
    queries.put("two", "q", "SELECT 2")
    assert queries.find("two", "q").sql == "SELECT 2"
    queries.remove("two", "q")
    assert [query.sql for query in queries.all("one")] == ["SELECT 1"]
    assert queries.all("two") == []


@pytest.mark.parametrize(
    ("name", "sql", "more", "told"),
    [
        ("", "SELECT 1", {}, "name: expected"),
        ("a/b", "SELECT 1", {}, "name: expected"),
        ("x" * 101, "SELECT 1", {}, "name: expected"),
        ("q", "SELECT 1; SELECT 2", {}, "one SQL statement"),
        ("q", "DROP TABLE events", {}, "read only"),
        ("q", "SELECT 1 --" + "x" * 100_000, {}, "at most 100,000"),
        ("q", "SELECT 1", {"description": "x" * 2001}, "at most 2,000"),
        ("q", "SELECT $a", {"defaults": {"b": 1}}, r"no \$b"),
    ],
)
def test_what_cannot_be_saved_is_refused(queries: SavedQueries, name: str, sql: str, more: dict[str, Any], told: str) -> None:
    with pytest.raises((InvalidInputError, QueryError), match=told):
        queries.put("one", name, sql, **more)
    assert queries.all("one") == []


def test_there_is_a_bound_on_how_many(queries: SavedQueries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUERIES", 2)
    for name in ("a", "b", "a"):
        queries.put("one", name, "SELECT 1")
    with pytest.raises(InvalidInputError, match="remove one first"):
        queries.put("one", "c", "SELECT 1")
    queries.put("two", "c", "SELECT 1")


def test_saved_queries_over_rest_and_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with commands(tmp_path, monkeypatch) as esb:
        (tmp_path / "orders.ndjson").write_text('{"n": 1}\n{"n": 2}\n')
        esb("stream", "create", "orders")
        esb("publish", "orders", "orders.ndjson", "--type", "order")
        esb("sql", SINCE, "--save-as", "recent", "-p", "since=2020-01-01")
        assert esb("sql", "--saved", "recent", "-p", "stream=orders", "--csv").out == "events\n2\n"
        assert "no saved query 'none'" in esb("sql", "--saved", "none", code=1).err
        assert "STATEMENT" in esb("sql", code=2).err
        with (
            served(tmp_path / "esb-data") as url,
            httpx.Client(base_url=f"{url}/api/v1/history/saved-queries", timeout=30) as http,
        ):
            (listed,) = http.get("").json()["saved_queries"]
            assert (listed["name"], listed["parameters"], listed["defaults"]) == (
                "recent",
                ["since", "stream"],
                {"since": "2020-01-01"},
            )
            ran = http.post("/recent/run", json={"parameters": {"stream": "orders"}})
            assert ran.json()["rows"] == [[2]]
            ran = http.post("/recent/run", json={"parameters": {"stream": "orders", "since": "2999-01-01"}, "format": "csv"})
            assert ran.text == "events\n0\n"
            assert http.post("/recent/run").status_code == 400
            assert http.post("/recent/run", json={"all_tenants": True}).status_code == 400
            saved = http.put("/numbers", json={"sql": "SELECT payload->>'n' AS n FROM events ORDER BY n", "description": "d"})
            assert (saved.json()["description"], saved.json()["changed_by"]) == ("d", "anonymous")
            assert http.put("/evil", json={"sql": "FROM base.events"}).status_code == 400
            assert http.put("/numbers", json={"sql": "SELECT 1", "name": "other"}).status_code == 400
            assert esb("sql", "--saved", "numbers", "--csv").out == "n\n1\n2\n"
            assert http.get("/numbers", headers={"X-Tenant-Id": "other"}).status_code == 404
            assert http.delete("/numbers").status_code == 200
            assert http.get("/numbers").status_code == 404
