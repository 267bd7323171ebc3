"""Dataflows fed from memory: chunks of events read beforehand, and a sink that keeps what comes.

So the engine is measured without the log, and beside dataflows written by hand that read the very same chunks.
"""

from collections.abc import Sequence
from typing import Any, Final
from unittest.mock import patch

from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from event_streaming_bus.flows import build as engine
from event_streaming_bus.flows.items import Chunk
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.source import LogSource, SourceOptions
from event_streaming_bus.models import StreamInfo
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.storage import Storage

_PART: Final = "memory"


class MemorySource(FixedPartitionedSource[Any, int]):
    """Gives out ``items`` one by one, as often as it is built."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def list_parts(self) -> list[str]:
        return [_PART]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "_MemoryPartition":
        return _MemoryPartition(self._items)


class _MemoryPartition(StatefulSourcePartition[Any, int]):
    def __init__(self, items: Sequence[Any]) -> None:
        self._items = iter(items)

    def next_batch(self) -> list[Any]:
        return [next(self._items)]

    def snapshot(self) -> int:
        return 0


class MemorySink(DynamicSink[Any]):
    """Keeps all that is written, in ``items``."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "_MemorySinkPartition":
        return _MemorySinkPartition(self.items)


class _MemorySinkPartition(StatelessSinkPartition[Any]):
    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def write_batch(self, items: list[Any]) -> None:
        self._items += items


def chunks_of(log: EventLog, stream: StreamInfo) -> list[Chunk]:
    """All that a flow reads of a stream until its end, decompressed, in the order in which it reads it."""
    source = LogSource(log, stream, SourceOptions(until=log.end_offsets(stream.stream_id)))
    chunks: list[Chunk] = []
    for part in source.list_parts():
        partition = source.build_part("memory", part, None)
        try:
            while True:
                chunks += partition.next_batch()
        except StopIteration:
            pass
    return chunks


def engine_dataflow(plan: Plan, storage: Storage, chunks: Sequence[Chunk], sink: MemorySink) -> Dataflow:
    """The dataflow of a plan as it is built for the log, but with its source and sinks exchanged.

    This and ``written`` are all that the benchmarks know of the engine's inside: that ``build`` makes a ``LogSource`` for each
    stage and a ``LogSink`` for each output, and what is handed to the latter. The plan must read one stream.
    """
    with (
        patch.object(engine, "LogSource", lambda *arguments, **options: MemorySource(chunks)),
        patch.object(engine, "LogSink", lambda *arguments, **options: sink),
    ):
        return engine.build(plan, storage, until=current_ends(plan, storage))


def written(sink: MemorySink, stream: StreamInfo) -> list[bytes]:
    """The payloads that an engine's dataflow wrote to a stream."""
    return [event.data for item in sink.items for event in item.events.get(stream.stream_id, ())]
