"""The store of the audit: one chain of entries for each data folder, in ``audit.db``, a file of its own; or one of all nodes, in
the database that they share.

It is beside the log and not in it, so that restoring the log from a backup takes no entry away, and so that what is refused
while the log's lock is held is still noted. Nothing is made before the first entry is.
"""

import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.store.audit_entries import (
    BLOCK_ENTRIES,
    AuditAction,
    AuditEntry,
    Checkpoint,
    Outcome,
)
from event_streaming_bus.store.audit_key import SigningKey, find_signing_key
from event_streaming_bus.store.database import Connection, Database, Place, open_database
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.store.sqlite import storage_errors

SQL: Final = load_queries("audit.sql")
FILE: Final = "audit.db"
MAX_PAGE_ENTRIES: Final = 1000
_COLUMNS: Final = (
    *("seq", "at_ms", "tenant_id", "actor", "token_id", "address", "action", "target", "outcome", "reason"),
    *("before", "after", "request_id", "repeated", "previous_hash", "hash"),
)


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries are wanted. ``tenant_id`` None means all tenants. ``action`` is one, or all of a noun as in ``stream.*``.
    Times: ``since_ms`` or later, before ``until_ms``."""

    tenant_id: str | None = None
    action: str | None = None
    actor: str | None = None
    target: str | None = None
    outcome: Outcome | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class UnreadableEntry(msgspec.Struct, frozen=True):
    """A row that is no entry: somebody changed it."""

    seq: int
    message: str


class AuditStore:
    """The chain of a data folder. Safe to use from any thread and any number of processes."""

    def __init__(self, folder: Path, place: Place | None = None) -> None:
        """``folder`` has the signing key, unless that is elsewhere, and the entries, unless they are in another ``place``."""
        self.folder = folder
        self._place = place or folder / FILE
        self._lock = threading.Lock()
        self._db: Database | None = None
        self._key: SigningKey | None = None
        self._waiting: list[_Appending] = []
        self._turn = threading.Lock()
        self._written = 0  # the newest entry of this process

    @property
    def is_used(self) -> bool:
        """Whether there can be any: in a file, whether there has ever been one."""
        return not isinstance(self._place, Path) or self._place.exists()

    def close(self) -> None:
        """Close the database. Closing twice is harmless; whatever is asked afterwards opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    # --- writing ------------------------------------------------------------------------------------------------------

    def append(self, actions: Sequence[AuditAction]) -> list[AuditEntry]:
        """Chain actions to what is there, in one transaction, which is signed and on disk when this returns.

        What several threads append at the same time goes into one transaction. Raises ``StorageError``, and then keeps none of
        it; ``CorruptLogError`` if the chain does not end as it was signed, for going on would cover what was done to it.
        """
        appending = _Appending(actions)
        with self._lock:
            self._waiting.append(appending)
        with self._turn:
            if not appending.is_done:  # else whoever had the turn before has done it
                with self._lock:
                    together, self._waiting = self._waiting, []
                self._write(together)
        if appending.error is not None:
            raise appending.error
        return appending.entries

    def _write(self, together: Sequence["_Appending"]) -> None:
        try:
            key = self._signing_key()
            with self._database().transaction("writing the audit") as db:
                self._check_end(db, key)
                for each in together:
                    each.entries = [self._chain(db, key, action) for action in each.actions]
                fault_point("audit.chained")
                head = db.execute(SQL["select_head"]).fetchone()
                if head is not None:
                    _sign(db, key, *head)
            self._written = max(self._written, head[0] if head is not None else 0)
        except BaseException as error:
            for each in together:
                each.error, each.entries = error, []
            if not isinstance(error, Exception):
                raise
        finally:
            for each in together:
                each.is_done = True

    def _check_end(self, db: Connection, key: SigningKey) -> None:
        head = db.execute(SQL["select_head"]).fetchone()
        row = db.execute(SQL["select_last_checkpoint"]).fetchone()
        signed = None if row is None else _checkpoint(row)
        is_whole = head == (None if signed is None else (signed.seq, signed.hash)) and (head[0] if head else 0) >= self._written
        # A checkpoint of another key cannot be told from a forged one here; verifying does, with the key that it should be.
        if not is_whole or (signed is not None and signed.key_id == key.public.key_id and not key.public.has_signed(signed)):
            raise CorruptLogError(
                f"{self._place} does not end as it was signed: entries were removed, changed or put in. `esb audit verify` tells "
                "which; to go on with a new chain, move the file away, and keep it.",
                path=str(self._place),
            )

    def _chain(self, db: Connection, key: SigningKey, action: AuditAction) -> AuditEntry:
        seq, previous_hash = db.execute(SQL["select_head"]).fetchone() or (0, secrets.token_hex(32))
        entry = AuditEntry(**msgspec.structs.asdict(action), seq=seq + 1, previous_hash=previous_hash)
        entry = msgspec.structs.replace(entry, hash=entry.computed_hash())
        db.execute(SQL["insert_entry"], msgspec.structs.asdict(entry) | {"outcome": entry.outcome.value})
        if entry.seq % BLOCK_ENTRIES == 0:
            _sign(db, key, entry.seq, entry.hash)
        return entry

    # --- reading ------------------------------------------------------------------------------------------------------

    def page(self, wanted: AuditFilter, *, limit: int, cursor: int | None = None) -> list[AuditEntry]:
        """Up to ``limit`` entries, newest first; those before the entry ``cursor``."""
        if not self.is_used:
            return []
        values: dict[str, Any] = msgspec.structs.asdict(wanted) | {"limit": limit, "cursor": cursor, "noun": None}
        values["outcome"] = None if wanted.outcome is None else wanted.outcome.value
        if wanted.action is not None and wanted.action.endswith("*"):
            values |= {"action": None, "noun": wanted.action[:-1]}
        with self._reading("reading the audit") as db:
            found = [_entry(row) for row in db.execute(SQL["select_page"], values)]
        for each in found:
            if isinstance(each, UnreadableEntry):
                raise CorruptLogError(f"{self._place}: entry {each.seq} is damaged; `esb audit verify` tells more.")
        return [each for each in found if isinstance(each, AuditEntry)]

    @contextmanager
    def chain(self) -> Iterator[tuple[list[Checkpoint], Iterator[AuditEntry | UnreadableEntry]]]:
        """``(checkpoints, entries)`` as they are at one moment, both oldest first."""
        if not self.is_used:
            yield [], iter(())
            return
        with self._reading("reading the audit") as db:
            yield checkpoints_of(db), entries_of(db)

    @contextmanager
    def _reading(self, doing: str) -> Iterator[Connection]:
        """The database as it is at one moment, over a connection of its own: it may be read by several threads, one after
        another, while these go on with other things."""
        database, place = self._database(), self._place
        if not isinstance(place, Path):
            with database.reading(doing) as reading:
                yield reading
            return
        with storage_errors(place, doing), closing(sqlite3.connect(place, check_same_thread=False)) as db:
            db.text_factory = _text  # what somebody put there that is no text must not end the verification
            db.execute("BEGIN")
            yield db

    # --- opening ------------------------------------------------------------------------------------------------------

    def _database(self) -> Database:
        with self._lock:
            if self._db is None:
                self._db = open_database(self._place, tables=SQL["create_tables"], name="audit")
            return self._db

    def _signing_key(self) -> SigningKey:
        if self._key is None:
            self._key = find_signing_key(self.folder)
            assert self._key is not None  # noqa: S101 - it may be made
        return self._key


