"""History records expanded into rows: columns of Arrow tables, ready for DuckDB."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

from event_streaming_bus.errors import OffsetOutOfRangeError, StreamNotFoundError
from event_streaming_bus.models import EventPriority, Split
from event_streaming_bus.store.history_records import (
    DEAD_LETTER_STREAM,
    OUTCOME_STATUS,
    HistoryRecord,
    Late,
    Processed,
    ProcessorRun,
    Published,
    Refused,
    Run,
)
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.record_batch import RecordBatch

PUBLISHER: Final = "proc_publisher"
VALIDATOR: Final = "proc_validation"
_US: Final = pa.timestamp("us")
_MS: Final = pa.timestamp("ms")
_TEXT, _INT, _BIG = pa.string(), pa.int32(), pa.int64()

_ENVELOPE: Final = (
    "event_id",
    "event_type",
    "source_capability",
    "aggregate_id",
    "aggregate_type",
    "key",
    "correlation_id",
    "causation_id",
    "user_id",
    "schema_id",
    "traceparent",
    "serialization_format",
    "max_retries",
)

SCHEMAS: Final[dict[str, dict[str, pa.DataType]]] = {
    "events": {
        **dict.fromkeys(("event_id", "tenant_id", "stream_id", "stream", "lane"), _TEXT),
        "partition": _INT,
        "offset": _BIG,
        **dict.fromkeys(("event_type", "source_capability", "aggregate_id", "aggregate_type", "key"), _TEXT),
        **dict.fromkeys(("payload", "metadata", "correlation_id", "causation_id", "user_id", "schema_id"), _TEXT),
        **dict.fromkeys(("traceparent", "serialization_format"), _TEXT),
        "max_retries": _INT,
        "timestamp": _MS,
        "published_at": _US,
    },
    "processing_history": {
        **dict.fromkeys(("history_id", "event_id", "tenant_id", "processor_id", "processor_name"), _TEXT),
        **dict.fromkeys(("processing_stage", "status"), _TEXT),
        "started_at": _US,
        "completed_at": _US,
        "processing_duration_ms": pa.float64(),
        **dict.fromkeys(("output", "error_type", "error_message", "stack_trace"), _TEXT),
        "retry_count": _INT,
        **dict.fromkeys(("stream_id", "lane"), _TEXT),
        "partition": _INT,
        "offset": _BIG,
    },
    "dead_letters": {
        **dict.fromkeys(("dead_letter_id", "tenant_id", "event_id", "event_type", "stream", "lane"), _TEXT),
        "partition": _INT,
        "offset": _BIG,
        **dict.fromkeys(("processor_id", "processor_name", "step", "error_type", "error_message"), _TEXT),
        "attempts": _INT,
        "failed_at": _MS,
        "payload_raw": pa.binary(),
    },
    "late_events": {
        **dict.fromkeys(("event_id", "tenant_id", "processor_id", "processor_name", "stream", "lane"), _TEXT),
        "partition": _INT,
        "offset": _BIG,
        **dict.fromkeys(("window_start", "window_end", "watermark"), _MS),
        "observed_at": _US,
    },
    "processor_run_events": {
        **dict.fromkeys(("run_id", "tenant_id", "processor_id", "processor_name", "flow", "status"), _TEXT),
        "workers": _INT,
        "observed_at": _US,
        **dict.fromkeys(("events_in", "events_out", "events_filtered", "events_late", "events_dead"), _BIG),
        "error": _TEXT,
    },
}


class _Columns:
    """The rows of one table, column by column."""

    def __init__(self, table: str) -> None:
        self._types = SCHEMAS[table]
        self._values: dict[str, list[Any]] = {name: [] for name in self._types}
        self.count = 0

    def extend(self, count: int, **columns: Any) -> None:
        """Add ``count`` rows: a list is a column of values, anything else is the same for all; what is not named is null."""
        for name, values in self._values.items():
            given = columns.get(name)
            if isinstance(given, list):
                values += given
            else:
                values += [given] * count
        self.count += count

    def table(self) -> pa.Table:
        arrays = {}
        for name, kind in self._types.items():
            values = self._values[name]
            if name == "payload":
                values = [value.decode("utf-8", "replace") if value is not None else None for value in values]
            arrays[name] = pa.array(values, type=kind)
        return pa.table(arrays)


class Expander:
    """Collects the rows of history records. Events that retention has dropped since make no rows; ``skipped`` counts them."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._names = {info.stream_id: info.name for info in log.list_streams(internal=True)}
        self._columns = {table: _Columns(table) for table in SCHEMAS}
        self._read: dict[Split, list[RecordBatch]] = {}
        self.skipped = 0

    @property
    def rows(self) -> int:
        """How many rows there are so far."""
        return sum(columns.count for columns in self._columns.values())

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """The tables that have rows."""
        for name, columns in self._columns.items():
            if columns.count:
                yield name, columns.table()

    def add(self, offset: int, record: HistoryRecord) -> None:
        """Expand the record at ``offset`` of the stream ``_history``."""
        start = f"hist_{offset:016d}"
        if isinstance(record, Published):
            self._published(start, record)
        elif isinstance(record, Processed):
            self._processed(start, record)
        elif isinstance(record, Refused):
            self._refused(start, record)
        elif isinstance(record, Late):
            self._late(record)
        else:
            self._run(record)

    def _published(self, start: str, record: Published) -> None:
        number = 0
        for batch in self._batches(record.runs):
            count = batch.count
            self._events(batch, record.tenant_id, record.appended_us)
            ids = [f"{start}{i:08d}" for i in range(number, number + count)]
            self._steps(batch, ids, record.tenant_id, PUBLISHER, "publisher", "PUBLISH", record.accepted_us, record.appended_us)
            if record.schema_id is not None:
                began, ended = record.validation_started_us, record.validation_completed_us
                output = {"validation_result": "passed", "schema_version": record.schema_version}
                told = msgspec.json.encode(output).decode()
                ids = [f"{each}v" for each in ids]
                self._steps(batch, ids, record.tenant_id, VALIDATOR, "validation", "VALIDATION", began, ended, output=told)
            number += count

    def _refused(self, start: str, record: Refused) -> None:
        number = 0
        for batch in self._batches(record.runs):
            self._events(batch, record.tenant_id, record.observed_us)
            ids = [f"{start}{i:08d}" for i in range(number, number + batch.count)]
            output = {"validation_result": "failed", "schema_version": record.schema_version}
            self._steps(
                batch,
                ids,
                record.tenant_id,
                VALIDATOR,
                "validation",
                "VALIDATION",
                record.observed_us,
                record.observed_us,
                status="FAILED",
                output=msgspec.json.encode(output).decode(),
                error_type="ValidationFailedError",
            )
            number += batch.count

    def _events(self, batch: RecordBatch, tenant_id: str, published_us: int) -> None:
        columns: dict[str, Any] = {name: _values(batch, name) for name in _ENVELOPE}
        same, metadata = batch.constant("metadata")
        if same:
            columns["metadata"] = _json(metadata)
        else:
            columns["metadata"] = [_json(value) for value in batch.column("metadata")]
        offsets = list(range(batch.offset, batch.end_offset))
        payloads = batch.payloads()
        stream = self._names.get(batch.split.stream_id, batch.split.stream_id)
        self._columns["events"].extend(
            batch.count,
            tenant_id=tenant_id,
            stream_id=batch.split.stream_id,
            stream=stream,
            lane=batch.split.lane.value,
            partition=batch.split.partition,
            offset=offsets,
            payload=payloads,
            timestamp=list(batch.timestamps_ms()),
            published_at=published_us,
            **columns,
        )
        if stream == DEAD_LETTER_STREAM:
            self._dead_letters(batch, tenant_id, payloads)

    def _dead_letters(self, batch: RecordBatch, tenant_id: str, payloads: list[bytes]) -> None:
        told = [(metadata or {}).get("dead_letter") or {} for metadata in batch.column("metadata")]
        self._columns["dead_letters"].extend(
            batch.count,
            dead_letter_id=list(batch.column("event_id")),
            tenant_id=tenant_id,
            event_type=list(batch.column("event_type")),
            error_message=[each.get("error_message") for each in told],
            failed_at=[each.get("failed_at_ms") for each in told],
            payload_raw=payloads,
            **{
                name: [each.get(name) for each in told]
                for name in (
                    *("event_id", "stream", "lane", "partition", "offset"),
                    *("processor_id", "processor_name", "step", "error_type", "attempts"),
                )
            },
        )

    def _processed(self, start: str, record: Processed) -> None:
        errors = {error.index: error for error in record.errors}
        outcomes = record.outcomes * record.run.count if len(record.outcomes) == 1 else record.outcomes
        for batch in self._batches([record.run]):
            first = batch.offset - record.run.offset
            mine = outcomes[first : first + batch.count]
            seen = [i for i, outcome in enumerate(mine) if outcome]
            if not seen:
                continue
            ids = [f"{start}{first + i:08d}" for i in seen]
            more: dict[str, Any] = {}
            here = {i: errors[first + i] for i in seen if first + i in errors} if errors else {}
            if here:
                more = {
                    "error_type": [here[i].error_type if i in here else None for i in seen],
                    "error_message": [here[i].message if i in here else None for i in seen],
                    "stack_trace": [here[i].stack_trace if i in here else None for i in seen],
                }
            self._steps(
                batch,
                ids,
                record.tenant_id,
                record.processor_id,
                record.processor_name,
                record.stage,
                record.started_us,
                record.completed_us,
                status=[OUTCOME_STATUS[mine[i]] for i in seen],
                seen=seen,
                **more,
            )

    def _steps(
        self,
        batch: RecordBatch,
        ids: list[str],
        tenant_id: str,
        processor_id: str,
        processor_name: str,
        stage: str,
        started_us: int,
        completed_us: int,
        *,
        status: str | list[str] = "COMPLETED",
        seen: list[int] | None = None,
        **more: Any,
    ) -> None:
        event_ids = list(batch.column("event_id"))
        offsets = list(range(batch.offset, batch.end_offset))
        if seen is not None and len(seen) < batch.count:
            event_ids, offsets = [event_ids[i] for i in seen], [offsets[i] for i in seen]
        self._columns["processing_history"].extend(
            len(ids),
            history_id=ids,
            event_id=event_ids,
            tenant_id=tenant_id,
            processor_id=processor_id,
            processor_name=processor_name,
            processing_stage=stage,
            status=status,
            started_at=started_us,
            completed_at=completed_us,
            processing_duration_ms=(completed_us - started_us) / 1000,
            retry_count=0,
            stream_id=batch.split.stream_id,
            lane=batch.split.lane.value,
            partition=batch.split.partition,
            offset=offsets,
            **more,
        )

    def _late(self, record: Late) -> None:
        order = sorted(range(len(record.offsets)), key=record.offsets.__getitem__)
        offsets = [record.offsets[i] for i in order]
        runs = [Run(record.stream_id, record.lane, record.partition, offset, count) for offset, count in _neighbours(offsets)]
        ids: dict[int, str] = {}
        for batch in self._batches(runs):
            ids.update(zip(range(batch.offset, batch.end_offset), batch.column("event_id"), strict=True))
        kept = [i for i in order if record.offsets[i] in ids]
        self._columns["late_events"].extend(
            len(kept),
            event_id=[ids[record.offsets[i]] for i in kept],
            tenant_id=record.tenant_id,
            processor_id=record.processor_id,
            processor_name=record.processor_name,
            stream=self._names.get(record.stream_id, record.stream_id),
            lane=record.lane,
            partition=record.partition,
            offset=[record.offsets[i] for i in kept],
            window_start=[record.window_start_ms[i] for i in kept],
            window_end=[record.window_end_ms[i] for i in kept],
            watermark=record.watermark_ms,
            observed_at=record.observed_us,
        )

    def _run(self, record: ProcessorRun) -> None:
        values = {name: getattr(record, name) for name in record.__struct_fields__ if name != "observed_us"}
        self._columns["processor_run_events"].extend(1, observed_at=record.observed_us, **values)

    def _batches(self, runs: Iterable[Run]) -> Iterator[RecordBatch]:
        """The record batches of the runs, cut to them; what is gone is counted as skipped."""
        for run in runs:
            split = Split(run.stream_id, EventPriority(run.lane), run.partition)
            offset, end = run.offset, run.offset + run.count
            while offset < end:
                batch = self._batch_at(split, offset)
                if batch is None:
                    self.skipped += 1
                    offset += 1
                    continue
                yield batch if batch.offset == offset and batch.end_offset <= end else batch.slice(offset, end)
                offset = min(end, batch.end_offset)

    def _batch_at(self, split: Split, offset: int) -> RecordBatch | None:
        """The record batch that holds ``offset``; those read last are kept at hand."""
        for batch in self._read.get(split, ()):
            if batch.offset <= offset < batch.end_offset:
                return batch
        try:
            batches = self._log.read(split, offset)
        except (OffsetOutOfRangeError, StreamNotFoundError):
            return None
        self._read[split] = batches
        return batches[0] if batches and batches[0].offset <= offset else None


def _values(batch: RecordBatch, name: str) -> Any:
    """A column for ``_Columns.extend``: one value where all are the same."""
    same, value = batch.constant(name)
    return value if same else list(batch.column(name))


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _neighbours(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """``(first, count)`` of each run of neighbours in ascending ``offsets``; an offset may stand there several times."""
    first = last = None
    for offset in offsets:
        if first is None or last is None or offset > last + 1:
            if first is not None and last is not None:
                yield first, last - first + 1
            first = offset
        last = offset
    if first is not None and last is not None:
        yield first, last - first + 1
