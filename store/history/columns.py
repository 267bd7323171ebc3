"""The tables of the history as columns: collected from history records, handed to DuckDB as Arrow."""

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

_US: Final = pa.timestamp("us")
_MS: Final = pa.timestamp("ms")
_TEXT, _INT, _BIG = pa.string(), pa.int32(), pa.int64()
_FEW: Final = 64  # so many equal values are not worth a part of their own
# The years 1 to 9999, which datetime can hold as well.
_TIME_RANGE: Final = {
    _MS: (-62_135_596_800_000, 253_402_300_799_999),
    _US: (-62_135_596_800_000_000, 253_402_300_799_999_999),
}

# Each table has the offset of the record in the stream _history that a row was made from as well; views leave it out.
SCHEMAS: Final[dict[str, dict[str, pa.DataType]]] = {
    "events": {
        **dict.fromkeys(("event_id", "tenant_id", "stream_id", "stream", "lane"), _TEXT),
        "partition": _INT,
        "offset": _BIG,
        **dict.fromkeys(("event_type", "source_capability", "aggregate_id", "aggregate_type", "key"), _TEXT),
        "payload": pa.binary(),
        **dict.fromkeys(("metadata", "correlation_id", "causation_id", "user_id", "schema_id"), _TEXT),
        **dict.fromkeys(("traceparent", "serialization_format", "compression_type"), _TEXT),
        "max_retries": _INT,
        **dict.fromkeys(("timestamp", "deliver_at", "expires_at"), _MS),
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
        **dict.fromkeys(("dead_letter_id", "tenant_id", "event_id", "event_type", "stream_id", "stream", "lane"), _TEXT),
        "partition": _INT,
        "offset": _BIG,
        **dict.fromkeys(("processor_id", "processor_name", "step"), _TEXT),
        **dict.fromkeys(("error_type", "error_message", "stack_trace"), _TEXT),
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
    "rebalances": {
        **dict.fromkeys(("tenant_id", "group_id", "group_name", "strategy"), _TEXT),
        "generation": _BIG,
        **dict.fromkeys(("reason", "members_before", "members_after", "assignment_before", "assignment_after"), _TEXT),
        "started_at": _US,
        "completed_at": _US,
        "duration_ms": pa.float64(),
    },
}


for _columns in SCHEMAS.values():
    _columns["record_offset"] = _BIG


class _Same:
    """One value ``count`` times."""

    __slots__ = ("count", "value")

    def __init__(self, value: Any, count: int) -> None:
        self.value = value
        self.count = count


class Columns:
    """The rows of one table, column by column. A value that its column cannot hold becomes NULL: no row is lost for it."""

    def __init__(self, table: str) -> None:
        self._types = SCHEMAS[table]
        self._parts: dict[str, list[list[Any] | _Same]] = {name: [] for name in self._types}
        self.count = 0

    def extend(self, count: int, **columns: Any) -> None:
        """Add ``count`` rows: a list is a column of values, anything else is the same for all; what is not named is NULL."""
        for name, parts in self._parts.items():
            given = columns.get(name)
            last = parts[-1] if parts else None
            if isinstance(given, list) or count < _FEW:
                values = given if isinstance(given, list) else [given] * count
                if isinstance(last, list):
                    last += values
                else:
                    parts.append(list(values))
            elif isinstance(last, _Same) and last.value == given:
                last.count += count
            else:
                parts.append(_Same(given, count))
        self.count += count

    def take(self) -> pa.Table:
        """The rows as an Arrow table; there are none afterwards.

        ``events.payload`` comes as two columns: ``payload`` where the bytes are UTF-8, ``payload_raw`` where they are not.
        """
        arrays: dict[str, pa.Array] = {}
        for name, kind in self._types.items():
            arrays[name] = pa.concat_arrays([_part(part, kind) for part in self._parts[name]])
            self._parts[name] = []
        if "payload" in arrays:
            arrays["payload"], arrays["payload_raw"] = _texts(arrays["payload"])
        self.count = 0
        return pa.table(arrays)


def _part(part: list[Any] | _Same, kind: pa.DataType) -> pa.Array:
    if isinstance(part, list):
        return _array(part, kind)
    return pa.nulls(part.count, kind) if part.value is None else pa.repeat(_array([part.value], kind)[0], part.count)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind in _TIME_RANGE:
        low, high = _TIME_RANGE[kind]
        numbers = _array(values, _BIG)
        extremes = pc.min_max(numbers).as_py()
        if extremes["min"] is not None and not low <= extremes["min"] <= extremes["max"] <= high:
            numbers = pa.array([None if v is None or not low <= v <= high else v for v in numbers.to_pylist()], _BIG)
        return numbers.view(kind)
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array([_fitting(value, kind) for value in values], type=kind)


def _fitting(value: Any, kind: pa.DataType) -> Any:
    try:
        pa.scalar(value, type=kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return None
    return value


def _texts(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The values as text, and those that are no UTF-8 as bytes; each is NULL where the other is not."""
    try:
        return values.cast(_TEXT), pa.nulls(len(values), pa.binary())
    except pa.ArrowException:
        text = pa.array([_decoded(value) for value in values.to_pylist()], _TEXT)
        return text, pc.if_else(text.is_null(), values, pa.scalar(None, pa.binary()))


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
