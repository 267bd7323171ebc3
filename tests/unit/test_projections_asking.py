"""Asking projections: rows by conditions and page by page, and SQL that can do nothing but read."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from test_projections_support import STORES, TOTALS, place, table

from event_streaming_bus.errors import InvalidInputError, QueryError
from event_streaming_bus.sourcing.projection_errors import ProjectionNotRunningError
from event_streaming_bus.sourcing.projections import ProjectionService
from event_streaming_bus.store.storage import Storage, open_storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = open_storage(tmp_path / "data")
    yield storage
    storage.close()


@pytest.fixture
async def service(storage: Storage) -> AsyncIterator[ProjectionService]:
    async with ProjectionService(storage) as service:
        yield service


@pytest.fixture(params=STORES)
def declared(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TOTALS | {"store": request.param}


async def test_rows_are_asked_for_by_conditions_and_page_by_page(
    storage: Storage, service: ProjectionService, declared: dict[str, Any]
) -> None:
    columns = {"id": "text", "n": "integer", "at": "timestamp", "ok": "boolean", "j": "json"}
    on = {
        "order.placed": [
            {"upsert": {"id": "payload.customer", "n": "payload.amount", "at": "1000 * payload.amount", "ok": "row.n == 0"}}
        ]
    }
    await service.apply(declared | {"table": table(columns, ["id"]), "on": on})
    given = [("a", 3), ("b", None), ("c", 1), ("d", 3), ("e", 2), ("f", 1)]
    place(storage, *[(name, n) for name, n in given if n is not None])  # type: ignore[arg-type]
    await service.wait_for("totals")

    async def ids(**asked: Any) -> str:
        return "".join(row["id"] for row in (await service.rows("totals", **asked))["rows"])

    assert await ids(where={"n": 3}) == "ad"
    assert await ids(where={"n": {"ge": 2, "lt": 3}}) == "e"
    assert await ids(where={"id": {"in": ["a", "f", "z"]}, "n": {"ne": 3}}) == "f"
    assert await ids(where={"at": {"gt": "1970-01-01T00:00:01Z"}, "ok": True}) == "ade"
    assert await ids(where={"n": None}) == ""
    for order, wanted in (("-n", "adecf"), ("n,-id", "fceda"), (["ok", "-id"], "fedca"), ("-at", "adecf")):
        pages, cursor = "", None
        while True:
            page = await service.rows("totals", order=order, limit=2, cursor=cursor)
            pages += "".join(row["id"] for row in page["rows"])
            cursor = page["cursor"]
            if cursor is None:
                break
        assert pages == wanted
    (row,) = (await service.rows("totals", where={"id": "a"}))["rows"]
    assert row == {"id": "a", "n": 3, "at": "1970-01-01T00:00:03.000Z", "ok": True, "j": None}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"where": {"nothing": 1}}, "where: totals has no column 'nothing'"),
    ({"where": {"orders": "x"}}, "where.orders: orders: expected an integer"),
    ({"where": {"orders": {"like": 1}}}, "there is no 'like'"),
    ({"where": {"orders": {"lt": None}}}, "null is neither"),
    ({"order": "-nothing"}, "order: totals has no column"),
    ({"limit": 0}, "limit: expected 1 to"),
    ({"cursor": "xx"}, "cursor: expected one that an answer gave"),
    ({"table": "other"}, "has no table 'other'"),
]


async def test_what_rows_cannot_be_asked_for_is_said(storage: Storage, service: ProjectionService) -> None:
    await service.apply(TOTALS)
    for asked, told in REFUSED:
        with pytest.raises(InvalidInputError, match=told):
            await service.rows("totals", **asked)


async def test_sql_reads_the_tables(storage: Storage, service: ProjectionService, declared: dict[str, Any]) -> None:
    await service.apply(declared)
    position = place(storage, ("ann", 1.5), ("bob", 2.0))
    answer = await service.sql(
        "totals", "SELECT sum(orders) AS n, max(total) FROM totals WHERE total > ?", parameters=[1], position=position
    )
    assert (answer["columns"][0], answer["rows"], answer["truncated"]) == ("n", [[2, 2.0]], False)
    nested = "WITH big AS (SELECT * FROM totals WHERE total > 1.7) SELECT customer FROM big"
    assert (await service.sql("totals", nested))["rows"] == [["bob"]]
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) SELECT i FROM n"
    answer = await service.sql("totals", many, max_rows=20)
    assert (len(answer["rows"]), answer["truncated"]) == (20, True)


HOSTILE = [
    "DELETE FROM totals",
    "INSERT INTO totals (customer) VALUES ('x')",
    "UPDATE _esb_progress SET position = 1",
    "DROP TABLE totals",
    "CREATE TABLE more (a INTEGER)",
    "ATTACH 'x.db' AS x",
    "PRAGMA writable_schema = 1",
    "PRAGMA database_list",
    "VACUUM INTO 'copy.db'",
    "SELECT load_extension('x')",
    "SELECT 1; SELECT 2",
    "SELECT nothing FROM totals",
    "SELEKT",
    "",
]


TELLING = [
    "FROM read_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "COPY totals TO 'out.csv'",
    "FROM duckdb_settings()",
    "FROM duckdb_databases",
    "FROM information_schema.tables",
    "INSTALL httpfs",
    "SET memory_limit = '1TB'",
]


async def test_sql_can_do_nothing_but_read(storage: Storage, service: ProjectionService, declared: dict[str, Any]) -> None:
    await service.apply(declared)
    place(storage, ("ann", 1.0))
    await service.wait_for("totals")
    for statement in [*HOSTILE, *TELLING]:
        with pytest.raises(QueryError):
            await service.sql("totals", statement)
    assert (await service.rows("totals"))["rows"][0]["total"] == 1.0


async def test_sql_that_takes_too_long_is_stopped(storage: Storage, service: ProjectionService, declared: dict[str, Any]) -> None:
    await service.apply(declared)
    await service.wait_for("totals", 0)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT sum(i) FROM n"
    with pytest.raises(QueryError, match=r"took longer than 0\.3 s"):
        await service.sql("totals", endless, timeout_s=0.3)


async def test_a_file_that_is_just_being_made_has_no_rows_yet(storage: Storage, declared: dict[str, Any]) -> None:
    service = ProjectionService(storage)
    await service.apply(declared)
    folder = storage.folder / "projections" / "default"
    folder.mkdir()
    if declared["store"] == "sqlite":
        (folder / "totals.b1.sqlite").touch()
    else:
        duckdb.connect(folder / "totals.b1.duckdb").close()
    with pytest.raises(ProjectionNotRunningError, match="has no rows yet"):
        await service.rows("totals")
    service.close()
