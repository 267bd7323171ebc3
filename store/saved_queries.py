"""Saved queries: questions to the history that have a name, kept by tenant beside the log."""

import re
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import InvalidInputError, NotFoundError
from event_streaming_bus.models import rfc3339
from event_streaming_bus.store.database import Place, open_database
from event_streaming_bus.store.sql import load_queries

SQL: Final = load_queries("saved_queries.sql")
MAX_QUERIES: Final = 1000
MAX_SQL: Final = 100_000
MAX_DESCRIPTION: Final = 2000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class SavedQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A question with a name. ``parameters`` are the names of the ``$names`` in its statement; ``defaults`` has the values of
    those that need not be given."""

    tenant_id: str
    name: str
    sql: str
    description: str = ""
    parameters: tuple[str, ...] = ()
    defaults: dict[str, Any] = {}
    changed_at_ms: int = 0
    changed_by: str | None = None

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values of its parameters: those given, and the defaults of others."""
        return {**self.defaults, **given}

    def told(self) -> dict[str, Any]:
        """As JSON."""
        told = msgspec.structs.asdict(self)
        del told["tenant_id"]
        return told | {"changed_at": rfc3339(told.pop("changed_at_ms"))}


_decode: Final = msgspec.json.Decoder(SavedQuery).decode


class SavedQueries:
    """Saved queries by tenant. Safe to use from any thread and any number of processes."""

    def __init__(self, place: Place) -> None:
        self._db = open_database(place, tables=SQL["create_tables"], name="saved_queries")

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self._db.close()

    def all(self, tenant_id: str) -> list[SavedQuery]:
        """A tenant's queries, by name."""
        with self._db.querying("reading saved queries") as db:
            rows = db.execute(SQL["select_all"], (tenant_id,)).fetchall()
        return [_decode(record) for (record,) in rows]

    def find(self, tenant_id: str, name: str) -> SavedQuery:
        """A query by its name. Raises ``NotFoundError``."""
        with self._db.querying("reading a saved query") as db:
            row = db.execute(SQL["select_one"], (tenant_id, name)).fetchone()
        if row is None:
            raise NotFoundError(f"There is no saved query '{name}'.", name=name)
        return _decode(row[0])

    def put(
        self,
        tenant_id: str,
        name: str,
        sql: str,
        *,
        description: str = "",
        defaults: Mapping[str, Any] | None = None,
        changed_by: str | None = None,
    ) -> SavedQuery:
        """Keep a query under a name, in the place of one that has it. Raises ``QueryError`` unless it is one reading statement,
        and ``InvalidInputError`` for what else is wrong; whether its tables and columns are there is seen when it is asked."""
        from event_streaming_bus.store.history.sql_gate import check_statement

        for field, value, most in (("sql", sql, MAX_SQL), ("description", description, MAX_DESCRIPTION)):
            if len(value) > most:
                raise InvalidInputError(f"{field}: {len(value):,} characters; at most {most:,} are kept", path=field)
        if not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"name: expected 1 to 100 letters, digits, '.', '_' and '-', a letter or digit first; got {name!r}", path="name"
            )
        parameters = check_statement(sql)
        if unknown := [each for each in defaults or {} if each not in parameters]:
            raise InvalidInputError(f"defaults.{unknown[0]}: the statement has no ${unknown[0]}", path=f"defaults.{unknown[0]}")
        query = SavedQuery(
            tenant_id=tenant_id,
            name=name,
            sql=sql,
            description=description,
            parameters=tuple(parameters),
            defaults=dict(defaults or {}),
            changed_at_ms=time.time_ns() // 1_000_000,
            changed_by=changed_by,
        )
        with self._db.transaction(f"saving the query {name}") as db:
            is_new = db.execute(SQL["select_one"], (tenant_id, name)).fetchone() is None
            if is_new and db.execute(SQL["count"], (tenant_id,)).fetchone()[0] >= MAX_QUERIES:
                raise InvalidInputError(f"there are {MAX_QUERIES:,} saved queries already; remove one first")
            db.execute(SQL["upsert"], (tenant_id, name, msgspec.json.encode(query).decode()))
        return query

    def remove(self, tenant_id: str, name: str) -> None:
        """Forget a query. Raises ``NotFoundError``."""
        with self._db.transaction(f"removing the saved query {name}") as db:
            removed = db.execute(SQL["delete"], (tenant_id, name)).rowcount
        if not removed:
            raise NotFoundError(f"There is no saved query '{name}'.", name=name)
