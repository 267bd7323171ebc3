"""Tokens on PostgreSQL: as in a file."""

from collections.abc import Iterator

import pytest
from test_access import *  # noqa: F403

from event_streaming_bus.access.tokens import TokenService
from event_streaming_bus.store.storage import Storage


@pytest.fixture
def tokens(storage: Storage) -> Iterator[TokenService]:
    service = TokenService(storage)
    yield service
    service.close()
