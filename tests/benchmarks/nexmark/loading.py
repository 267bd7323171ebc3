"""Nexmark events put into the stream ``nexmark`` of a bus, from where the flow files read them."""

from collections.abc import Iterable
from typing import Final

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus
from event_streaming_bus.models import Event, StreamConfig
from event_streaming_bus.store.log.base import Append

from .generator import Row

STREAM: Final = "nexmark"
PARTITIONS: Final = 2
"""As the flow files declare it."""


def load(bus: Bus, batches: Iterable[list[Row]], partitions: int = PARTITIONS) -> int:
    """Append the batches, one transaction each; returns how many events there were. The stream is made if it is missing."""
    stream_id = bus.log.create_stream(StreamConfig(name=STREAM, partitions=partitions)).stream_id
    count = 0
    for batch in batches:
        events = [
            Event(event_id, row.event_type, row.timestamp_ms, row.data, row.key, "nexmark")
            for event_id, row in zip(ids.new_ids(ids.EVENT, len(batch)), batch, strict=True)
        ]
        bus.log.append([Append(stream_id, events, new_ids=True)])
        count += len(batch)
    return count
