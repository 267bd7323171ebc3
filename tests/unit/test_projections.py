"""What events do to the rows of a projection, in both stores: declared, and in classes."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_projections_support import STORES, TOTALS, built, event, events, table

from event_streaming_bus.errors import QueryError
from event_streaming_bus.sourcing.projection_errors import ProjectionConfigError
from event_streaming_bus.sourcing.projections import Projection, Tables, projects
from event_streaming_bus.sourcing.projections.classes import definition_of
from event_streaming_bus.store.projections_base import Progress, ProjectionDatabase
from event_streaming_bus.store.projections_sqlite import SqliteProjection
from event_streaming_bus.store.recorded import RecordedEvent


def declared(on: Any, columns: Any = None, key: Any = ("id",), **more: Any) -> dict[str, Any]:
    return {"name": "p", "table": table(columns or {"id": "text", "n": "integer"}, key), "on": on, **more}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- declared ---------------------------------------------------------------------------------------------------------


def test_rows_are_made_changed_and_removed(tmp_path: Path, store: str) -> None:
    with built(tmp_path, TOTALS | {"store": store}) as build:
        first = events(
            ("order.placed", {"customer": "ann", "amount": 5}),
            ("order.placed", {"customer": "bob", "amount": 2.5}),
            ("order.placed", {"customer": "ann", "amount": 1}),
        )
        assert build.project(*first) is None
        assert build.rows() == [
            {"customer": "ann", "orders": 2, "total": 6.0, "last": 1_704_067_200_003},
            {"customer": "bob", "orders": 1, "total": 2.5, "last": 1_704_067_200_002},
        ]
        assert build.project(event(4, "customer.left", {"customer": "ann"}), event(5, "other", {})) is None
        assert [row["customer"] for row in build.rows()] == ["bob"]
        assert build.database.progress() == Progress(5, 5, 0, 1_704_067_200_005)
        assert build.project(event(6, "order.placed", {"customer": "ann", "amount": 1})) is None
        assert build.rows()[0]["orders"] == 1


def test_each_kind_of_action_does_what_it_says(tmp_path: Path, store: str) -> None:
    key = {"id": "payload.id"}
    on = {
        "insert": [{"insert": {**key, "n": "payload.n"}}],
        "upsert": [{"upsert": {**key, "n": "row.n + payload.n"}}],
        "update": [{"update": {**key, "n": "row.n * 10"}}],
        "delete": [{"delete": key, "when": "row.n > 5"}],
        "new": [{"upsert": {**key, "n": "99"}, "when": "is_new"}],
    }
    with built(tmp_path, declared(on, store=store)) as build:
        given = events(
            ("update", {"id": "a"}),  # is not there
            ("delete", {"id": "a"}),
            ("insert", {"id": "a", "n": 1}),
            ("delete", {"id": "a"}),  # is not large enough
            ("upsert", {"id": "b", "n": 2}),
            ("update", {"id": "b"}),
            ("new", {"id": "b"}),
            ("new", {"id": "c"}),
            ("delete", {"id": "c"}),
        )
        assert build.project(*given) is None
        assert build.rows() == [{"id": "a", "n": 1}, {"id": "b", "n": 20}]
        failure = build.project(event(10, "insert", {"id": "a", "n": 1}))
        assert failure is not None
        assert failure.message == "on.insert[0]: p: the row with id 'a' is there already"


def test_where_changes_and_removes_every_row_with_these_values(tmp_path: Path, store: str) -> None:
    columns = {"id": "text", "product": "text", "name": "text", "seen": "timestamp"}
    on = {
        "added": [{"upsert": {"id": "payload.id", "product": "payload.product", "name": "'?'", "seen": "payload.seen"}}],
        "renamed": [{"update": {"name": "concat(payload.name, ' ', row.id)"}, "where": {"product": "payload.product"}}],
        "ended": [{"delete": {}, "where": {"seen": "payload.seen"}}],
        "cleared": [{"delete": None, "where": {"product": "payload.product"}, "when": "row.id != 'c'"}],
    }
    with built(tmp_path, declared(on, columns, store=store)) as build:
        given = events(
            ("added", {"id": "a", "product": "x", "seen": 5}),
            ("added", {"id": "b", "product": "y"}),
            ("added", {"id": "c", "product": "x"}),
            ("renamed", {"product": "x", "name": "Ex"}),
            ("added", {"id": "b", "product": "x"}),
            ("renamed", {"product": "none", "name": "No"}),
            ("ended", {"seen": 5}),
        )
        assert build.project(*given) is None
        assert [(row["id"], row["product"], row["name"]) for row in build.rows()] == [("b", "x", "?"), ("c", "x", "Ex c")]
        assert build.project(event(8, "cleared", {"product": "x"})) is None
        assert [row["id"] for row in build.rows()] == ["c"]


def test_an_action_is_done_for_each_item_of_a_list(tmp_path: Path, store: str) -> None:
    on = {"order": [{"each": "payload.lines", "upsert": {"id": "item.sku", "n": "row.n + item.count"}, "when": "item.count > 0"}]}
    with built(tmp_path, declared(on, store=store)) as build:
        lines = [{"sku": "a", "count": 2}, {"sku": "b", "count": 0}, {"sku": "a", "count": 1}]
        assert build.project(event(1, "order", {"lines": lines}), event(2, "order", {"lines": []})) is None
        assert build.rows() == [{"id": "a", "n": 3}]
        failure = build.project(event(3, "order", {"lines": [{"sku": "c", "count": 1}, {"sku": "d", "count": "x"}]}))
        assert failure is not None
        assert failure.message == "on.order[0].when: item.count is text, in item.count > 0"
        assert build.rows() == [{"id": "a", "n": 3}]


def test_an_event_can_change_several_tables_and_every_type_of_event_can_be_meant(tmp_path: Path, store: str) -> None:
    on = {
        "*": [{"table": "types", "upsert": {"type": "event_type", "n": "row.n + 1"}}],
        "made": [{"table": "things", "insert": {"id": "aggregate_id", "by": "payload.by", "at": "position"}}],
    }
    tables = {
        "types": table({"type": "text", "n": "integer"}, ["type"]),
        "things": table({"id": "text", "by": "text", "at": "integer"}, ["id"]),
    }
    with built(tmp_path, {"name": "p", "store": store, "tables": tables, "on": on}) as build:
        assert build.project(event(1, "made", {"by": "ann"}, "t-1"), event(2, "seen", {}), event(7, "seen", {})) is None
        assert build.rows("types") == [{"type": "made", "n": 1}, {"type": "seen", "n": 2}]
        assert build.rows("things") == [{"id": "t-1", "by": "ann", "at": 1}]
        assert build.definition.query.event_types is None


def test_values_of_every_type_come_back_as_they_were(tmp_path: Path, store: str) -> None:
    types = {"t": "text", "i": "integer", "n": "number", "b": "boolean", "at": "timestamp", "j": "json"}
    columns = {"day": "timestamp", "ok": "boolean", "id": "integer", **types}
    values = {name: f"payload.{name}" for name in ("day", "ok", "id", *types)}
    rows = [
        {"day": 86_400_000, "ok": True, "id": -(1 << 63), "t": "ä\n'\"\0z", "i": (1 << 63) - 1, "n": -0.1, "b": False, "at": -1},
        {"day": 0, "ok": False, "id": 0, "t": "", "i": None, "n": 5.0, "b": None, "at": 1_704_067_200_001},
    ]
    rows = [row | {"j": j} for row, j in zip(rows, [{"a": [1, None, {"b": "c"}]}, None], strict=True)]
    on = {
        "x": [{"upsert": values}],
        "again": [{"update": {name: values[name] for name in ("day", "ok", "id")} | {"t": "row.j.a"}}],
    }
    with built(tmp_path, declared(on, columns, ("day", "ok", "id"), store=store)) as build:
        assert build.project(*(event(i, "x", row) for i, row in enumerate(rows, 1))) is None
        assert build.rows() == [rows[1], rows[0]]
    with built(tmp_path, declared(on, columns, ("day", "ok", "id"), store=store)) as build:  # from the disk
        failure = build.project(event(3, "again", rows[0]))
        assert failure is not None
        assert "p.t: expected text, got [1, None" in failure.message
        assert build.rows() == [rows[1], rows[0]]


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"customer": "ann", "amount": None}, 'on["order.placed"][0].upsert.total: payload.amount is null'),
        ({"customer": "ann", "amount": "1"}, "payload.amount is text"),
        ({"amount": 1}, "totals.customer is a part of the key and cannot be null"),
        ({"customer": 5, "amount": 1}, "totals.customer: expected text, got 5"),
        (b"{", "the payload cannot be read"),
    ],
)
def test_an_event_that_fails_changes_nothing_and_says_why(tmp_path: Path, payload: Any, told: str) -> None:
    good = {"customer": "ann", "amount": 1}
    with built(tmp_path, TOTALS) as build:
        assert build.project(event(3, "order.placed", good)) is None
        before = build.rows()
        failure = build.project(
            event(5, "order.placed", good), event(9, "order.placed", payload), event(10, "order.placed", good)
        )
        assert failure is not None
        assert told in failure.message
        assert (failure.position, failure.event_id, failure.event_type) == (9, "evt-9", "order.placed")
        assert (build.rows()[0]["orders"], before[0]["orders"]) == (2, 1)
        assert build.fold.progress == build.database.progress() == Progress(8, 2, 0, 1_704_067_200_005)


def test_what_an_event_did_before_it_failed_is_undone(tmp_path: Path, store: str) -> None:
    on = {
        "x": [
            {"upsert": {"id": "'a'", "n": "row.n + 1"}},
            {"delete": {"id": "'b'"}},
            {"upsert": {"id": "'c'", "n": "1"}},
            {"update": {"n": "row.n + 100"}, "where": {"n": "2"}},
            {"upsert": {"id": "'d'", "n": "payload.n"}},
        ]
    }
    with built(tmp_path, declared(on, store=store, on_error="skip")) as build:
        assert build.project(event(1, "x", {"n": 1}), event(2, "x", {"n": "bad"}), event(3, "x", {"n": 3})) is None
        assert build.rows() == [{"id": "a", "n": 102}, {"id": "c", "n": 1}, {"id": "d", "n": 3}]
        assert build.database.progress() == Progress(3, 2, 1, 1_704_067_200_003)
        (skipped,) = build.database.skipped(10)
        assert (skipped.position, skipped.event_id) == (2, "evt-2")
        assert skipped.message == "on.x[4]: p.n: expected an integer of 64 bits, got 'bad'"


def test_one_event_can_be_skipped_by_its_position(tmp_path: Path) -> None:
    bad = event(2, "order.placed", {"customer": "ann"})
    with built(tmp_path, TOTALS, skip_position=2) as build:
        assert build.project(bad) is None
        assert build.database.progress().skipped == 1
        assert build.project(event(3, "order.placed", {"customer": "ann"})) is not None


# --- classes ----------------------------------------------------------------------------------------------------------


class Users(Projection):
    tables = {  # noqa: RUF012
        "users": table({"user_id": "text", "name": "text", "logins": "integer"}, ["user_id"]),
        "names": table({"name": "text", "n": "integer"}, ["name"]),
    }
    on_error = "skip"

    @projects("user.created", "user.renamed")
    def named(self, event: RecordedEvent, tables: Tables) -> None:
        before = tables.users.get(user_id=event.aggregate_id)
        if before is not None:
            left = (tables.names.get(name=before["name"]) or {"n": 1})["n"] - 1
            tables.names.upsert(name=before["name"], n=left)
            if not left:
                tables.names.delete(name=before["name"])
        tables.users.upsert(user_id=event.aggregate_id, name=event.payload["name"])
        present = tables.names.get(name=event.payload["name"])
        tables.names.upsert(name=event.payload["name"], n=(present["n"] if present else 0) + 1)

    @projects("user.logged_in")
    def logged_in(self, event: RecordedEvent, tables: Tables) -> None:
        if not tables.users.update(user_id=event.aggregate_id, logins=event.payload["n"]):
            raise LookupError("nobody")

    @projects("all.renamed")
    def all_renamed(self, event: RecordedEvent, tables: Tables) -> None:
        tables.execute("UPDATE users SET name = ? WHERE name <> ?", event.payload["name"], "keep")
        count = tables.select("SELECT count(*) AS n FROM users WHERE name = ?", event.payload["name"])[0]["n"]
        if event.payload.get("fails"):
            raise RuntimeError("after all")
        tables["names"].upsert(name=event.payload["name"], n=count)


def of_class(cls: type[Projection], store: str) -> dict[str, Any]:
    return definition_of(cls).to_data() | {"store": store, "class": "a:B"}


def test_a_class_says_in_python_what_events_do(tmp_path: Path, store: str) -> None:
    with built(tmp_path, of_class(Users, store), Users) as build:
        given = [
            event(1, "user.created", {"name": "Ann"}, "u-1"),
            event(2, "user.created", {"name": "Bob"}, "u-2"),
            event(3, "user.renamed", {"name": "Bob"}, "u-1"),
            event(4, "user.logged_in", {"n": 1}, "u-1"),
            event(5, "user.logged_in", {"n": 1}, "u-9"),
            event(6, "user.logged_in", {"n": "x"}, "u-1"),
        ]
        assert build.project(*given) is None
        assert build.rows("users") == [
            {"user_id": "u-1", "name": "Bob", "logins": 1},
            {"user_id": "u-2", "name": "Bob", "logins": 0},
        ]
        assert build.rows("names") == [{"name": "Bob", "n": 2}]
        assert [each.message for each in build.database.skipped(5)] == [
            "Users.logged_in: ValueError: users.logins: expected an integer of 64 bits, got 'x'",
            "Users.logged_in: LookupError: nobody",
        ]


def test_sql_of_a_class_is_undone_with_its_event(tmp_path: Path, store: str) -> None:
    with built(tmp_path, of_class(Users, store), Users) as build:
        given = [
            event(1, "user.created", {"name": "Ann"}, "u-1"),
            event(2, "user.logged_in", {"n": "bad"}, "u-1"),
            event(3, "all.renamed", {"name": "Zed"}),
            event(4, "all.renamed", {"name": "Nope", "fails": True}),
            event(5, "user.created", {"name": "keep"}, "u-2"),
            event(6, "all.renamed", {"name": "Last"}),
        ]
        assert build.project(*given) is None
        assert [(row["user_id"], row["name"]) for row in build.rows("users")] == [("u-1", "Last"), ("u-2", "keep")]
        assert build.rows("names") == [{"name": n, "n": 1} for n in ("Ann", "Last", "Zed", "keep")]
        assert build.database.progress() == Progress(6, 4, 2, 1_704_067_200_006)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE _esb_progress SET position = 0",
        "DROP TABLE users",
        "ATTACH 'other.db' AS other",
        "COMMIT",
        "CREATE TABLE more (a INTEGER)",
        "PRAGMA user_version = 7",
        "INSERT INTO users VALUES ('x', 'y', 1); DELETE FROM users",
    ],
)
def test_sql_of_a_class_stays_within_its_own_rows(tmp_path: Path, store: str, statement: str) -> None:
    with built(tmp_path, of_class(Users, store), Users) as build:
        build.database.begin()
        with pytest.raises(QueryError):
            build.database.execute(statement, ())
        build.database.rollback()


def test_what_a_class_cannot_be_is_said_when_it_is_declared() -> None:
    class Nothing(Projection):
        table = table({"id": "text"}, ["id"])

    class Twice(Projection):
        table = table({"id": "text"}, ["id"])

        @projects("x")
        def one(self, event: Any, tables: Any) -> None: ...

        @projects("x")
        def other(self, event: Any, tables: Any) -> None: ...

    class NoKey(Projection):
        table = {"columns": {"id": "text"}, "key": ["nr"]}  # noqa: RUF012

        @projects("x")
        def one(self, event: Any, tables: Any) -> None: ...

    for cls, told in ((Nothing, "projects nothing"), (Twice, "both project 'x'"), (NoKey, "there is no column 'nr'")):
        with pytest.raises(ProjectionConfigError, match=told):
            definition_of(cls)


def test_a_class_with_other_code_is_another_definition() -> None:
    def made(step: int) -> type[Projection]:
        class Counter(Projection):
            table = table({"id": "text", "n": "integer"}, ["id"])

            @projects("x")
            def one(self, event: Any, tables: Any) -> None:
                tables.counter.upsert(id="a", n=step)

        Counter.version = step
        return Counter

    assert definition_of(made(1)).hash == definition_of(made(1)).hash != definition_of(made(2)).hash


# --- batches ----------------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "c"])
GIVEN = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.fixed_dictionaries({"id": KEYS, "n": st.integers(-3, 3) | st.just("bad")})),
        st.tuples(st.just("move"), st.fixed_dictionaries({"id": KEYS, "to": KEYS})),
        st.tuples(st.just("drop"), st.fixed_dictionaries({"n": st.integers(-3, 3)})),
        st.tuples(st.just("all"), st.fixed_dictionaries({"n": st.integers(-3, 3), "by": st.integers(0, 3)})),
    ),
    max_size=30,
)
MIXED = {
    "add": [{"upsert": {"id": "payload.id", "n": "row.n + payload.n"}}],
    "move": [
        {"upsert": {"id": "payload.to", "n": "row.n + 1"}, "when": "payload.to != payload.id"},
        {"delete": {"id": "payload.id"}, "when": "row.n % 2 == 0"},
    ],
    "drop": [{"delete": {}, "where": {"n": "payload.n"}}],
    "all": [{"update": {"n": "row.n + 6 / payload.by * 0 + payload.by"}, "where": {"n": "payload.n"}}],
}


def outcome(database: ProjectionDatabase, build: Any) -> Any:
    return build.rows(), database.progress(), [(each.position, each.message) for each in database.skipped(100)]


@given(GIVEN, st.lists(st.integers(1, 8), min_size=1), st.booleans())
@settings(max_examples=40)
def test_it_does_not_matter_where_batches_end(given: list[tuple[str, Any]], sizes: list[int], reopened: bool) -> None:
    import tempfile

    columns = {"id": "text", "n": "number"}
    found = []
    for cuts in ([1000], sizes):
        with tempfile.TemporaryDirectory() as folder:
            rest, turn = events(*given), 0
            while rest or not turn:
                with built(Path(folder), declared(MIXED, columns, on_error="skip")) as build:
                    while rest:
                        size = cuts[turn % len(cuts)]
                        turn += 1
                        assert build.project(*rest[:size]) is None
                        rest = rest[size:]
                        if reopened:
                            break
                    turn = turn or 1
                    if not rest:
                        found.append(json.dumps(outcome(build.database, build), default=lambda each: each.__repr__()))
    assert found[0] == found[1]


def test_a_batch_that_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    with built(tmp_path, TOTALS) as build:
        build.project(event(1, "order.placed", {"customer": "ann", "amount": 1}))
        build.database.begin()
        build.database.write(build.definition.tables[0], [build.rows()[0] | {"orders": 50}], [])
    database = SqliteProjection(tmp_path / "build.sqlite", build.definition.tables)  # as after a crash
    assert database.find(build.definition.tables[0], {})[0]["orders"] == 1
    assert database.progress().position == 1
    database.close()


def test_rows_are_looked_up_by_their_key_however_many_there_are(tmp_path: Path) -> None:
    columns = {"a": "text", "b": "integer", "n": "integer"}
    on = {"x": [{"upsert": {"a": "payload.a", "b": "payload.b", "n": "row.n + 1"}}]}
    with built(tmp_path, declared(on, columns, ("a", "b"))) as build:
        build.project(*(event(i, "x", {"a": f"a{i % 50}", "b": i % 11}) for i in range(1, 600)))
        assert len(build.rows()) == 550
        database = build.database
        assert isinstance(database, SqliteProjection)
        keys = [("a1", 1), ("a9", 9), ("none", 1)]
        assert [(row["a"], row["b"]) for row in database.fetch(build.definition.tables[0], keys)] == keys[:2]
        with sqlite3.connect(database.path) as db:
            sql = database._tables["p"].fetch(2)
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", ["a", 1, "b", 2])]
        db.close()
        assert "SEARCH p USING PRIMARY KEY (a=? AND b=?)" in plan
