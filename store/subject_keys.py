"""The keys of subjects: one for each person whose data is kept, so that it can be made unreadable by destroying the key.

They are in ``keys.db``, a file of their own beside the log, made when the first key is: a backup of the log without it is
unreadable, and a folder without personal data has none. The keys in it are wrapped with the folder's master key, and subjects are
in there by hashes of their names. What is destroyed is not in the file any more when ``shred`` returns, nor in its write-ahead
log; what the file system or the disk keeps of older states of a file is beyond reach, and unreadable without the master key.

Several nodes that share a database keep the keys there, and the master key in ``ESB_MASTER_KEY``, the same for all. The table is
then written anew when one is destroyed; the database's own write-ahead log and backups keep it, wrapped, for as long as they are
kept.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from event_streaming_bus.errors import NotFoundError, StorageError
from event_streaming_bus.store.database import Connection, PostgresPlace
from event_streaming_bus.store.key_tables import SQL, KeyFile, KeyTables, SharedKeyTables
from event_streaming_bus.store.master_key import KEY_BYTES, VARIABLE, MasterKey, find_master_key

FILE: Final = "keys.db"
_MAX_KEYS: Final = 16_384
"""How many keys are kept in memory."""
_KEY_ID_BYTES: Final = 12


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

    def __init__(self, folder: Path, shared: PostgresPlace | None = None) -> None:
        """``folder`` has the keys and the master key, unless they are in a database and in the environment."""
        self._path = folder / FILE
        self._shared = shared
        self._lock = threading.RLock()
        self._tables: KeyTables | None = None
        self._master: MasterKey | None = None
        self._by_id: OrderedDict[str, SubjectKey] = OrderedDict()
        self._id_of: dict[tuple[str, str], str] = {}  # by tenant and hash, of keys in _by_id
        self._data_version: int | None = -1
        self._shreds = ""

    @property
    def is_used(self) -> bool:
        """Whether there can be a key: in a file, whether there has ever been one. Cheap."""
        return self._tables is not None or self._shared is not None or self._path.exists()

    def close(self) -> None:
        """Close the database. Closing twice is harmless; whatever is asked afterwards opens it again."""
        with self._lock:
            self._forget()
            if self._tables is not None:
                self._tables.close()
                self._tables = None

    def subject_hash(self, tenant_id: str, subject: str) -> str:
        """What stands for the subject in this folder, here and in certificates."""
        return self._master_key().name_hash(tenant_id, subject)

    def signature(self, data: bytes) -> str:
        """Proof that whoever wrote ``data`` had the folder's master key."""
        return self._master_key().signature(data)

    def _master_key(self) -> MasterKey:
        """The master key. Once the database is open this waits for nobody: who destroys a key needs it within a transaction,
        which somebody with the lock may be waiting for."""
        if self._tables is None or self._master is None:
            with self._lock:
                self._open()
        assert self._master is not None  # noqa: S101 - it comes with the database
        return self._master

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
        with self._lock, self._open().querying("reading keys") as db:
            shredded = db.execute(SQL["select_shredded_of_subject"], (tenant_id, name)).fetchall()
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
        """Leave nothing of deleted rows in the files; ``KeyFile`` and ``SharedKeyTables`` say how far that goes. ``wrapped``: as
        they were kept; ``anew``: whatever the cost. Raises ``InUseError`` after 30 seconds."""
        with self._lock:
            tables = self._open()
        tables.scrub(wrapped, anew=anew)

    # --- certificates -------------------------------------------------------------------------------------------------

    def certificates(self, tenant_id: str, *, unaudited: bool = False) -> list[bytes]:
        """The tenant's certificates as they were made, oldest first; ``unaudited``: those that the audit does not have yet."""
        if not self.is_used:
            return []
        query = "select_unaudited" if unaudited else "select_certificates"
        with self._lock, self._open().querying("reading certificates") as db:
            return [row[0] for row in db.execute(SQL[query], (tenant_id,)).fetchall()]

    def audited(self, certificate_id: str) -> None:
        """Note that the audit has this certificate."""
        with self._transaction("noting a certificate") as db:
            db.execute(SQL["update_audited"], (certificate_id,))

    # --- below --------------------------------------------------------------------------------------------------------

    def _open(self) -> KeyTables:
        if self._tables is None:
            if self._shared is not None:
                master = find_master_key(self._path.parent, is_shared=True)
                tables: KeyTables = SharedKeyTables(self._shared)
            else:
                master = find_master_key(self._path.parent, make=not self._path.exists())
                tables = KeyFile(self._path)
            try:
                with tables.transaction("opening") as db:
                    db.execute(SQL["insert_fact"], ("master", master.check))
                    (check,) = db.execute(SQL["select_fact"], ("master",)).fetchone()
                if check != master.check:
                    raise StorageError(
                        f"{tables.place} was made with another master key than the one there is; {VARIABLE}, or else master.key "
                        "beside it, must be the one that it was made with."
                    )
            except BaseException:
                tables.close()
                raise
            self._tables, self._master = tables, master
        return self._tables

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[Connection]:
        with self._lock:
            tables = self._open()
        with tables.transaction(doing) as db:
            yield db

    def _refresh(self) -> None:
        """Forget what is kept in memory if a key was destroyed since."""
        version = self._open().data_version()
        if version is None or version != self._data_version:
            (shreds,) = self._row("select_fact", "shreds") or ("",)
            if shreds != self._shreds:
                self._forget()
            self._data_version, self._shreds = version, shreds

    def _row(self, query: str, *values: str) -> tuple[Any, ...] | None:
        with self._open().querying("reading keys") as db:
            rows: list[tuple[Any, ...]] = db.execute(SQL[query], values).fetchall()
        return rows[0] if rows else None

    def _find_or_make(self, db: Connection, tenant_id: str, name: str) -> SubjectKey:
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
        return self._master.wrap(key.secret, context_of(key.tenant_id, key.key_id, key.subject_hash))

    def _unwrapped(self, row: Sequence[Any]) -> SubjectKey:
        tenant_id, key_id, name, epoch, created_at_ms, wrapped = row
        assert self._master is not None  # noqa: S101 - as above
        secret = self._master.unwrap(wrapped, context_of(tenant_id, key_id, name))
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


def context_of(tenant_id: str, key_id: str, name: str) -> str:
    """What a subject's key is wrapped for: it cannot be read as that of another one."""
    return f"{key_id}\0{tenant_id}\0{name}"
