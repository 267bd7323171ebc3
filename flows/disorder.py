"""How far the events of a stream are out of order, measured on the newest of them."""

import msgspec

from event_streaming_bus.models import Split, StreamInfo
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.reading import batches_between

SAMPLE_EVENTS = 1000
"""How many events of each split are looked at."""


class Disorder(msgspec.Struct, frozen=True):
    """Of ``events`` looked at, ``behind`` came after one of their split with a later time, by at most ``most_ms``.

    A grace period of ``most_ms`` would have waited for all of them.
    """

    events: int = 0
    behind: int = 0
    most_ms: int = 0

    def __add__(self, other: "Disorder") -> "Disorder":
        return Disorder(self.events + other.events, self.behind + other.behind, max(self.most_ms, other.most_ms))


def measure(log: EventLog, stream: StreamInfo, sample_events: int = SAMPLE_EVENTS) -> Disorder:
    """Of the newest ``sample_events`` of each of the stream's splits, how many came out of order, and by how much."""
    ends, begins = log.end_offsets(stream.stream_id), log.begin_offsets(stream.stream_id)
    total = Disorder()
    for split, end in ends.items():
        total += _of_split(log, split, max(begins[split], end - sample_events), end)
    return total


def _of_split(log: EventLog, split: Split, begin: int, end: int) -> Disorder:
    events = behind = most_ms = 0
    latest_ms: int | None = None
    for batch in batches_between(log, split, begin, end, skip_dropped=True):
        for timestamp_ms in batch.timestamps_ms():
            events += 1
            if latest_ms is not None and timestamp_ms < latest_ms:
                behind += 1
                most_ms = max(most_ms, latest_ms - timestamp_ms)
            else:
                latest_ms = timestamp_ms
    return Disorder(events, behind, most_ms)
