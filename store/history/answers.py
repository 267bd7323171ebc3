"""What the history answers with: the result of a query, and the story of one event."""

import base64
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
import pyarrow as pa

from event_streaming_bus.store.history.bounded import bounded
from event_streaming_bus.store.history.rows import PUBLISHER, VALIDATOR

Row = dict[str, Any]


class QueryResult(msgspec.Struct, frozen=True):
    """The answer to a query, as Arrow. ``truncated``: there was more than a query may answer with."""

    table: pa.Table
    truncated: bool = False

    @property
    def columns(self) -> list[str]:
        return list(self.table.column_names)

    @property
    def types(self) -> list[str]:
        return [str(field.type) for field in self.table.schema]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows as Python values; times are naive datetimes in UTC."""
        for batch in self.table.to_batches(max_chunksize=10_000):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def event_told(row: Row) -> Row:
    """A row of ``events`` for JSON: payload and metadata decoded, times as text.

    A payload that is no JSON is null, and its bytes are in ``payload_raw``, in base 64.
    """
    told: Row = {name: _utc(value) if isinstance(value, datetime) else value for name, value in row.items()}
    raw = told.pop("payload_raw")
    if raw is not None:
        told["payload_raw"] = base64.b64encode(raw).decode()
    for name in ("payload", "metadata"):
        told[name] = _decoded(told[name])
    return told


def history_told(event_id: str, steps: Sequence[Row], event: Row | None) -> Row:
    """The steps of an event's processing and their totals; ``event`` is what ``event_told`` made of it."""
    return {
        "event_id": event_id,
        "processing_history": [_step_told(step, event) for step in steps],
        "total_processing_time_ms": _whole(sum(step["processing_duration_ms"] for step in steps)),
        "stages_completed": sum(step["status"] != "FAILED" for step in steps),
        "overall_status": "FAILED" if any(step["status"] == "FAILED" for step in steps) else "COMPLETED",
    }


def _step_told(step: Row, event: Row | None) -> Row:
    told: Row = {
        "history_id": step["history_id"],
        "processor_id": step["processor_id"],
        "processor_name": step["processor_name"],
        "processing_stage": step["processing_stage"],
        "status": step["status"],
        "started_at": _utc(step["started_at"]),
        "completed_at": _utc(step["completed_at"]),
        "processing_duration_ms": _whole(step["processing_duration_ms"]),
    }
    if event is not None and step["processor_id"] in (PUBLISHER, VALIDATOR):
        payload = event["payload"]
        text = None if payload is None else msgspec.json.encode(payload).decode()
        told["input_data"] = {"event_type": event["event_type"], **bounded("payload", text, payload)}
    if step["output"] is not None:
        told["output_data"] = _decoded(step["output"])
    told["retry_count"] = step["retry_count"]
    return told | {name: step[name] for name in ("error_type", "error_message", "stack_trace") if step[name] is not None}


def _decoded(text: str | None) -> Any:
    """JSON decoded; what DuckDB takes for JSON but is none (as ``NaN``) stays text."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _utc(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds") + "Z"


def _whole(value: float) -> int | float:
    rounded = round(value, 3)
    return int(rounded) if rounded == int(rounded) else rounded
