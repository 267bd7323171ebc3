"""The keys of subjects on PostgreSQL: as in a file."""

import base64
from collections.abc import Iterator
from pathlib import Path

import postgres_server
import psycopg
import pytest
from test_erasure_keys import *  # noqa: F403
from test_erasure_keys import certify, key_of

from event_streaming_bus.errors import InvalidInputError, StorageError
from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.store.subject_keys import SubjectKeys

# Those that look into files, or open a folder again:
del test_a_subject_keeps_its_key_and_nothing_is_made_before_the_first  # noqa: F821
del test_the_files_are_for_their_owner_and_name_neither_subjects_nor_keys, test_no_file_holds_anything_of_destroyed_keys  # noqa: F821
del test_what_another_process_destroys_is_not_handed_out_any_more, test_processes_that_make_keys_at_once_make_the_same  # noqa: F821
del test_the_master_key_comes_from_the_environment_or_a_file, test_a_master_key_that_others_can_read_is_not_used  # noqa: F821


@pytest.fixture
def keys(shared: PostgresPlace, tmp_path: Path) -> Iterator[SubjectKeys]:
    keys = SubjectKeys(tmp_path, shared)
    yield keys
    keys.close()


@pytest.fixture
def other(shared: PostgresPlace, tmp_path: Path) -> Iterator[SubjectKeys]:
    """Those of another node, with a folder of its own."""
    keys = SubjectKeys(tmp_path / "other", shared)
    yield keys
    keys.close()


def test_nodes_have_the_same_keys_and_hear_of_what_one_destroys(keys: SubjectKeys, other: SubjectKeys) -> None:
    anna = key_of(keys, "anna")
    assert key_of(other, "anna") == anna
    keys.shred("t", "anna", certify)
    assert other.find("t", anna.key_id) == keys.find("t", anna.key_id)
    assert (key_of(other, "anna").epoch, key_of(keys, "anna")) == (2, key_of(other, "anna"))


def test_the_file_of_the_table_holds_no_destroyed_key(keys: SubjectKeys, shared: PostgresPlace) -> None:
    names = [f"subject-{i}" for i in range(50)]
    keys.of_subjects("t", names)
    with psycopg.connect(shared.url, autocommit=True) as db:
        wrapped = [row[0] for row in db.execute("SELECT wrapped FROM subject_keys ORDER BY no").fetchall()]

        def held() -> bytes:
            db.execute("CHECKPOINT")
            (path,) = db.execute("SELECT pg_relation_filepath('subject_keys')").fetchone() or ("",)
            folder = (postgres_server.shared_server().folder / "data" / path).parent
            return b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())

        assert all(each in held() for each in wrapped)
        keys.shred("t", names[7], certify)
        assert [each in held() for each in wrapped] == [i != 7 for i in range(50)]


def test_a_node_without_the_master_key_of_the_others_is_refused(
    keys: SubjectKeys, other: SubjectKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_of(keys, "anna")
    monkeypatch.delenv("ESB_MASTER_KEY")
    with pytest.raises(InvalidInputError, match="one master key for all"):
        key_of(other, "anna")
    monkeypatch.setenv("ESB_MASTER_KEY", base64.b64encode(b"x" * 32).decode())
    with pytest.raises(StorageError, match="another master key"):
        key_of(other, "anna")
