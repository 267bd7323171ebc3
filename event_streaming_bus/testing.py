"""For the tests of those who build on the bus: an embedded bus in a temporary folder, and reading a stream whole."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.models import DEFAULT_TENANT, Event


@contextmanager
def temporary_bus() -> Iterator[Bus]:
    """A bus in a folder of its own, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="esb-") as folder, open_bus(folder) as bus:
        yield bus


def read_all(bus: Bus, stream: str, tenant_id: str = DEFAULT_TENANT) -> list[Event]:
    """Every event of a stream: partition by partition, the most urgent lane first, in offset order."""
    info = bus.log.find_stream(tenant_id, stream)
    begins = bus.log.begin_offsets(info.stream_id)
    events: list[Event] = []
    for split in info.splits():
        offset = begins[split]
        while batches := bus.log.read(split, offset):
            for batch in batches:
                events += batch.events()
            offset = batches[-1].end_offset
    return events
