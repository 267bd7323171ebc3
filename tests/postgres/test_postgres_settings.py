"""Settings on PostgreSQL: as in a file."""

import pytest
from test_settings import *  # noqa: F403

from event_streaming_bus.bus import Bus
from event_streaming_bus.store.settings import Settings


@pytest.fixture
def settings(bus: Bus) -> Settings:
    return bus.storage.settings
