"""One server for all tests here, and buses with their tables on it. Where PostgreSQL is missing, one line says so.

What is said of a store must hold wherever its tables are: a module here takes the tests of tests/unit as they are, and gives
them a store, or a bus, on PostgreSQL. Left out are those that look into files, which are then not there.
"""

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from outboxes import outbox

sys.path.append(str(Path(__file__).parent))

import postgres_server

from event_streaming_bus.bus import Bus
from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.storage import Storage

if postgres_server.programs() is None:
    collect_ignore_glob = ["test_postgres_*.py"]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> PostgresPlace:
    """A database of its own, with the tables; and a master key, without which several nodes keep no personal data."""
    monkeypatch.setenv("ESB_MASTER_KEY", base64.b64encode(b"k" * 32).decode())
    return postgres_server.shared_server().new_database()


@pytest.fixture
def storage(shared: PostgresPlace, tmp_path: Path) -> Iterator[Storage]:
    """The log in a folder, all else in the database."""
    storage = Storage(tmp_path / "data", EmbeddedLog(tmp_path / "data", synchronous="NORMAL"), shared=shared)
    yield storage
    storage.close()


@pytest.fixture
def bus(storage: Storage) -> Bus:
    return Bus(storage)


@pytest.fixture
def relayed_bus(shared: PostgresPlace, tmp_path: Path) -> Iterator[Bus]:
    """As ``bus``, with aggregates: their events come to their streams by an outbox."""
    with Bus(Storage(tmp_path, outbox(tmp_path, shared), shared=shared)) as bus:
        yield bus
