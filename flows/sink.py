"""The sink of a dataflow: events, history and marks in one transaction of the log, so that output is exactly once."""

import time
from collections.abc import Sequence
from typing import Final

import msgspec
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from event_streaming_bus.errors import BusError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.flows.items import Outputs, SinkItem, ToSink
from event_streaming_bus.flows.source_groups import SourceGroups
from event_streaming_bus.store.history_records import HistoryRecord, Published, Run, to_event
from event_streaming_bus.store.log.base import Append, AppendResult, Mark
from event_streaming_bus.store.storage import Storage

MAX_EVENTS: Final = 32_768
_failures: list[BusError] = []


def failure() -> BusError | None:
    """Why this process could not write, if it could not: when the workers of a cluster end, each panics because the others are
    gone ("Send thread panic"), and Bytewax may then tell of the panic instead of what began it."""
    return _failures[0] if _failures else None


class LogSink(DynamicSink[ToSink]):
    """Writes to the log of ``storage``, for the tenant."""

    def __init__(self, storage: Storage, tenant_id: str) -> None:
        self._storage = storage
        self._tenant_id = tenant_id

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "LogSinkPartition":
        return LogSinkPartition(self._storage, self._tenant_id)


class LogSinkPartition(StatelessSinkPartition[ToSink]):
    """One worker's part of the sink. All items at hand are written in one transaction, or in several that have at most about
    ``MAX_EVENTS`` events each; they are on disk when that returns.

    Another process that has written the same output since raises ``FencedError`` here, which ends this worker.
    """

    def __init__(self, storage: Storage, tenant_id: str) -> None:
        self._storage = storage
        self._tenant_id = tenant_id
        self._groups = SourceGroups(storage.log)

    def write_batch(self, items: list[ToSink]) -> None:
        part: list[SinkItem] = []
        size = 0
        for each in items:
            item = each if isinstance(each, SinkItem) else each()
            count = sum(map(len, item.events.values()))
            if part and size + count > MAX_EVENTS:
                self._write(part)
                part, size = [], 0
            part.append(item)
            size += count
        if part:
            self._write(part)

    def _write(self, items: list[SinkItem]) -> None:
        """Write items in one transaction."""
        started_us = time.time_ns() // 1000
        events = Outputs()
        records: list[HistoryRecord] = []
        marks: dict[tuple[str, str], Mark] = {}
        for item in items:
            for stream_id, made in item.events.items():
                events.add(stream_id, made)
            records += item.records
            for mark in item.marks:
                before = marks.get((mark.owner, mark.key))
                if before is not None:
                    mark = msgspec.structs.replace(mark, expected=before.expected)
                marks[mark.owner, mark.key] = mark
        history = self._storage.history()

        def journal(results: Sequence[AppendResult]) -> Append | None:
            entries = list(records)
            runs = [
                Run(split.stream_id, split.lane.value, split.partition, offset, count)
                for result in results
                for split, offset, count in result.written
            ]
            if runs:
                now_us = time.time_ns() // 1000
                published = Published(tenant_id=self._tenant_id, runs=runs, accepted_us=started_us, appended_us=now_us)
                entries.append(published)
            return Append(history.stream_id, [to_event(entry) for entry in entries], new_ids=True) if entries else None

        appends = [Append(stream_id, made, new_ids=True) for stream_id, made in events.by_stream().items()]
        try:
            fault_point("flow.append")
            self._storage.log.append(appends, marks=list(marks.values()), journal=journal)
        except BusError as error:
            _failures.append(error)
            raise
        fault_point("flow.appended")
        self._groups.written(marks.values())

    def close(self) -> None:
        """The flow ends in order."""
        self._groups.commit()
