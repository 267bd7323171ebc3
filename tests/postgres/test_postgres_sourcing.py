"""Event sourcing on PostgreSQL: as in a file. The events come to their streams by an outbox, a moment later."""

import time

import psycopg
import pytest
import test_event_sourcing
from test_event_sourcing import *  # noqa: F403
from test_event_sourcing import NEVER

from event_streaming_bus.bus import Bus
from event_streaming_bus.models import Event
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.testing import read_all

# Which place it got is not known yet:
del test_events_are_routed_as_all_that_is_published  # noqa: F821


@pytest.fixture
def bus(relayed_bus: Bus) -> Bus:
    return relayed_bus


@pytest.fixture
def service(bus: Bus) -> EventSourcingService:
    return EventSourcingService(bus.storage, snapshots=NEVER)


@pytest.fixture(autouse=True)
def _read_when_all_is_there(shared: PostgresPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_later(bus: Bus, stream: str, *tenant_id: str) -> list[Event]:
        with psycopg.connect(shared.url, autocommit=True) as db:
            while db.execute("SELECT 1 FROM outbox LIMIT 1").fetchone():
                time.sleep(0.01)
        return read_all(bus, stream, *tenant_id)

    monkeypatch.setattr(test_event_sourcing, "read_all", read_later)
