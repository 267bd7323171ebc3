"""Saved queries on PostgreSQL: as in a file."""

from collections.abc import Iterator

import pytest
from test_saved_queries import *  # noqa: F403

from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.store.saved_queries import SavedQueries


@pytest.fixture
def queries(shared: PostgresPlace) -> Iterator[SavedQueries]:
    opened = SavedQueries(shared)
    yield opened
    opened.close()
