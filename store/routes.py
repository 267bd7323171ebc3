"""The store of routing rules: every version that a rule ever had, and which one counts.

Versions are never removed, so that the history, which names rules and versions, can always be looked up.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from event_streaming_bus.store.database import Connection, Place, open_database
from event_streaming_bus.store.sql import load_queries

SQL: Final = load_queries("routes.sql")


class RouteRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a rule. ``config`` is its configuration as JSON."""

    tenant_id: str
    name: str
    version: int
    config: str
    changed_at_ms: int
    changed_by: str | None


_decode: Final = msgspec.json.Decoder(RouteRecord).decode


class RouteStore:
    """Rules by tenant. Safe to use from any thread and any number of processes."""

    def __init__(self, place: Place) -> None:
        self._db = open_database(place, tables=SQL["create_tables"], name="routes")

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self._db.close()

    def change_no(self, tenant_id: str) -> int:
        """A number that grows with every change of the tenant's rules, by any process; 0 before the first."""
        with self._db.querying("looking for changed rules") as db:
            row = db.execute(SQL["select_change_no"], (tenant_id,)).fetchone()
        return row[0] if row else 0

    def current(self, tenant_id: str) -> list[RouteRecord]:
        """The versions that count, by name."""
        with self._db.querying("reading rules") as db:
            return RouteTables(db).current(tenant_id)

    def find(self, tenant_id: str, name: str, version: int | None = None) -> RouteRecord | None:
        """The version of a rule that counts, or the one with this number, which may be one of a rule that was removed."""
        key = (tenant_id, name) if version is None else (tenant_id, name, version)
        query = "select_current_of_name" if version is None else "select_version"
        with self._db.querying("reading a rule") as db:
            row = db.execute(SQL[query], key).fetchone()
        return _decode(row[0]) if row else None

    @contextmanager
    def writing(self, doing: str) -> Iterator["RouteTables"]:
        """The tables in a write transaction: kept at the end, undone if anything is raised."""
        with self._db.transaction(doing) as db:
            yield RouteTables(db)


class RouteTables:
    """The tables within one transaction."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    def current(self, tenant_id: str) -> list[RouteRecord]:
        """The versions that count, by name."""
        return [_decode(record) for (record,) in self._db.execute(SQL["select_current"], (tenant_id,))]

    def put(self, tenant_id: str, name: str, config: str, changed_at_ms: int, changed_by: str | None) -> RouteRecord:
        """Keep a new version, which counts from now on. Versions go on where a rule of this name that was removed had stopped."""
        (highest,) = self._db.execute(SQL["select_highest_version"], (tenant_id, name)).fetchone()
        record = RouteRecord(
            tenant_id=tenant_id,
            name=name,
            version=highest + 1,
            config=config,
            changed_at_ms=changed_at_ms,
            changed_by=changed_by,
        )
        self._db.execute(SQL["update_not_current"], (tenant_id, name))
        self._db.execute(SQL["insert_version"], (tenant_id, name, record.version, msgspec.json.encode(record).decode()))
        self._db.execute(SQL["upsert_change_no"], (tenant_id,))
        return record

    def remove(self, tenant_id: str, name: str) -> bool:
        """Let no version of the rule count any more; whether one did."""
        removed = self._db.execute(SQL["update_not_current"], (tenant_id, name)).rowcount > 0
        if removed:
            self._db.execute(SQL["upsert_change_no"], (tenant_id,))
        return removed
