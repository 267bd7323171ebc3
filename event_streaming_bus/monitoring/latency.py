"""How long the events of a stream take, and how many of them failed.

What is measured, in seconds of the machine's clock, one observation an event:

- ``publish``: from when the bus accepted the event until it was on disk in its stream. For one that was to be delivered later
  there is no observation: the wait was asked for, and its time begins when it comes into its stream.
- ``processing``: from when it was accepted until a processor that reads the stream was done with it, written to disk; once for
  each such processor.
- ``delivery``: from when it was accepted until a consumer group had acknowledged it; once for each group.
- end to end: ``processing`` and ``delivery`` together, while something reads the stream; of a stream that nothing has read
  during the last minute, ``publish``.

Events that a flow or a processor wrote are in nobody's account of publishing, so their own way is not measured.
"""

from collections import Counter
from typing import Final

from event_streaming_bus.monitoring.histogram import Histogram, Recent, index_of

PUBLISH: Final = "publish"
PROCESSING: Final = "processing"
DELIVERY: Final = "delivery"
STAGES: Final = (PUBLISH, PROCESSING, DELIVERY)
QUANTILES: Final = (0.5, 0.95, 0.99)
_READ_FOR_US: Final = 60_000_000


class StreamLatency:
    """What is known of the latencies and the errors of one stream, or of all that share a series."""

    __slots__ = ("_read_us", "end_to_end", "errors", "recent", "stages")

    def __init__(self) -> None:
        self.stages = {stage: Histogram() for stage in STAGES}
        self.end_to_end = Histogram()
        self.recent = Recent()
        self.errors: Counter[str] = Counter()
        self._read_us = -_READ_FOR_US

    def observe(self, stage: str, accepted_us: int, done_us: int, events: int) -> None:
        """So many events that were accepted together had come through this stage by ``done_us``."""
        seconds = max(0, done_us - accepted_us) / 1e6
        index = index_of(seconds)
        self.stages[stage].put(index, seconds, events)
        if stage != PUBLISH:
            self._read_us = max(self._read_us, done_us)
        elif done_us - self._read_us < _READ_FOR_US:
            return  # its way is not over yet
        self.end_to_end.put(index, seconds, events)
        self.recent.put(index, seconds, events, done_us / 1e6)
