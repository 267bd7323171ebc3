"""The store of schemas on PostgreSQL: as in a file."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_schema_store import *  # noqa: F403
from test_schema_store import record

from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.store.schemas import SchemaStore
from event_streaming_bus.store.subject_keys import SubjectKeys

del test_versions_registered_by_many_at_once_have_numbers_of_their_own  # noqa: F821 - below
del test_a_copy_has_the_same_ids_and_numbers, test_a_folder_from_before_ids_of_texts_is_taken_over  # noqa: F821 - of files


@pytest.fixture
def store(shared: PostgresPlace, tmp_path: Path) -> Iterator[SchemaStore]:
    store = SchemaStore(shared, SubjectKeys(tmp_path, shared))
    yield store
    store.close()


def test_nodes_that_register_at_once_give_numbers_of_their_own(shared: PostgresPlace, tmp_path: Path) -> None:
    stores = [SchemaStore(shared, SubjectKeys(tmp_path, shared)) for _ in range(4)]

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
    assert [each.version for each in versions] == list(range(1, 41))
    assert len({each.id for each in versions}) == 40
    for store in stores:
        store.close()
