"""The forms in which answers are written, piece by piece: no more than a few batches of rows are in memory at a time."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec
import pyarrow as pa

_PIECE_BYTES: Final = 1 << 16
_GROUP_ROWS: Final = 1 << 16
_GROUP_BYTES: Final = 16 << 20
TRUNCATED: Final = b"truncated"
"""What Arrow and Parquet answers say of themselves if they are not whole: the value is ``true``."""


class AnswerFormat(StrEnum):
    """``JSON``: one object with columns, types and rows. ``NDJSON``: an object a row. ``ARROW``: an Arrow IPC stream."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


MEDIA_TYPES: Final[Mapping[AnswerFormat, str]] = {
    AnswerFormat.JSON: "application/json",
    AnswerFormat.NDJSON: "application/x-ndjson",
    AnswerFormat.CSV: "text/csv",
    AnswerFormat.ARROW: "application/vnd.apache.arrow.stream",
    AnswerFormat.PARQUET: "application/vnd.apache.parquet",
}


def written(
    form: AnswerFormat, schema: pa.Schema, batches: Iterable[pa.RecordBatch], is_truncated: Callable[[], bool]
) -> Iterator[bytes]:
    """The answer in a form, in pieces of some 64 KiB or more. ``is_truncated`` is asked after the last batch; CSV and NDJSON have
    no place to say it."""
    return _WRITERS[form](schema, batches, is_truncated)


def _json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], is_truncated: Callable[[], bool]) -> Iterator[bytes]:
    told = {"columns": schema.names, "types": [str(field.type) for field in schema]}
    piece = bytearray(msgspec.json.encode(told)[:-1] + b',"rows":[')
    comma = b""
    for batch in batches:
        rows = msgspec.json.encode(list(rows_of(batch)), enc_hook=str)
        piece += comma + rows[1:-1]
        comma = b","
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + b'],"truncated":' + (b"true}" if is_truncated() else b"false}")


def _ndjson(schema: pa.Schema, batches: Iterable[pa.RecordBatch], is_truncated: Callable[[], bool]) -> Iterator[bytes]:
    names, piece = schema.names, bytearray()
    for batch in batches:
        for row in rows_of(batch):
            piece += msgspec.json.encode({name: json_value(v) for name, v in zip(names, row, strict=True)}) + b"\n"
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], is_truncated: Callable[[], bool]) -> Iterator[bytes]:
    piece = io.StringIO()
    writer = csv.writer(piece, lineterminator="\n")
    writer.writerow(schema.names)
    for batch in batches:
        writer.writerows([csv_value(value) for value in row] for row in rows_of(batch))
        if piece.tell() >= _PIECE_BYTES:
            yield piece.getvalue().encode("utf-8", "replace")
            piece.seek(0)
            piece.truncate()
    if piece.tell():
        yield piece.getvalue().encode("utf-8", "replace")


def _arrow(schema: pa.Schema, batches: Iterable[pa.RecordBatch], is_truncated: Callable[[], bool]) -> Iterator[bytes]:
    sink = _Sink()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            if sink.size >= _PIECE_BYTES:
                yield sink.take()
        if is_truncated():
            empty = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
            writer.write_batch(empty, custom_metadata={TRUNCATED: b"true"})
    yield sink.take()


def _parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], is_truncated: Callable[[], bool]) -> Iterator[bytes]:
    from pyarrow import parquet

    sink = _Sink()
    group: list[pa.RecordBatch] = []
    rows = size = 0
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in batches:
            group.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group, schema))
                group, rows, size = [], 0, 0
                yield sink.take()
        if group:
            writer.write_table(pa.Table.from_batches(group, schema))
        if is_truncated():
            writer.add_key_value_metadata({TRUNCATED.decode(): "true"})
    yield sink.take()


_WRITERS: Final = {
    AnswerFormat.JSON: _json,
    AnswerFormat.NDJSON: _ndjson,
    AnswerFormat.CSV: _csv,
    AnswerFormat.ARROW: _arrow,
    AnswerFormat.PARQUET: _parquet,
}


class _Sink(io.RawIOBase):
    """A file that is read away while it is written."""

    def __init__(self) -> None:
        self._piece = bytearray()
        self._before = 0

    @property
    def size(self) -> int:
        return len(self._piece)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._piece += view
        return view.nbytes

    def tell(self) -> int:
        return self._before + len(self._piece)

    def take(self) -> bytes:
        taken = bytes(self._piece)
        self._before += len(taken)
        self._piece.clear()
        return taken


def rows_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch as Python values; times are naive datetimes in UTC."""
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)


def json_value(value: Any) -> Any:
    """A value as JSON has it: whole decimals (sums of integers) as integers, times as RFC 3339 text in UTC."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds") + ("" if value.tzinfo else "Z")
    if isinstance(value, list):
        return [json_value(each) for each in value]
    if isinstance(value, dict):
        return {str(name): json_value(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if value is None or isinstance(value, str | int | float) else str(value)


def csv_value(value: Any) -> Any:
    """A value as CSV has it: lists and objects as JSON."""
    if isinstance(value, list | dict):
        return msgspec.json.encode(json_value(value)).decode()
    return value if isinstance(value, Decimal) else json_value(value)
