"""The audit's chain: what is written, and that nothing can be done to it unseen."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from event_streaming_bus.audit import export
from event_streaming_bus.audit.service import AuditService, verify_export
from event_streaming_bus.audit.values import MAX_VALUE_BYTES
from event_streaming_bus.errors import BusError, CorruptLogError, InvalidInputError, StorageError
from event_streaming_bus.store.audit import AuditFilter
from event_streaming_bus.store.audit_entries import BLOCK_ENTRIES, AuditEntry, Outcome
from event_streaming_bus.store.audit_key import read_public_key
from event_streaming_bus.store.storage import Storage, open_storage

ENTRIES = BLOCK_ENTRIES + 6  # a whole block, and a bit of another


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = open_storage(tmp_path / "data")
    yield storage
    storage.close()


@pytest.fixture
def audit(storage: Storage) -> Iterator[AuditService]:
    audit = AuditService(storage)
    yield audit
    audit.close()


def fill(audit: AuditService, count: int = ENTRIES) -> None:
    for number in range(count):
        tenant_id = "acme" if number % 3 else "default"
        audit.record("stream.create", tenant_id=tenant_id, actor="anna", target=f"s-{number}", after={"partitions": number})


def tamper(audit: AuditService, *statements: str) -> None:
    """What somebody does who may write to the file, and takes its triggers away first."""
    audit.close()
    with sqlite3.connect(audit._store.folder / "audit.db") as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
    db.close()


def rehash(audit: AuditService, change: Callable[[AuditEntry], AuditEntry], first_seq: int) -> None:
    """Change an entry and make all hashes from it on fit, as somebody would who knows how they are made."""
    import msgspec

    with audit._store.chain() as (_, entries):
        rows = [entry for entry in entries if isinstance(entry, AuditEntry)]
    previous, statements = rows[first_seq - 2].hash, []
    for entry in rows[first_seq - 1 :]:
        made = change(entry) if entry.seq == first_seq else entry
        made = msgspec.structs.replace(made, previous_hash=previous)
        made = msgspec.structs.replace(made, hash=made.computed_hash())
        previous = made.hash
        values = f"actor = '{made.actor}', previous_hash = '{made.previous_hash}', hash = '{made.hash}'"
        statements.append(f"UPDATE audit_entries SET {values} WHERE seq = {made.seq}")
    tamper(audit, *statements)


def problems(audit: AuditService) -> list[tuple[str, int]]:
    report = audit.verify()
    assert report.is_intact == (not report.problems)
    return [(problem.kind, problem.seq) for problem in report.problems]


def test_what_is_recorded_is_chained_signed_and_whole(audit: AuditService, storage: Storage) -> None:
    assert audit.verify().entries == 0
    assert not (storage.folder / "audit.db").exists()
    fill(audit)
    report = audit.verify()
    assert (report.is_intact, report.entries, report.signed_seq, report.checkpoints) == (True, ENTRIES, ENTRIES, 2)
    assert (storage.folder / "audit.key").stat().st_mode & 0o777 == 0o600


def test_entries_are_listed_newest_first_by_page_and_filter(audit: AuditService) -> None:
    fill(audit, 10)
    audit.record("group.pause", tenant_id="acme", actor="bob", target="g", outcome=Outcome.REFUSED, reason="404: no such group")
    first = audit.page(AuditFilter(tenant_id="acme"), limit=3)
    assert [entry.seq for entry in first.entries] == [11, 9, 8]
    rest = audit.page(AuditFilter(tenant_id="acme"), limit=10, cursor=first.next_cursor)
    assert ([entry.seq for entry in rest.entries], rest.next_cursor) == ([6, 5, 3, 2], None)
    for wanted in (AuditFilter(action="group.*"), AuditFilter(actor="bob"), AuditFilter(outcome=Outcome.REFUSED)):
        assert [entry.target for entry in audit.page(wanted).entries] == ["g"]
    assert [entry.seq for entry in audit.page(AuditFilter(target="s-4", action="stream.create")).entries] == [5]
    assert not audit.page(AuditFilter(until_ms=1)).entries


def test_values_are_bounded_and_without_secrets(audit: AuditService) -> None:
    after = {"sink": {"url": "db", "Password": "hunter2", "api_key": "k"}, "name": "broken \ud800"}
    kept = audit.record("processor.create", tenant_id="t", actor="a", target="x" * 1000, after=after, before={"n": "y" * 100_000})
    assert "hunter2" not in (kept.after or "")
    assert json.loads(kept.after or "")["sink"] == {"url": "db", "Password": "[hidden]", "api_key": "[hidden]"}
    assert len(kept.target) == 500
    assert json.loads(kept.before or "").keys() == {"omitted_bytes", "sha256"}
    assert len(kept.before or "") < MAX_VALUE_BYTES
    assert audit.verify().is_intact


def test_threads_and_services_write_one_chain(storage: Storage) -> None:
    services = [AuditService(storage) for _ in range(3)]
    threads = [threading.Thread(target=fill, args=(services[number % 3], 30)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = services[0].verify()
    assert (report.is_intact, report.entries) == (True, 180)
    for service in services:
        service.close()


# --- what is done to it -----------------------------------------------------------------------------------------------


def test_the_file_itself_refuses_changes_made_by_mistake(audit: AuditService) -> None:
    fill(audit, 3)
    with sqlite3.connect(audit._store.folder / "audit.db") as db:
        for statement in ("DELETE FROM audit_entries", "UPDATE audit_entries SET actor = 'x'"):
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at_ms", "at_ms + 1"),
        ("tenant_id", "'other'"),
        ("actor", "'bob'"),
        ("token_id", "''"),
        ("address", "'10.0.0.1'"),
        ("action", "'stream.delete'"),
        ("target", "'other'"),
        ("outcome", "'REFUSED'"),
        ("outcome", "'NEVER'"),
        ("reason", "'x'"),
        ("before", "after"),
        ("after", "NULL"),
        ("request_id", "'r'"),
        ("repeated", "2"),
        ("actor", "x'ff00'"),
        ("hash", "upper(hash)"),
    ],
)
def test_a_changed_field_is_found(audit: AuditService, column: str, value: str) -> None:
    fill(audit, 9)
    tamper(audit, f"UPDATE audit_entries SET {column} = {value} WHERE seq = 4")
    assert ("changed", 4) in problems(audit)


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (["DELETE FROM audit_entries WHERE seq = 4"], [("missing", 4)]),
        (["DELETE FROM audit_entries WHERE seq < 3"], [("missing", 1)]),
        (["DELETE FROM audit_entries WHERE seq > 67"], [("truncated", 68)]),
        (
            [
                "UPDATE audit_entries SET seq = -1 WHERE seq = 4",
                "UPDATE audit_entries SET seq = 4 WHERE seq = 5",
                "UPDATE audit_entries SET seq = 5 WHERE seq = -1",
            ],
            [("reordered", 4), ("reordered", 5)],
        ),
        (
            [
                "DELETE FROM audit_entries WHERE seq > 67",
                "DELETE FROM audit_checkpoints WHERE block = 1",
            ],
            [("unsigned", 65)],
        ),
        (["DELETE FROM audit_checkpoints WHERE block = 0"], [("unsigned", 64)]),
        (["UPDATE audit_checkpoints SET seq = 66 WHERE block = 1"], [("unsigned", 67), ("signature", 66)]),
        (["UPDATE audit_checkpoints SET key_id = 'other' WHERE block = 0"], [("key", 64)]),
    ],
)
def test_removed_reordered_and_cut_off_entries_are_found(
    audit: AuditService, statements: list[str], found: list[tuple[str, int]]
) -> None:
    fill(audit)
    tamper(audit, *statements)
    assert sorted(problems(audit)) == sorted(found)


def test_an_entry_put_in_is_found(audit: AuditService) -> None:
    fill(audit, 5)
    columns = "tenant_id, actor, action, target, outcome, repeated, at_ms"
    row = f"INSERT INTO audit_entries (seq, {columns}, previous_hash, hash) SELECT 6, {columns}, hash, hash FROM audit_entries"
    tamper(audit, f"{row} WHERE seq = 5")
    assert {kind for kind, _ in problems(audit)} == {"changed", "unsigned"}


def test_a_change_with_all_hashes_made_anew_is_found_by_the_checkpoints(audit: AuditService) -> None:
    import msgspec

    fill(audit)
    rehash(audit, lambda entry: msgspec.structs.replace(entry, actor="bob"), 10)
    assert problems(audit) == [("checkpoint", 64), ("checkpoint", ENTRIES)]


def test_a_chain_cut_off_at_an_old_checkpoint_is_found_by_one_that_was_kept(audit: AuditService) -> None:
    fill(audit)
    kept = audit.last_checkpoint()
    assert kept is not None
    tamper(audit, "DELETE FROM audit_entries WHERE seq > 64", "DELETE FROM audit_checkpoints WHERE block > 0")
    assert audit.verify().is_intact  # nobody can tell who has nothing but the file
    report = audit.verify(known=[kept])
    assert [(problem.kind, problem.seq) for problem in report.problems] == [("truncated", 65)]


def test_nothing_is_written_onto_a_chain_whose_end_was_changed(audit: AuditService, storage: Storage) -> None:
    fill(audit, 5)
    tamper(audit, "DELETE FROM audit_entries WHERE seq = 5")
    with pytest.raises(CorruptLogError, match="does not end as it was signed"):
        AuditService(storage).record("stream.create", tenant_id="t", actor="a")
    assert problems(audit) == [("truncated", 5)]


def test_a_chain_cut_off_at_a_checkpoint_is_noticed_by_the_process_that_wrote_it(audit: AuditService) -> None:
    fill(audit)
    tamper(audit, "DELETE FROM audit_entries WHERE seq > 64", "DELETE FROM audit_checkpoints WHERE block > 0")
    with pytest.raises(CorruptLogError):
        audit.record("stream.create", tenant_id="t", actor="a")


def test_another_key_is_noticed_by_whoever_has_the_first(audit: AuditService, storage: Storage) -> None:
    fill(audit, 3)
    first = audit.public_key()
    audit.close()
    (storage.folder / "audit.key").unlink()
    other = AuditService(storage)
    fill(other, 2)
    other.close()
    assert other.verify().is_intact
    report = other.verify(first)
    assert [problem.kind for problem in report.problems] == ["key"]


def test_a_key_that_others_can_read_is_refused(audit: AuditService, storage: Storage) -> None:
    fill(audit, 1)
    (storage.folder / "audit.key").chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        AuditService(storage).record("stream.create", tenant_id="t", actor="a")


def test_the_key_may_be_elsewhere(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESB_AUDIT_KEY_FILE", str(tmp_path / "vault" / "signing.pem"))
    audit = AuditService(storage)
    fill(audit, 2)
    assert audit.verify().signed_seq == 2
    assert (tmp_path / "vault" / "signing.pem").exists()
    assert not (storage.folder / "audit.key").exists()
    audit.close()


# --- exports ----------------------------------------------------------------------------------------------------------


def test_an_export_is_verified_without_the_folder(audit: AuditService) -> None:
    fill(audit)
    lines, key = list(audit.export()), audit.public_key()
    assert key is not None
    public = read_public_key(key.pem())
    report = verify_export(export.read(lines), public)
    assert (report.is_intact, report.entries, report.signed_seq) == (True, ENTRIES, ENTRIES)
    assert not verify_export(export.read(lines), None).is_signature_checked
    for number in (1, 30, len(lines) - 2):
        for changed in (lines[:number] + lines[number + 1 :], [*lines[:number], lines[number].replace(b"anna", b"anne")]):
            told = verify_export(export.read([*changed, *([] if len(changed) != number + 1 else lines[number + 1 :])]), public)
            assert not told.is_intact, number
    assert not verify_export(export.read([*lines[:5], b"{\n", *lines[6:]]), public).is_intact


def test_an_export_of_the_end_and_one_for_a_tenant_verify(audit: AuditService) -> None:
    fill(audit)
    key = audit.public_key()
    end = verify_export(export.read(audit.export(first_seq=40)), key)
    assert (end.is_intact, end.first_seq, end.last_seq) == (True, 40, ENTRIES)
    lines = list(audit.export(tenant_id="acme"))
    own = verify_export(export.read(lines), key)
    assert (own.is_intact, own.entries, own.sealed) == (True, ENTRIES, 24)
    assert b'"default"' not in b"".join(lines)


@pytest.mark.parametrize("content", [b"", b"not json\n", b'{"kind":"other","first_seq":1,"tenant_id":null,"public_key":null}\n'])
def test_a_file_that_is_no_export_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInputError, match="esb audit export"):
        export.read(content.splitlines(keepends=True))


def test_a_damaged_file_is_told_of(audit: AuditService) -> None:
    fill(audit, 3)
    audit.close()
    path = audit._store.folder / "audit.db"
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises(BusError):
        audit.verify()