class _Appending:
    """What one thread appends, and what came of it."""

    def __init__(self, actions: Sequence[AuditAction]) -> None:
        self.actions = actions
        self.entries: list[AuditEntry] = []
        self.error: BaseException | None = None
        self.is_done = False


def checkpoints_of(db: Connection) -> list[Checkpoint]:
    """The checkpoints in the tables of an audit, oldest first."""
    return [_checkpoint(row) for row in db.execute(SQL["select_checkpoints"])]


def entries_of(db: Connection) -> Iterator[AuditEntry | UnreadableEntry]:
    """The entries in the tables of an audit, oldest first, read as they are asked for."""
    return map(_entry, db.execute(SQL["select_entries"]))


def _sign(db: Connection, key: SigningKey, seq: int, entry_hash: str) -> None:
    at_ms = time.time_ns() // 1_000_000
    checkpoint = key.signed(Checkpoint(seq=seq, at_ms=at_ms, hash=entry_hash, key_id=key.public.key_id))
    db.execute(SQL["put_checkpoint"], msgspec.structs.asdict(checkpoint) | {"block": checkpoint.block})


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _entry(row: tuple[Any, ...]) -> AuditEntry | UnreadableEntry:
    try:
        return msgspec.convert(dict(zip(_COLUMNS, row, strict=True)), AuditEntry)
    except msgspec.ValidationError as error:
        return UnreadableEntry(row[0], str(error))


def _checkpoint(row: tuple[Any, ...]) -> Checkpoint:
    seq, at_ms, entry_hash, key_id, format_version, signature = row
    return Checkpoint(
        seq=seq, at_ms=at_ms, hash=str(entry_hash), key_id=str(key_id), format_version=format_version, signature=str(signature)
    )
