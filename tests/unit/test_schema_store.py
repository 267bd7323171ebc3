"""The schema store: ids, versions, references, settings."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from event_streaming_bus.errors import AlreadyExistsError, SchemaNotFoundError
from event_streaming_bus.store.schemas import (
    SchemaRecord,
    SchemaReference,
    SchemaStore,
    SchemaText,
    context_of,
    guid_of,
)
from event_streaming_bus.store.storage import open_storage
from event_streaming_bus.store.subject_keys import SubjectKeys


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SchemaStore]:
    store = SchemaStore(tmp_path / "log.db", SubjectKeys(tmp_path))
    yield store
    store.close()


def record(subject: str, definition: str, **fields: Any) -> SchemaRecord:
    text = fields.pop("text", SchemaText(format="JSON", definition=definition))
    defaults: dict[str, Any] = {
        "schema_id": f"sch_{subject}_{definition}_{len(fields)}",
        "tenant_id": "t",
        "schema_name": subject,
        "schema_version": "1.0",
        "text": text,
        "compatibility_level": "BACKWARD",
        "evolution_strategy": "COMPATIBLE",
        "created_at_ms": 0,
    }
    return SchemaRecord(**(defaults | fields))


def add(store: SchemaStore, each: SchemaRecord) -> SchemaRecord:
    added = store.add(each, store.state_of(each.tenant_id, each.schema_name))
    assert added is not None
    return added


def test_a_text_has_one_id_under_whatever_subject(store: SchemaStore) -> None:
    first, second = add(store, record("a", '{"type": "object"}')), add(store, record("b", '{"type":"object"}'))
    assert (first.version, first.id, second.version, second.id) == (1, 1, 1, 1)
    assert first.guid == second.guid
    third = add(store, record("a", '{"type": "string"}'))
    assert (third.version, third.id) == (2, 2)
    assert [r.schema_name for r in store.versions_of_id("t", ".", 1)] == ["a", "b"]


def test_ids_count_in_each_context_and_tenant(store: SchemaStore) -> None:
    add(store, record("a", "{}"))
    other = add(store, record(":.other:a", '{"type": "string"}'))
    tenant = add(store, record("a", '{"type": "string"}', tenant_id="u"))
    assert (other.id, tenant.id) == (1, 1)
    assert store.contexts("t") == [".", ".other"]
    assert store.text("t", ".", 1) != store.text("t", ".other", 1)


@pytest.mark.parametrize(
    ("subject", "context"), [("a", "."), (":.ctx:a", ".ctx"), (":.ctx:", ".ctx"), ("a:b", "."), (":.:a", "."), (":.x", ".")]
)
def test_the_context_of_a_subject(subject: str, context: str) -> None:
    assert context_of(subject) == context


def test_an_id_is_never_given_to_another_schema(store: SchemaStore) -> None:
    add(store, record("a", "{}"))
    gone = add(store, record("a", '{"type": "string"}'))
    store.remove([gone])
    assert store.text("t", ".", 2) is None
    assert add(store, record("a", '{"type": "number"}')).id == 3


def test_a_version_that_others_registered_meanwhile_is_noticed(store: SchemaStore) -> None:
    seen = store.state_of("t", "a")
    assert store.add(record("a", "{}"), seen) is not None
    assert store.add(record("a", "true"), seen) is None
    assert [r.version for r in store.versions("t", "a")] == [1]


def test_versions_registered_by_many_at_once_have_numbers_of_their_own(tmp_path: Path) -> None:
    check_many_at_once([SchemaStore(tmp_path / "log.db", SubjectKeys(tmp_path)) for _ in range(4)])


def check_many_at_once(stores: list[SchemaStore]) -> None:
    """Stores over the same tables, which register at once and are closed then."""

    def register(store: SchemaStore, number: int) -> None:
        for i in range(10):
            each = record("a", f'{{"title": "{number}.{i}"}}')
            while store.add(each, store.state_of("t", "a")) is None:
                pass

    threads = [threading.Thread(target=register, args=(store, i)) for i, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = stores[0].versions("t", "a")
    assert [r.version for r in versions] == list(range(1, 41))
    assert len({r.id for r in versions}) == 40
    for store in stores:
        store.close()


def test_an_import_keeps_its_numbers_unless_they_are_taken(store: SchemaStore) -> None:
    kept = add(store, record("a", "{}", id=70, version=5))
    assert (kept.id, kept.version) == (70, 5)
    with pytest.raises(AlreadyExistsError, match="stands for another schema"):
        add(store, record("a", "true", id=70))
    with pytest.raises(AlreadyExistsError, match="version 5"):
        add(store, record("a", "true", version=5))
    with pytest.raises(AlreadyExistsError, match="has the id 70"):
        add(store, record("b", "{}", id=71))
    assert add(store, record("a", "true")).id == 71


def test_deleted_versions_are_there_for_those_who_ask(store: SchemaStore) -> None:
    kept = add(store, record("a", "{}"))
    store.update(msgspec.structs.replace(kept, is_deleted=True))
    assert store.versions("t", "a") == []
    assert [r.is_deleted for r in store.versions("t", "a", deleted=True)] == [True]
    assert store.subjects("t") == {"a": True}
    assert store.get("t", kept.schema_id).is_deleted


def test_references_are_found_from_the_other_side(store: SchemaStore) -> None:
    add(store, record("base", "{}"))
    text = SchemaText(format="JSON", definition='{"$ref": "base"}', references=(SchemaReference("base", "base", 1),))
    user = add(store, record("user", "", text=text))
    assert store.referenced_by("t", "base", 1) == [user.id]
    store.update(msgspec.structs.replace(user, is_deleted=True))
    assert store.referenced_by("t", "base", 1) == []


def test_a_schema_of_another_tenant_is_not_found(store: SchemaStore) -> None:
    kept = add(store, record("a", "{}"))
    with pytest.raises(SchemaNotFoundError):
        store.get("u", kept.schema_id)
    found = store.text_by_guid("t", kept.guid)
    assert found is not None
    assert found[1] == kept.id
    assert store.text_by_guid("u", kept.guid) is None


def test_settings_are_kept_and_removed(store: SchemaStore) -> None:
    store.set_setting("t", "a", "config", {"compatibilityLevel": "FULL"})
    assert store.setting("t", "a", "config") == {"compatibilityLevel": "FULL"}
    assert store.setting("u", "a", "config") is None
    store.set_setting("t", "a", "config", None)
    assert store.setting("t", "a", "config") is None


def test_white_space_makes_no_other_schema_but_metadata_does() -> None:
    text = SchemaText(format="AVRO", definition='{"type": "string"}')
    assert guid_of(text) == guid_of(msgspec.structs.replace(text, definition='{ "type":"string" }'))
    assert guid_of(text) != guid_of(msgspec.structs.replace(text, metadata={"properties": {"a": "b"}}))
    assert guid_of(text) != guid_of(msgspec.structs.replace(text, format="JSON"))
    assert guid_of(SchemaText(format="AVRO", definition=" string")) == guid_of(SchemaText(format="AVRO", definition="string"))


def test_a_copy_has_the_same_ids_and_numbers(store: SchemaStore, tmp_path: Path) -> None:
    add(store, record("a", "{}", id=9))
    gone = add(store, record("a", "true"))
    store.update(msgspec.structs.replace(gone, is_deleted=True))
    other = SchemaStore(tmp_path / "copy.db", SubjectKeys(tmp_path))
    store.copy_to(other, "t")
    assert other.versions("t", deleted=True) == store.versions("t", deleted=True)
    other.close()


def test_a_folder_from_before_ids_of_texts_is_taken_over(tmp_path: Path) -> None:
    old = {
        "schema_id": "sch_1",
        "tenant_id": "t",
        "schema_name": "order",
        "schema_version": "1.0",
        "format": "JSON",
        "definition": "{}",
        "compatibility_level": "BACKWARD",
        "evolution_strategy": "COMPATIBLE",
        "created_at_ms": 7,
    }
    open_storage(tmp_path).close()
    with sqlite3.connect(tmp_path / "log.db") as db:
        db.execute("CREATE TABLE schemas (schema_no INTEGER PRIMARY KEY, record TEXT NOT NULL)")
        for number, version in ((1, "1.0"), (2, "1.1")):
            each = old | {"schema_id": f"sch_{number}", "schema_version": version, "definition": f'{{"title": "{version}"}}'}
            db.execute("INSERT INTO schemas VALUES (?, ?)", (number, msgspec.json.encode(each).decode()))
    db.close()
    for _ in range(2):
        storage = open_storage(tmp_path)
        versions = storage.schemas.versions("t", "order")
        assert [(r.schema_id, r.schema_version, r.version, r.id) for r in versions] == [
            ("sch_1", "1.0", 1, 1),
            ("sch_2", "1.1", 2, 2),
        ]
        storage.close()
