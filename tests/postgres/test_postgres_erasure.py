"""Erasure on PostgreSQL: as in a file."""

from collections.abc import Iterator

import pytest
from test_erasure_certificates import *  # noqa: F403

from event_streaming_bus.bus import Bus
from event_streaming_bus.erasure.service import ErasureService
from event_streaming_bus.store.storage import Storage

# Those that look into files, or bring one back from a backup:
del test_an_erased_subject_is_unreadable_and_others_are_not, test_keys_that_a_backup_brings_back_are_found_and_destroyed_again  # noqa: F821


@pytest.fixture
def bus(storage: Storage) -> Iterator[Bus]:
    with Bus(storage) as bus:
        bus.create_stream("orders")
        yield bus


@pytest.fixture
def erasure(bus: Bus) -> ErasureService:
    return ErasureService(bus.storage)
