"""Routing rules on PostgreSQL: as in a file."""

from collections.abc import Iterator

import pytest
from test_routing import *  # noqa: F403

from event_streaming_bus.bus import Bus
from event_streaming_bus.store.storage import Storage


@pytest.fixture
def bus(storage: Storage) -> Iterator[Bus]:
    """A bus with the streams ``orders``, ``a``, ``b`` and ``c``."""
    with Bus(storage) as opened:
        for name in ("orders", "a", "b", "c"):
            opened.create_stream(name)
        yield opened
