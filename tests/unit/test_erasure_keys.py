"""The keys of subjects: made once, whoever makes them, kept out of sight, and gone when they are destroyed."""

import base64
import random
import secrets
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from event_streaming_bus.erasure.sealing import seal, unseal
from event_streaming_bus.errors import CorruptLogError, InvalidInputError, NotFoundError, StorageError
from event_streaming_bus.store.master_key import find_master_key
from event_streaming_bus.store.subject_keys import ShreddedKey, Shredding, SubjectKey, SubjectKeys


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[SubjectKeys]:
    keys = SubjectKeys(tmp_path)
    yield keys
    keys.close()


def key_of(keys: SubjectKeys, subject: str, tenant_id: str = "t") -> SubjectKey:
    return keys.of_subjects(tenant_id, [subject])[subject]


def certify(shredding: Shredding) -> tuple[str, bytes]:
    return f"c-{shredding.key_ids[0]}", b"certificate"


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_subject_keeps_its_key_and_nothing_is_made_before_the_first(tmp_path: Path, keys: SubjectKeys) -> None:
    assert keys.find("t", "nobody") is None
    assert keys.of_subject("t", "anna") == (None, [])
    assert keys.certificates("t") == []
    assert list(tmp_path.iterdir()) == []
    anna = key_of(keys, "anna")
    assert key_of(keys, "anna") == anna == keys.find("t", anna.key_id)
    assert len({anna.secret, key_of(keys, "bob").secret, key_of(keys, "anna", "other").secret}) == 3
    assert keys.find("other", anna.key_id) is None
    keys.close()
    again = SubjectKeys(tmp_path)
    assert key_of(again, "anna") == anna
    again.close()


def test_the_files_are_for_their_owner_and_name_neither_subjects_nor_keys(tmp_path: Path, keys: SubjectKeys) -> None:
    anna = key_of(keys, "anna-of-the-north")
    for path in tmp_path.iterdir():
        if path.suffix != ".lock":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    held = bytes_of(tmp_path)
    assert b"anna-of-the-north" not in held
    assert anna.secret not in held
    assert anna.key_id.encode() in held


def test_a_destroyed_key_is_gone_and_the_next_one_is_another(tmp_path: Path, keys: SubjectKeys) -> None:
    anna, bob = key_of(keys, "anna"), key_of(keys, "bob")
    assert keys.shred("t", "anna", certify) == b"certificate"
    assert keys.find("t", anna.key_id) == ShreddedKey("t", anna.key_id, anna.subject_hash, f"c-{anna.key_id}")
    assert keys.find("t", bob.key_id) == bob
    with pytest.raises(NotFoundError):
        keys.shred("t", "anna", certify)
    new = key_of(keys, "anna")
    assert (new.epoch, new.subject_hash) == (2, anna.subject_hash)
    assert new.secret != anna.secret
    assert len(keys.of_subject("t", "anna")[1]) == 1


def test_no_file_holds_anything_of_destroyed_keys(tmp_path: Path, keys: SubjectKeys) -> None:
    names = [f"subject-{i}" for i in range(600)]
    order = random.Random(7)
    order.shuffle(names)
    for begin in range(0, 600, 50):
        keys.of_subjects("t", names[begin : begin + 50])
    before = SubjectKeys(tmp_path)  # another process, in effect: it keeps a connection that has read
    key_of(before, names[0])
    with keys._open().querying("looking") as db:
        wrapped = dict(db.execute("SELECT key_id, wrapped FROM subject_keys").fetchall())
    order.shuffle(names)
    gone = [key_of(keys, name) for name in names[:40]]
    for name in names[:40]:
        keys.shred("t", name, certify)
    held = bytes_of(tmp_path)
    for key in gone:
        assert wrapped[key.key_id] not in held
        assert wrapped[key.key_id][12:28] not in held
        assert key.secret not in held
    alive = [key_of(keys, name) for name in names[40:]]
    assert all(wrapped[key.key_id] in held for key in alive)
    before.close()


