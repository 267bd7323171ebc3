"""How aggregates end, on PostgreSQL: as in a file."""

import pytest
from test_aggregate_lifecycle import *  # noqa: F403
from test_aggregate_lifecycle import service_of

from event_streaming_bus.bus import Bus
from event_streaming_bus.sourcing.service import EventSourcingService

# What is damaged there is damaged in a file:
del test_a_damaged_archive_is_told_and_can_be_deleted  # noqa: F821


@pytest.fixture
def bus(relayed_bus: Bus) -> Bus:
    return relayed_bus


@pytest.fixture
def service(bus: Bus) -> EventSourcingService:
    return service_of(bus)
