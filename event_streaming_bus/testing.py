"""For the tests of those who build on the bus: an embedded bus in a temporary folder, and reading a stream whole."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from event_streaming_bus.bus import Bus
from event_streaming_bus.models import DEFAULT_TENANT, Event
from event_streaming_bus.store.log.reading import read_stream
from event_streaming_bus.store.storage import open_storage


@contextmanager
def temporary_bus() -> Iterator[Bus]:
    """A bus in a folder of its own, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="esb-") as folder, Bus(open_storage(folder)) as bus:
        yield bus


def read_all(bus: Bus, stream: str, tenant_id: str = DEFAULT_TENANT) -> list[Event]:
    """Every event of a stream: partition by partition, the most urgent lane first, in offset order."""
    return read_stream(bus.log, bus.log.find_stream(tenant_id, stream))