def test_what_another_process_destroys_is_not_handed_out_any_more(tmp_path: Path, keys: SubjectKeys) -> None:
    anna = key_of(keys, "anna")
    assert keys.find("t", anna.key_id) == anna
    other = SubjectKeys(tmp_path)
    other.shred("t", "anna", certify)
    assert isinstance(keys.find("t", anna.key_id), ShreddedKey)
    assert key_of(keys, "anna").epoch == 2
    other.close()


MAKE = """
import sys, time
from pathlib import Path
from event_streaming_bus.store.subject_keys import SubjectKeys
folder = Path(sys.argv[1])
while not (folder / "go").exists():
    time.sleep(0.001)
keys = SubjectKeys(folder)
for i in range(40):
    print(keys.of_subjects("t", [f"s{i}"])[f"s{i}"].secret.hex())
"""


def test_processes_that_make_keys_at_once_make_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    (tmp_path / "go").touch()
    made = [process.communicate(timeout=60)[0].split() for process in racing]
    assert [process.returncode for process in racing] == [0, 0, 0]
    assert made[0] == made[1] == made[2]
    assert len(set(made[0])) == 40


def test_the_master_key_comes_from_the_environment_or_a_file(
    tmp_path: Path, keys: SubjectKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESB_MASTER_KEY", base64.b64encode(secrets.token_bytes(32)).decode())
    anna = key_of(keys, "anna")
    assert not (tmp_path / "master.key").exists()
    keys.close()
    assert key_of(SubjectKeys(tmp_path), "anna") == anna
    monkeypatch.setenv("ESB_MASTER_KEY", base64.b64encode(secrets.token_bytes(32)).decode())
    with pytest.raises(StorageError, match="another master key"):
        key_of(SubjectKeys(tmp_path), "anna")
    monkeypatch.setenv("ESB_MASTER_KEY", "c2hvcnQ=")
    with pytest.raises(InvalidInputError, match="ESB_MASTER_KEY: expected 32 bytes as base64"):
        key_of(SubjectKeys(tmp_path), "anna")


def test_a_master_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    find_master_key(tmp_path)
    (tmp_path / "master.key").chmod(0o640)
    with pytest.raises(StorageError, match="chmod 600"):
        find_master_key(tmp_path)


def test_a_wrapped_key_that_was_moved_to_another_subject_is_refused(keys: SubjectKeys) -> None:
    anna, bob = key_of(keys, "anna"), key_of(keys, "bob")
    move = "UPDATE subject_keys SET wrapped = (SELECT wrapped FROM subject_keys WHERE key_id = ?) WHERE key_id = ?"
    with keys._open().transaction("moving") as db:
        db.execute(move, (bob.key_id, anna.key_id))
    keys._forget()
    with pytest.raises(StorageError, match="damaged"):
        keys.find("t", anna.key_id)


# --- sealing ----------------------------------------------------------------------------------------------------------


def test_sealed_data_is_readable_while_all_its_subjects_are_there(keys: SubjectKeys) -> None:
    data = b'{"state": "of anna and bob"}'
    sealed = seal(keys, "t", data, subjects=["anna", "bob"], context="agg/7")
    assert data not in sealed
    assert unseal(keys, "t", sealed, context="agg/7") == data
    by_ids = seal(keys, "t", data, key_ids=[key_of(keys, "anna").key_id, "unknown"], context="agg/7")
    keys.shred("t", "bob", certify)
    assert unseal(keys, "t", sealed, context="agg/7") is None
    assert unseal(keys, "t", by_ids, context="agg/7") == data
    assert unseal(keys, "other", by_ids, context="agg/7") is None


def test_data_without_subjects_is_only_framed(tmp_path: Path, keys: SubjectKeys) -> None:
    for data in (b"", b"\x01\x00", b"text"):
        assert unseal(keys, "t", seal(keys, "t", data)) == data
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1] + bytes([s[-1] ^ 1]), lambda s: s[:20], lambda s: b"\x02" + s[1:], lambda s: s[:1], lambda s: b""]
)
def test_sealed_data_that_was_changed_is_refused(keys: SubjectKeys, change: Callable[[bytes], bytes]) -> None:
    sealed = seal(keys, "t", b"data", subjects=["anna"], context="a")
    for changed, context in ((change(sealed), "a"), (sealed, "b")):
        with pytest.raises(CorruptLogError):
            unseal(keys, "t", changed, context=context)
