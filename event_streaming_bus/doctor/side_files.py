"""The SQLite files beside the log: the audit, the tokens, the keys of subjects, and what holds the master key."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from event_streaming_bus.audit import verification
from event_streaming_bus.doctor.findings import RESTORE, Examination, Finding
from event_streaming_bus.doctor.sqlite_files import check_format, examined
from event_streaming_bus.errors import BusError
from event_streaming_bus.store import audit, subject_keys, tokens
from event_streaming_bus.store.audit_key import find_signing_key, key_file
from event_streaming_bus.store.master_key import FILE as MASTER_FILE
from event_streaming_bus.store.master_key import VARIABLE, find_master_key
from event_streaming_bus.store.tokens import TokenRecord

_CHAIN: Final = "`esb audit verify` tells more. To go on with a new chain, move audit.db away, and keep it."


def check_audit(exam: Examination, folder: Path) -> None:
    """Check the chain of the audit, with the key that is there."""
    with _bus_file(exam, folder, audit.FILE) as db:
        if db is None:
            return
        keys = {}
        try:
            signing = find_signing_key(folder, make=False)
            if signing is not None:
                keys[signing.public.key_id] = signing.public
        except BusError as error:
            _found(exam, key_file(folder).name, "the key", "unusable-key", error.message)
        report = verification.verify(audit.entries_of(db), audit.checkpoints_of(db), keys)
        exam.counted("audit entries", report.entries)
        if report.entries and not keys:
            exam.skip(f"{audit.FILE}: the signatures of its checkpoints, for there is no {key_file(folder).name}")
        for problem in report.problems:
            _found(exam, audit.FILE, f"entry {problem.seq}", f"audit-{problem.kind}", f"{problem.message}.", _CHAIN)


def check_tokens(exam: Examination, folder: Path) -> None:
    """Check that every token can be read."""
    with _bus_file(exam, folder, tokens.FILE) as db:
        if db is None:
            return
        for token_id, record, secret_hash in db.execute("SELECT token_id, record, secret_hash FROM api_tokens"):
            exam.counted("tokens")
            try:
                is_right = msgspec.json.decode(record, type=TokenRecord).token_id == token_id and len(secret_hash) == 32
            except (msgspec.DecodeError, TypeError):
                is_right = False
            if not is_right:
                told = "The token cannot be read, and opens nothing."
                _found(exam, tokens.FILE, f"token {token_id}", "damaged-token", told, "`esb tokens create` makes another one.")


def check_keys(exam: Examination, folder: Path) -> None:
    """Check that the master key is the one that the keys of subjects are wrapped with, and that each can be read with it."""
    with _bus_file(exam, folder, subject_keys.FILE) as db:
        if db is None:
            return
        try:
            master = find_master_key(folder, make=False)
        except BusError as error:
            _found(exam, MASTER_FILE, "the key", "unusable-key", error.message, f"Restore {MASTER_FILE}, or set {VARIABLE}.")
            return
        row = db.execute("SELECT value FROM key_facts WHERE name = 'master'").fetchone()
        if row is not None and row[0] != master.check:
            where = VARIABLE if os.environ.get(VARIABLE) else MASTER_FILE
            told = f"keys.db was made with another master key than {where} has: nothing personal is readable."
            _found(exam, MASTER_FILE, "the key", "wrong-master-key", told, f"Restore {MASTER_FILE}, or set {VARIABLE}.")
            return
        for key_id, tenant_id, name, wrapped in db.execute("SELECT key_id, tenant_id, subject_hash, wrapped FROM subject_keys"):
            exam.counted("subject keys")
            try:
                master.unwrap(wrapped, subject_keys.context_of(tenant_id, key_id, name))
            except (BusError, TypeError):
                told = "The key of a subject cannot be unwrapped: that person's data cannot be read."
                _found(exam, subject_keys.FILE, f"key {key_id}", "damaged-key", told)


@contextmanager
def _bus_file(exam: Examination, folder: Path, name: str) -> Iterator[sqlite3.Connection | None]:
    """A file of the bus, examined; None if it is not there, cannot be read, or is of a newer format."""
    path = folder / name
    if not path.exists():
        yield None
        return
    with examined(exam, path, name) as db:
        yield db if db is not None and check_format(exam, db, name) else None


def _found(exam: Examination, file: str, place: str, problem: str, meaning: str, advice: str = RESTORE) -> None:
    exam.found(Finding(file=file, place=place, problem=problem, meaning=meaning, advice=advice))
