"""Files of rows: NDJSON, CSV, Parquet and Avro, read piece by piece, so that memory does not grow with the file.

A CSV column gets one type from all of its values, so that a late value changes no earlier one: whole numbers, numbers (both as
JSON writes them), true and false, or else text. Empty and ``NA`` are null. Text stays text where a number would lose
something of it: leading zeros (``007``), and whole numbers beyond 64 bits.
"""

import base64
import gzip
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final
from uuid import UUID

import msgspec

from event_streaming_bus.errors import InvalidInputError

FORMATS: Final = ("ndjson", "csv", "parquet", "avro")
NULLS: Final = ("", "NA")
_SUFFIXES: Final = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
    ".csv": "csv",
    ".parquet": "parquet",
    ".avro": "avro",
}
_MAX_LINE_BYTES: Final = 64 << 20
_MAX_RAGGED: Final = 10_000
_INTEGER: Final = r"^-?(0|[1-9][0-9]*)$"
_NUMBER: Final = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_BOOLEAN: Final = r"^(true|false|TRUE|FALSE|True|False)$"
_LONG_INTEGER: Final = r"^-?[0-9]{16,}$"

Row = tuple[int, dict[str, Any] | None, str]
"""``(number, the row or None, what is wrong with it)``. NDJSON counts lines, the others rows (after the header), from 1."""


def format_of(path: str, given: str | None) -> str:
    """The format of a file: as given, or by its suffix; standard input (``-``) has NDJSON."""
    if given is not None:
        return given
    if path == "-":
        return "ndjson"
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise InvalidInputError(f"{path}: cannot tell its format; name it with --format {'|'.join(FORMATS)}")


class RowFile:
    """A file of rows, or standard input for ``-``. ``done`` of ``total`` (bytes or rows) tell how far it has been read."""

    def __init__(self, path: str, form: str) -> None:
        self.unit = "line" if form == "ndjson" else "row"
        self.done = 0
        self.total: int | None = None
        self._path = path
        self._form = form

    def rows(self) -> Iterator[Row]:
        """Every row. Raises ``InvalidInputError`` for a file that cannot be read at all, or not to its end."""
        import pyarrow as pa

        readers = {"ndjson": self._ndjson, "csv": self._csv, "parquet": self._parquet, "avro": self._avro}
        try:
            if self._path == "-" and self._form != "ndjson":
                with _spooled() as path:
                    yield from readers[self._form](path)
            else:
                yield from readers[self._form](self._path)
        except FileNotFoundError:
            raise InvalidInputError(f"{self._path}: there is no such file") from None
        except (OSError, EOFError) as error:
            raise InvalidInputError(f"{self._path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        except pa.ArrowException as error:
            raise InvalidInputError(f"{self._path}: {error}") from error

    def _ndjson(self, path: str) -> Iterator[Row]:
        decoder = msgspec.json.Decoder(dict[str, Any])
        with _opened(path) as (file, raw):
            self.total = _size(path)
            number = 0
            while line := file.readline(_MAX_LINE_BYTES):
                number += 1
                self.done = _position(raw)
                if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                    raise InvalidInputError(f"{self._path}, line {number}: longer than {_MAX_LINE_BYTES:,} bytes")
                if not line.strip():
                    continue
                try:
                    yield number, decoder.decode(line), ""
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    hint = "; each line must hold one whole object" if number == 1 else ""
                    yield number, None, f"not a JSON object: {error}{hint}"

    def _csv(self, path: str) -> Iterator[Row]:
        from pyarrow import csv

        ragged: dict[int, str] = {}
        convert = csv.ConvertOptions(column_types=csv_types(path, ragged), null_values=list(NULLS), strings_can_be_null=True)
        with _opened(path) as (file, raw), _csv_reader(file, convert, {}) as reader:
            self.total = _size(path)
            number = 0
            for batch in reader:
                self.done = _position(raw)
                for row in batch.to_pylist():
                    number += 1
                    while number in ragged:
                        yield number, None, ragged[number]
                        number += 1
                    yield number, row, ""
            for number in sorted(left for left in ragged if left > number):
                yield number, None, ragged[number]

    def _parquet(self, path: str) -> Iterator[Row]:
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            self.total = file.metadata.num_rows
            for batch in file.iter_batches(10_000):
                for row in batch.to_pylist():
                    self.done += 1
                    try:
                        yield self.done, {name: _plain(value) for name, value in row.items()}, ""
                    except ValueError as error:
                        yield self.done, None, str(error)

    def _avro(self, path: str) -> Iterator[Row]:
        import fastavro

        with _opened(path) as (file, raw):
            self.total = _size(path)
            number = 0
            try:
                for record in fastavro.reader(file):
                    number += 1
                    self.done = _position(raw)
                    if isinstance(record, dict):
                        yield number, _plain(record, binary=True), ""
                    else:
                        yield number, None, "not a record"
            except (ValueError, EOFError, IndexError, KeyError, TypeError) as error:
                place = f", row {number + 1}" if number else ""
                raise InvalidInputError(f"{self._path}{place}: cannot be read as an Avro file: {error}") from error


def csv_types(path: str, ragged: dict[int, str] | None = None) -> dict[str, Any]:
    """The Arrow type of each column of a CSV file, from all of its values, read as text a block at a time.

    Rows with too few or too many values go to ``ragged`` by their number, with the reason; without it they are an error.
    """
    import pyarrow as pa
    from pyarrow import csv

    with _opened(path) as (file, _), _csv_reader(file, csv.ConvertOptions(), {}) as reader:
        names = reader.schema.names
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InvalidInputError(f"{path}: the column {twice[0]!r} is there twice")
    kinds: dict[str, list[Any]] = {name: [pa.int64(), pa.float64(), pa.bool_()] for name in names}
    seen: set[str] = set()  # the columns with a value in them; the others stay null whatever their type
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=list(NULLS), strings_can_be_null=True
    )
    with _opened(path) as (file, _), _csv_reader(file, convert, ragged) as reader:
        for batch in reader:
            for name, column in zip(names, batch.columns, strict=True):
                if column.null_count < len(column):
                    seen.add(name)
                    kinds[name] = [kind for kind in kinds[name] if _fits(column, kind)]
    return {name: left[0] if left and name in seen else pa.string() for name, left in kinds.items()}


