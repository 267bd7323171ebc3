"""How aggregates end, on PostgreSQL: as in a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from outboxes import outbox
from test_aggregate_lifecycle import *  # noqa: F403
from test_aggregate_lifecycle import service_of

from event_streaming_bus.bus import Bus
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.store.storage import Storage

# What is damaged there is damaged in a file:
del test_a_damaged_archive_is_told_and_can_be_deleted  # noqa: F821


@pytest.fixture
def bus(shared: PostgresPlace, tmp_path: Path) -> Iterator[Bus]:
    with Bus(Storage(tmp_path, outbox(tmp_path, shared), shared=shared)) as bus:
        yield bus


@pytest.fixture
def service(bus: Bus) -> EventSourcingService:
    return service_of(bus)
