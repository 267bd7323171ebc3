"""The keys of subjects: one for each person whose data is kept, so that it can be made unreadable by destroying the key.

They are in ``keys.db``, a file of their own beside the log, made when the first key is: a backup of the log without it is
unreadable, and a folder without personal data has none. The keys in it are wrapped with the folder's master key, and subjects are
in there by hashes of their names. What is destroyed is not in the file any more when ``shred`` returns, nor in its write-ahead
log; what the file system or the disk keeps of older states of a file is beyond reach, and unreadable without the master key.
"""

import os
import secrets
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from event_streaming_bus.errors import InUseError, NotFoundError, StorageError
from event_streaming_bus.store.master_key import KEY_BYTES, VARIABLE, MasterKey, find_master_key
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.store.sqlite import Database, storage_errors

SQL: Final = load_queries("subject_keys.sql")
FILE: Final = "keys.db"
_MAX_KEYS: Final = 16_384
"""How many keys are kept in memory."""
_KEY_ID_BYTES: Final = 12
_TRUNCATE_S: Final = 30.0


class SubjectKey(NamedTuple):
    """The key of a subject. ``epoch`` counts the subject's keys, from 1: a subject whose key was destroyed gets a new one with
    the next event that tells of it. ``secret`` has 32 bytes."""

    tenant_id: str
    key_id: str
    subject_hash: str
    epoch: int
    created_at_ms: int
    secret: bytes


class ShreddedKey(NamedTuple):
    """A key that was destroyed, and the certificate that says so."""

    tenant_id: str
    key_id: str
    subject_hash: str
    certificate_id: str


class Shredding(NamedTuple):
    """What a certificate is made of: the keys that are destroyed with it, and the tenant's certificate before it."""

    key_ids: list[str]
    previous: bytes | None