def _fits(column: Any, kind: Any) -> bool:
    """Whether each value of a text column is of this kind, without any loss."""
    import pyarrow as pa
    from pyarrow import compute

    def each(pattern: str) -> bool:
        return bool(compute.all(compute.match_substring_regex(column, pattern)).as_py())

    if kind == pa.bool_():
        return each(_BOOLEAN)
    if not each(_INTEGER if kind == pa.int64() else _NUMBER):
        return False
    if kind == pa.int64():
        try:
            column.cast(kind)
        except pa.ArrowInvalid:  # beyond 64 bits
            return False
        return True
    long = compute.any(compute.match_substring_regex(column, _LONG_INTEGER)).as_py()
    return not long and bool(compute.all(compute.is_finite(column.cast(kind))).as_py())


def _csv_reader(file: IO[bytes], convert: Any, ragged: dict[int, str] | None) -> Any:
    from pyarrow import csv

    def handle(row: Any) -> str:
        if ragged is None or len(ragged) >= _MAX_RAGGED:
            return "error"
        # Arrow counts the header as a row.
        ragged[row.number - 1] = f"{row.actual_columns} values, but {row.expected_columns} columns"
        return "skip"

    return csv.open_csv(
        file,
        read_options=csv.ReadOptions(use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=handle),
        convert_options=convert,
    )


@contextmanager
def _opened(path: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """``(the file's contents, the file on disk)``; the two differ where it is compressed."""
    if path == "-":
        yield sys.stdin.buffer, sys.stdin.buffer
        return
    with Path(path).open("rb") as raw:
        if path.endswith(".gz"):
            with gzip.open(raw, "rb") as file:
                yield file, raw  # type: ignore[misc]
        else:
            yield raw, raw


@contextmanager
def _spooled() -> Iterator[str]:
    """Standard input in a temporary file, for formats that are not read from front to back once."""
    with tempfile.NamedTemporaryFile(prefix="esb-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield file.name


def _size(path: str) -> int | None:
    return None if path == "-" else Path(path).stat().st_size


def _position(raw: IO[bytes]) -> int:
    return raw.tell() if raw.seekable() else 0


def _plain(value: Any, *, binary: bool = False) -> Any:
    """A value as JSON has it: times as RFC 3339 text (UTC if they name no zone), decimals as numbers where these are exact,
    and with ``binary`` bytes as base64 text. Raises ``ValueError`` where there is no way."""
    if isinstance(value, datetime):
        return value.isoformat() + ("" if value.tzinfo else "Z")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        number = int(value) if value == value.to_integral_value() else float(value)
        return number if Decimal(repr(number)) == value else str(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        if binary:
            return base64.b64encode(value).decode()
        raise ValueError("binary values have no place in JSON")
    if isinstance(value, list):
        return [_plain(each, binary=binary) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each, binary=binary) for name, each in value.items()}
    return value
