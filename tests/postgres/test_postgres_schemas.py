"""The store of schemas on PostgreSQL: as in a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_schema_store import *  # noqa: F403
from test_schema_store import check_many_at_once

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
    check_many_at_once([SchemaStore(shared, SubjectKeys(tmp_path, shared)) for _ in range(4)])
