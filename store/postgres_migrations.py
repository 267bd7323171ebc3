"""The versions of the tables in a PostgreSQL database: numbered files of SQL, each run once, in one transaction with the note
that it was.

A database is never changed behind the back of whoever runs it: the bus opens one whose version is its own, and refuses any other,
older or newer. ``esb db upgrade`` brings it up to date.
"""

import hashlib
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.errors import InvalidStateError, UnsupportedFormatError
from event_streaming_bus.store.database import PostgresPlace

if TYPE_CHECKING:
    import psycopg

_FILE: Final = re.compile(r"(\d{4})_(\w+)\.sql")
_LOCK_KEY: Final = 0x45534231  # "ESB1"
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS esb_migrations (
    version BIGINT PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)"""


class Migration(msgspec.Struct, frozen=True):
    """A step from one version of the tables to the next, which is ``version``."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Of the SQL: a step that was run is never edited."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All steps, in order."""
    folder = files("event_streaming_bus.store").joinpath("migrations")
    found = [(parts, file) for file in folder.iterdir() if (parts := _FILE.fullmatch(file.name)) is not None]
    steps = [Migration(int(parts[1]), parts[2].replace("_", " "), file.read_text("utf-8")) for parts, file in found]
    return sorted(steps, key=lambda each: each.version)


def version_of(connection: "psycopg.Connection[Any]") -> int:
    """The version of the tables that are there; 0 if there are none."""
    row = connection.execute("SELECT to_regclass('esb_migrations')").fetchone()
    if row is None or row[0] is None:
        return 0
    row = connection.execute("SELECT coalesce(max(version), 0) FROM esb_migrations").fetchone()
    return int(row[0]) if row is not None else 0


def check_version(connection: "psycopg.Connection[Any]", place: PostgresPlace) -> None:
    """Raises ``InvalidStateError`` for a database that was not upgraded, ``UnsupportedFormatError`` for one of a later bus."""
    there, wanted = version_of(connection), migrations()[-1].version
    if there < wanted:
        state = f"has the tables of version {there}" if there else "has no tables of the bus yet"
        raise InvalidStateError(
            f"{place} {state}; this bus needs version {wanted}. Run `esb db upgrade`, once, with the address in ESB_DATABASE.",
            version=there,
            needed=wanted,
        )
    if there > wanted:
        raise _newer(place, there, wanted)


def upgrade(connection: "psycopg.Connection[Any]", place: PostgresPlace) -> list[Migration]:
    """Run the steps that are missing, and return them; if several processes do so at once, one does, and the others wait. A step
    that fails leaves nothing behind. Raises ``UnsupportedFormatError``; ``InvalidStateError`` if a step that was run is another
    than the one that the bus has."""
    steps, done = migrations(), []
    connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
    try:
        connection.execute(_TABLE)
        there = version_of(connection)
        if there > steps[-1].version:
            raise _newer(place, there, steps[-1].version)
        known = dict(connection.execute("SELECT version, checksum FROM esb_migrations").fetchall())
        for step in steps:
            if known.get(step.version, step.checksum) != step.checksum:
                raise InvalidStateError(
                    f"{place}: version {step.version} ({step.name}) was made by other SQL than this bus has. Use the bus that "
                    "made it."
                )
            if step.version > there:
                with connection.transaction():
                    connection.execute(step.sql.encode())
                    connection.execute(
                        "INSERT INTO esb_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                        (step.version, step.name, step.checksum),
                    )
                done.append(step)
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK_KEY,))
    return done


def _newer(place: PostgresPlace, there: int, known: int) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"{place} has the tables of version {there}; this version of the bus reads up to {known}. Upgrade the bus."
    )