class SubjectKeys:
    """The keys of a data folder. Safe to use from any thread and any number of processes.

    Nothing is opened before it is needed, and nothing is made before the first key is. A key that was destroyed, by whatever
    process, is not handed out any more from the next call on.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = threading.RLock()
        self._db: Database | None = None
        self._reading: sqlite3.Connection | None = None
        self._master: MasterKey | None = None
        self._by_id: OrderedDict[str, SubjectKey] = OrderedDict()
        self._id_of: dict[tuple[str, str], str] = {}  # by tenant and hash, of keys in _by_id
        self._data_version = -1
        self._shreds = ""

    @property
    def is_used(self) -> bool:
        """Whether there has ever been a key. Cheap."""
        return self._db is not None or self._path.exists()

    def close(self) -> None:
        """Close the database. Closing twice is harmless; whatever is asked afterwards opens it again."""
        with self._lock:
            self._forget()
            if self._db is not None:
                self._db.close()
                self._db = self._reading = None

    def subject_hash(self, tenant_id: str, subject: str) -> str:
        """What stands for the subject in this folder, here and in certificates."""
        with self._lock:
            self._open()
            assert self._master is not None  # noqa: S101 - it comes with the database
            return self._master.name_hash(tenant_id, subject)

    def signature(self, data: bytes) -> str:
        """Proof that whoever wrote ``data`` had the folder's master key."""
        with self._lock:
            self._open()
            assert self._master is not None  # noqa: S101 - as above
            return self._master.signature(data)

    # --- finding and making -------------------------------------------------------------------------------------------

    def of_subjects(self, tenant_id: str, subjects: Iterable[str]) -> dict[str, SubjectKey]:
        """The key of each subject by its name; those that have none get one, which is on disk when this returns."""
        hashes = {subject: self.subject_hash(tenant_id, subject) for subject in dict.fromkeys(subjects)}
        with self._lock:
            self._refresh()
            found = {subject: self._known(tenant_id, name) for subject, name in hashes.items()}
        missing = [subject for subject, key in found.items() if key is None]
        if missing:
            # Not under the lock, which whoever destroys a key may wait for; not kept in memory, as it may be destroyed by now.
            with self._transaction("making keys") as db:
                for subject in missing:
                    found[subject] = self._find_or_make(db, tenant_id, hashes[subject])
        return {subject: key for subject, key in found.items() if key is not None}

    def find(self, tenant_id: str, key_id: str) -> SubjectKey | ShreddedKey | None:
        """The tenant's key with this id; None if it never had one."""
        with self._lock:
            if not self.is_used:
                return None
            self._refresh()
            key = self._by_id.get(key_id)
            if key is None:
                row = self._row("select_key", key_id)
                key = self._kept(self._unwrapped(row)) if row else None
            if key is not None:
                return key if key.tenant_id == tenant_id else None
            row = self._row("select_shredded", key_id)
            return ShreddedKey(*row) if row and row[0] == tenant_id else None

    def finder(self, tenant_id: str) -> Callable[[str], SubjectKey | ShreddedKey | None]:
        """As ``find``, for many tokens at once: what was found is not looked for again."""
        found: dict[str, SubjectKey | ShreddedKey | None] = {}

        def find(key_id: str) -> SubjectKey | ShreddedKey | None:
            if key_id not in found:
                found[key_id] = self.find(tenant_id, key_id)
            return found[key_id]

        return find

    def of_hash(self, tenant_id: str, subject_hash: str) -> SubjectKey | None:
        """The key of the subject that this stands for; None if there is none."""
        if not self.is_used:
            return None
        with self._lock:
            row = self._row("select_key_of_subject", tenant_id, subject_hash)
            return self._unwrapped(row) if row else None

    def of_subject(self, tenant_id: str, subject: str) -> tuple[SubjectKey | None, list[ShreddedKey]]:
        """``(the subject's key, those that were destroyed)``. None is made."""
        if not self.is_used:
            return None, []
        name = self.subject_hash(tenant_id, subject)
        with self._lock, storage_errors(self._path, "reading keys"):
            shredded = self._connection().execute(SQL["select_shredded_of_subject"], (tenant_id, name)).fetchall()
        return self.of_hash(tenant_id, name), [ShreddedKey(*each) for each in shredded]

    # --- destroying ---------------------------------------------------------------------------------------------------

    def shred(self, tenant_id: str, subject: str, certify: Callable[[Shredding], tuple[str, bytes]]) -> bytes:
        """Destroy the subject's key, and keep the certificate of that, which is not in the audit yet; returns it.

        ``certify`` makes ``(its id, the certificate)`` inside the transaction, so that the certificates of all processes are one
        chain. Raises ``NotFoundError`` for a subject without a key. When this returns no file of the folder holds the key. Should
        it raise ``InUseError``, the key is destroyed, but somebody reads ``keys.db`` and so keeps old pages of it: ``scrub`` goes
        on with that.
        """
        name = self.subject_hash(tenant_id, subject)
        with self._transaction("destroying a key") as db:
            row = db.execute(SQL["select_key_of_subject"], (tenant_id, name)).fetchone()
            if row is None:
                raise NotFoundError("There is no key of this subject.")
            key_id, wrapped = row[1], row[5]
            last = db.execute(SQL["select_last_certificate"], (tenant_id,)).fetchone()
            certificate_id, certificate = certify(Shredding([key_id], last[0] if last else None))
            db.execute(SQL["insert_shredded"], (key_id, tenant_id, name, certificate_id))
            db.execute(SQL["delete_key"], (key_id,))
            db.execute(SQL["insert_erasure"], (tenant_id, certificate_id, certificate, 0))
            db.execute(SQL["update_shreds"])
        with self._lock:
            self._forget()
        self.scrub([wrapped])
        return certificate

    def shred_again(
        self, tenant_id: str, subject_hash: str, certificate_id: str, certificate: bytes, is_meant: Callable[[str], bool]
    ) -> list[str]:
        """Do what a certificate says was done, in a ``keys.db`` that is older than it; returns the ids of the keys destroyed.
        ``is_meant`` tells by its id whether the certificate is about a key: the subject may have a newer one."""
        with self._transaction("destroying a key again") as db:
            db.execute(SQL["insert_erasure"], (tenant_id, certificate_id, certificate, 1))
            row = db.execute(SQL["select_key_of_subject"], (tenant_id, subject_hash)).fetchone()
            if row is None or not is_meant(row[1]):
                return []
            db.execute(SQL["insert_shredded"], (row[1], tenant_id, subject_hash, certificate_id))
            db.execute(SQL["delete_key"], (row[1],))
            db.execute(SQL["update_shreds"])
        with self._lock:
            self._forget()
        self.scrub([row[5]])
        return [row[1]]

    def scrub(self, wrapped: Sequence[bytes] = (), *, anew: bool = False) -> None:
        """Leave nothing of deleted rows in the files: the write-ahead log is emptied, and where SQLite has left a copy of one of
        these wrapped keys in an unused part of a page, as it does now and then in spite of ``secure_delete``, the file is written
        ``anew``. Raises ``InUseError`` after 30 seconds."""
        with self._lock:
            db = self._open()
        with storage_errors(self._path, "scrubbing keys"), db.write_lock():
            connection = db.connection()
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute("PRAGMA secure_delete=ON")
            self._truncate(connection)
            if wrapped and not anew:
                pages = connection.serialize()
                anew = any(each in pages for each in wrapped)
            if anew:
                connection.execute("VACUUM")
                self._truncate(connection)

    def _truncate(self, connection: sqlite3.Connection) -> None:
        until = time.monotonic() + _TRUNCATE_S
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > until:
                raise InUseError(f"The key is destroyed, but {self._path} is being read, which keeps old pages of it; try again.")
            time.sleep(0.01)

    # --- certificates -------------------------------------------------------------------------------------------------

    def certificates(self, tenant_id: str, *, unaudited: bool = False) -> list[bytes]:
        """The tenant's certificates as they were made, oldest first; ``unaudited``: those that the audit does not have yet."""
        if not self.is_used:
            return []
        query = "select_unaudited" if unaudited else "select_certificates"
        with self._lock, storage_errors(self._path, "reading certificates"):
            return [row[0] for row in self._connection().execute(SQL[query], (tenant_id,)).fetchall()]

    def audited(self, certificate_id: str) -> None:
        """Note that the audit has this certificate."""
        with self._transaction("noting a certificate") as db:
            db.execute(SQL["update_audited"], (certificate_id,))

    # --- below --------------------------------------------------------------------------------------------------------

    def _open(self) -> Database:
        if self._db is None:
            master = find_master_key(self._path.parent, make=not self._path.exists())
            if not self._path.exists():
                # SQLite would let everybody read it. Only a new file may be opened past SQLite: see decision 0005.
                with suppress(FileExistsError):
                    os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            db = Database(self._path)
            try:
                with storage_errors(self._path, "opening"), db.write_lock():
                    db.connection().executescript(SQL["create_tables"])
                    db.connection().execute(SQL["insert_fact"], ("master", master.check))
                    (check,) = db.connection().execute(SQL["select_fact"], ("master",)).fetchone()
                if check != master.check:
                    raise StorageError(
                        f"{self._path} was made with another master key than the one there is; {VARIABLE}, or else master.key "
                        "beside it, must be the one that it was made with."
                    )
            except BaseException:
                db.close()
                raise
            self._db, self._master = db, master
        return self._db

    def _connection(self) -> sqlite3.Connection:
        """The connection for reading, one for all threads: it tells what others have written since it last looked."""
        db = self._open()
        if self._reading is None:
            self._reading = db.connect()
        return self._reading

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            db = self._open()
        with storage_errors(self._path, doing):
            db.connection().execute("PRAGMA secure_delete=ON")
        with db.transaction(doing) as connection:
            yield connection

    def _refresh(self) -> None:
        """Forget what is kept in memory if a key was destroyed since."""
        with storage_errors(self._path, "looking for changed keys"):
            (version,) = self._connection().execute("PRAGMA data_version").fetchone()
            if version != self._data_version:
                (shreds,) = self._row("select_fact", "shreds") or ("",)
                if shreds != self._shreds:
                    self._forget()
                self._data_version, self._shreds = version, shreds

    def _row(self, query: str, *values: str) -> tuple[Any, ...] | None:
        with storage_errors(self._path, "reading keys"):
            rows: list[tuple[Any, ...]] = self._connection().execute(SQL[query], values).fetchall()
        return rows[0] if rows else None

    def _find_or_make(self, db: sqlite3.Connection, tenant_id: str, name: str) -> SubjectKey:
        row = db.execute(SQL["select_key_of_subject"], (tenant_id, name)).fetchone()
        if row is None:
            epoch = len(db.execute(SQL["select_shredded_of_subject"], (tenant_id, name)).fetchall()) + 1
            key = SubjectKey(
                tenant_id,
                secrets.token_urlsafe(_KEY_ID_BYTES),
                name,
                epoch,
                time.time_ns() // 1_000_000,
                secrets.token_bytes(KEY_BYTES),
            )
            assert self._master is not None  # noqa: S101 - it comes with the database
            db.execute(SQL["insert_key"], (key.key_id, tenant_id, name, epoch, key.created_at_ms, self._wrapped(key)))
            return key
        return self._unwrapped(row)

    def _wrapped(self, key: SubjectKey) -> bytes:
        assert self._master is not None  # noqa: S101 - as above
        return self._master.wrap(key.secret, _context(key.tenant_id, key.key_id, key.subject_hash))

    def _unwrapped(self, row: Sequence[Any]) -> SubjectKey:
        tenant_id, key_id, name, epoch, created_at_ms, wrapped = row
        assert self._master is not None  # noqa: S101 - as above
        secret = self._master.unwrap(wrapped, _context(tenant_id, key_id, name))
        return SubjectKey(tenant_id, key_id, name, epoch, created_at_ms, secret)

    def _known(self, tenant_id: str, name: str) -> SubjectKey | None:
        key = self._by_id.get(self._id_of.get((tenant_id, name), ""))
        if key is None:
            row = self._row("select_key_of_subject", tenant_id, name)
            key = self._unwrapped(row) if row else None
        return None if key is None else self._kept(key)

    def _kept(self, key: SubjectKey) -> SubjectKey:
        self._by_id[key.key_id] = key
        self._by_id.move_to_end(key.key_id)
        self._id_of[key.tenant_id, key.subject_hash] = key.key_id
        while len(self._by_id) > _MAX_KEYS:
            _, gone = self._by_id.popitem(last=False)
            self._id_of.pop((gone.tenant_id, gone.subject_hash), None)
        return key

    def _forget(self) -> None:
        self._by_id.clear()
        self._id_of.clear()


def _context(tenant_id: str, key_id: str, name: str) -> str:
    return f"{key_id}\0{tenant_id}\0{name}"
