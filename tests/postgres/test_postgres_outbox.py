"""The outbox on PostgreSQL: as in a file."""

import pytest
from test_outbox import *  # noqa: F403

from event_streaming_bus.store.database import Place, PostgresPlace


@pytest.fixture
def place(shared: PostgresPlace) -> Place:
    return shared
