"""History records expanded into rows of the history's tables."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

from event_streaming_bus.models import StreamInfo
from event_streaming_bus.store.history.bounded import bounded_text
from event_streaming_bus.store.history.columns import SCHEMAS, Columns
from event_streaming_bus.store.history.history_ids import history_ids, history_ids_of
from event_streaming_bus.store.history.masks import Masks, masked_payloads
from event_streaming_bus.store.history.neighbours import Gathering, Part, Publication, Publications
from event_streaming_bus.store.history.runs import RunReader
from event_streaming_bus.store.history_records import (
    DEAD_LETTER_STREAM,
    OUTCOME_STATUS,
    Late,
    Processed,
    ProcessorRun,
    Published,
    Rebalanced,
    Refused,
    Run,
    from_bytes,
)
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.redeliveries import delivered_ids

PUBLISHER: Final = "proc_publisher"
VALIDATOR: Final = "proc_validation"
MAX_ROWS: Final = 50_000
MAX_PAYLOAD_BYTES: Final = 32 << 20
_log: Final = logging.getLogger(__name__)

_ENVELOPE: Final = (
    *("event_id", "event_type", "source_capability", "aggregate_id", "aggregate_type", "key"),
    *("correlation_id", "causation_id", "user_id", "schema_id", "traceparent", "serialization_format", "max_retries"),
)
_WHY_DEAD: Final = (
    *("event_id", "stream_id", "stream", "lane", "partition", "offset", "processor_id", "processor_name", "step"),
    *("error_type", "error_message", "stack_trace", "attempts"),
)

Write = Callable[[str, pa.Table], object]
"""Takes rows of the named table."""


class Expander:
    """Makes rows from history records and hands them to ``write`` in tables of about ``MAX_ROWS`` rows.

    The ids of rows come from the record's offset and the event's place in it, so that a record always makes the same rows.
    Events that the log no longer holds make none: ``skipped_events`` counts them. ``skipped_records`` counts the records
    that could not be read to their end.
    """

    def __init__(self, log: EventLog, write: Write, masks: Masks | None = None) -> None:
        self._log = log
        self._masks = masks
        self._write = write
        self._streams: dict[str, StreamInfo] = {}
        self._reader = RunReader(log)
        self._columns = {table: Columns(table) for table in SCHEMAS}
        self._payload_bytes = self.payload_bytes = 0  # of the rows that are held, and of all
        self._record_offset: int | list[int] = 0  # one for each row, where they come of several records
        self._gathering = Gathering()
        self._rows = 0
        self.skipped_records = 0

    @property
    def rows(self) -> int:
        """How many rows were made so far, and will at least be made of what is gathered."""
        return self._rows + 2 * self._gathering.held

    @property
    def skipped_events(self) -> int:
        return self._reader.skipped_events

    def add(self, offset: int, data: bytes) -> None:
        """Expand the record ``data`` from ``offset`` of the stream ``_history``, at the latest with ``flush``."""
        self._record_offset = offset
        try:
            record = from_bytes(data)
            if isinstance(record, Published):
                for told in self._gathering.add(Publication(offset, record)):
                    self._gathered(told)
            elif isinstance(record, Processed):
                self._processed(offset, record)
            elif isinstance(record, Refused):
                self._refused(offset, record)
            elif isinstance(record, Late):
                self._late(record)
            elif isinstance(record, Rebalanced):
                self._rebalanced(record)
            else:
                self._run(record)
        except (ValueError, TypeError, LookupError):  # msgspec's errors are ValueErrors; one bad record must not stop the rest
            _log.exception("the history record at offset %d cannot be read; it is skipped", offset)
            self.skipped_records += 1

    def flush(self) -> None:
        """Write the rows that are still held."""
        for told in self._gathering.rest():
            self._gathered(told)
        self._write_out()

    def _write_out(self) -> None:
        for name, columns in self._columns.items():
            if columns.count:
                self._write(name, columns.take())
        self._payload_bytes = 0

    def _extend(self, table: str, count: int, **columns: Any) -> None:
        self._columns[table].extend(count, record_offset=self._record_offset, **columns)
        self._rows += count
        if self._payload_bytes >= MAX_PAYLOAD_BYTES or self._columns[table].count >= MAX_ROWS:
            self._write_out()

    def _gathered(self, told: Publications) -> None:
        try:
            self._published(told)
        except (ValueError, TypeError, LookupError):
            if len(told.parts) > 1:  # one bad event must not stop the others
                for part in told.parts:
                    self._gathered(Publications(part))
                return
            _log.exception("the history record at offset %d cannot be read; it is skipped", told.parts[0].offset)
            self.skipped_records += 1

    def _published(self, told: Publications) -> None:
        record = told.parts[0].record
        output = None
        if record.schema_id is not None:
            output = _json({"validation_result": "passed", "schema_version": record.schema_version})
        for first, batch in self._reader.batches(told.runs):
            parts = told.within(first, batch.count)
            appended_us = _spread(parts, lambda part: part.record.appended_us)
            self._record_offset = _spread(parts, lambda part: part.offset)
            self._events(batch, record.tenant_id, appended_us)
            if output is not None:
                started_us = _spread(parts, lambda part: part.record.validation_started_us)
                completed_us = _spread(parts, lambda part: part.record.validation_completed_us)
                ids, who = history_ids_of(parts, 0), (record.tenant_id, VALIDATOR, "validation", "VALIDATION")
                self._steps(batch, ids, *who, started_us, completed_us, output=output)
            accepted_us = _spread(parts, lambda part: part.record.accepted_us)
            ids, who = history_ids_of(parts), (record.tenant_id, PUBLISHER, "publisher", "PUBLISH")
            self._steps(batch, ids, *who, accepted_us, appended_us)

    def _refused(self, offset: int, record: Refused) -> None:
        told = _json({"validation_result": "failed", "schema_version": record.schema_version})
        for first, batch in self._reader.batches(record.runs):
            self._events(batch, record.tenant_id, record.observed_us, record.schema_id)
            self._steps(
                batch,
                history_ids(offset, first, batch.count, 0),
                record.tenant_id,
                VALIDATOR,
                "validation",
                "VALIDATION",
                record.observed_us,
                record.observed_us,
                status="FAILED",
                output=told,
                error_type="ValidationFailedError",
                error_message=[why.get("error_message") for why in _why_dead(batch)],
            )

    def _events(self, batch: RecordBatch, tenant_id: str, published_us: int | list[int], schema_id: str | None = None) -> None:
        """``schema_id``: that of the schema that the events broke."""
        columns: dict[str, Any] = {name: _values(batch, name) for name in _ENVELOPE}
        stream = self._stream(batch.split.stream_id)
        is_letter = stream is not None and stream.name == DEAD_LETTER_STREAM
        if stream is not None:
            codec = stream.config.compression_type
            same, own = batch.constant("compression_type")
            columns["compression_type"] = (own or codec) if same else [v or codec for v in batch.column("compression_type")]
        same, metadata = batch.constant("metadata")
        columns["metadata"] = _json(metadata) if same else [_json(value) for value in batch.column("metadata")]
        raw = batch.json_payloads()
        payloads = masked_payloads(self._masks, batch, raw, schema_id, is_letter=is_letter, schema_of=self._schema_of)
        size = sum(map(len, payloads))
        self._payload_bytes, self.payload_bytes = self._payload_bytes + size, self.payload_bytes + size
        if is_letter:
            self._dead_letters(batch, tenant_id, batch.payloads() if payloads is raw else payloads)
        self._extend(
            "events",
            batch.count,
            tenant_id=tenant_id,
            stream_id=batch.split.stream_id,
            stream=stream.name if stream is not None else None,
            lane=batch.split.lane.value,
            partition=batch.split.partition,
            offset=list(range(batch.offset, batch.offset + batch.count)),
            payload=payloads,
            timestamp=list(batch.timestamps_ms()),
            deliver_at=_values(batch, "deliver_at_ms"),
            expires_at=_values(batch, "expires_at_ms"),
            published_at=published_us,
            **columns,
        )

    def _schema_of(self, stream_id: str) -> str | None:
        stream = self._stream(stream_id)
        return None if stream is None else stream.config.schema_id

    def _dead_letters(self, batch: RecordBatch, tenant_id: str, payloads: list[bytes]) -> None:
        told = _why_dead(batch)
        self._extend(
            "dead_letters",
            batch.count,
            dead_letter_id=_values(batch, "event_id"),
            tenant_id=tenant_id,
            event_type=_values(batch, "event_type"),
            failed_at=[why.get("failed_at_ms") for why in told],
            payload_raw=payloads,
            **{name: [why.get(name) for why in told] for name in _WHY_DEAD},
        )

    def _processed(self, offset: int, record: Processed) -> None:
        errors = {error.index: error for error in record.errors}
        outcomes = record.outcomes * record.run.count if len(record.outcomes) == 1 else record.outcomes
        if len(outcomes) != record.run.count:
            raise ValueError(f"{len(outcomes)} outcomes for {record.run.count} events")
        for first, batch in self._reader.batches([record.run]):
            mine = outcomes[first : first + batch.count]
            same = mine.count(mine[0]) == len(mine)
            seen = None if same and mine[0] else [i for i, outcome in enumerate(mine) if outcome]
            if seen == []:
                continue
            places = range(batch.count) if seen is None else seen
            more: dict[str, Any] = {}
            found = [errors.get(first + i) for i in places] if errors else []
            if any(found):
                more = {
                    "error_type": [error and error.error_type for error in found],
                    "error_message": [error and error.message for error in found],
                    "stack_trace": [error and error.stack_trace for error in found],
                }
            self._steps(
                batch,
                history_ids(offset, first, batch.count) if seen is None else [history_ids(offset, first + i, 1)[0] for i in seen],
                record.tenant_id,
                record.processor_id,
                record.processor_name,
                record.stage,
                record.started_us,
                record.completed_us,
                status=OUTCOME_STATUS[mine[0]] if seen is None else [OUTCOME_STATUS[mine[i]] for i in seen],
                seen=seen,
                output=bounded_text(record.output),
                **more,
            )

    def _steps(
        self,
        batch: RecordBatch,
        history_ids: list[str],
        tenant_id: str,
        processor_id: str,
        processor_name: str,
        stage: str,
        started_us: int | list[int],
        completed_us: int | list[int],
        *,
        status: str | list[str] = "COMPLETED",
        seen: list[int] | None = None,
        **more: Any,
    ) -> None:
        stream = None if processor_id == PUBLISHER else self._stream(batch.split.stream_id)
        event_ids, offsets = delivered_ids(batch, stream), list(range(batch.offset, batch.offset + batch.count))
        if seen is not None:
            event_ids, offsets = [event_ids[i] for i in seen], [offsets[i] for i in seen]
        self._extend(
            "processing_history",
            len(history_ids),
            history_id=history_ids,
            event_id=event_ids,
            tenant_id=tenant_id,
            processor_id=processor_id,
            processor_name=processor_name,
            processing_stage=stage,
            status=status,
            started_at=started_us,
            completed_at=completed_us,
            processing_duration_ms=_duration_ms(started_us, completed_us),
            retry_count=0,
            stream_id=batch.split.stream_id,
            lane=batch.split.lane.value,
            partition=batch.split.partition,
            offset=offsets,
            **more,
        )

    def _late(self, record: Late) -> None:
        order = sorted(range(len(record.offsets)), key=record.offsets.__getitem__)
        neighbours = _neighbours([record.offsets[i] for i in order])
        runs = [Run(record.stream_id, record.lane, record.partition, offset, count) for offset, count in neighbours]
        event_ids: dict[int, str] = {}
        for _, batch in self._reader.batches(runs):
            event_ids.update(zip(range(batch.offset, batch.offset + batch.count), batch.column("event_id"), strict=True))
        kept = [i for i in order if record.offsets[i] in event_ids]
        stream = self._stream(record.stream_id)
        self._extend(
            "late_events",
            len(kept),
            event_id=[event_ids[record.offsets[i]] for i in kept],
            tenant_id=record.tenant_id,
            processor_id=record.processor_id,
            processor_name=record.processor_name,
            stream=stream.name if stream is not None else None,
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
        self._extend("processor_run_events", 1, observed_at=record.observed_us, **values)

    def _rebalanced(self, record: Rebalanced) -> None:
        self._extend(
            "rebalances",
            1,
            tenant_id=record.tenant_id,
            group_id=record.group_id,
            group_name=record.group_name,
            strategy=record.strategy,
            generation=record.generation,
            reason=record.reason,
            members_before=_json(sorted(record.before)),
            members_after=_json(sorted(record.after)),
            assignment_before=_json(_by_stream(record.before)),
            assignment_after=_json(_by_stream(record.after)),
            started_at=record.started_us,
            completed_at=record.completed_us,
            duration_ms=(record.completed_us - record.started_us) / 1000,
        )

    def _stream(self, stream_id: str) -> StreamInfo | None:
        if stream_id not in self._streams:
            self._streams = {info.stream_id: info for info in self._log.list_streams(internal=True)}
        return self._streams.get(stream_id)


def _spread(parts: Sequence[Part], value: Callable[[Publication], int]) -> int | list[int]:
    """A value of each publication as a column of its events: a single one, if there is but one."""
    if len(parts) == 1:
        return value(parts[0][0])
    return [each for part, _, count in parts for each in [value(part)] * count]


def _duration_ms(started_us: int | list[int], completed_us: int | list[int]) -> float | list[float]:
    if isinstance(started_us, list) and isinstance(completed_us, list):
        return [(completed - started) / 1000 for started, completed in zip(started_us, completed_us, strict=True)]
    assert isinstance(started_us, int)  # noqa: S101 - both are columns, or neither is
    assert isinstance(completed_us, int)  # noqa: S101
    return (completed_us - started_us) / 1000


def _why_dead(batch: RecordBatch) -> list[dict[str, Any]]:
    """What each dead letter tells of its death."""
    told = [metadata.get("dead_letter") if isinstance(metadata, dict) else None for metadata in batch.column("metadata")]
    return [why if isinstance(why, dict) else {} for why in told]


def _values(batch: RecordBatch, name: str) -> Any:
    """A column for ``Columns.extend``: one value where all are the same."""
    same, value = batch.constant(name)
    return value if same else list(batch.column(name))


def _by_stream(assignment: Mapping[str, Sequence[tuple[str, int]]]) -> dict[str, dict[str, list[int]]]:
    """The partitions of each member by the id of their stream."""
    told: dict[str, dict[str, list[int]]] = {}
    for member_id in sorted(assignment):
        mine: dict[str, list[int]] = told.setdefault(member_id, {})
        for stream_id, partition in assignment[member_id]:
            mine.setdefault(stream_id, []).append(partition)
    return told


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value, enc_hook=str).decode()


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
