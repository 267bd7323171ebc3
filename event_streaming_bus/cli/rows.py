"""Files of rows: NDJSON, CSV and Parquet, read piece by piece, so that memory does not grow with the file.

A CSV column gets one type from all of its values: integers, numbers, true and false, or text. Empty and ``NA`` are null. A
column of digits with leading zeros is a column of integers; publish NDJSON to keep such text.
"""

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from event_streaming_bus.errors import InvalidInputError

FORMATS: Final = ("ndjson", "csv", "parquet")
_SUFFIXES: Final = {".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".csv": "csv", ".parquet": "parquet"}
NULLS: Final = ("", "NA")

Row = tuple[int, dict[str, Any] | None, str]
"""``(number of the row or line, from 1; the row, or None; what is wrong with it)``"""


def format_of(path: str, given: str | None) -> str:
    """The format of a file: as given, or by its suffix."""
    if given is not None:
        return given
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise InvalidInputError(f"{path}: cannot tell its format; name it with --format {'|'.join(FORMATS)}")


def read_rows(path: str, form: str) -> Iterator[Row]:
    """The rows of a file, or of stdin for ``-``. Raises ``InvalidInputError`` for a file that cannot be read at all."""
    try:
        if form == "ndjson":
            yield from _ndjson(path)
        elif form == "csv":
            yield from _csv(path)
        else:
            yield from _parquet(path)
    except FileNotFoundError:
        raise InvalidInputError(f"{path}: there is no such file") from None
    except (OSError, EOFError) as error:
        raise InvalidInputError(f"{path}: cannot be read: {error}") from error


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
    elif path.endswith(".gz"):
        with gzip.open(path, "rb") as file:
            yield file  # type: ignore[misc]
    else:
        with Path(path).open("rb") as file:
            yield file


def _ndjson(path: str) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, decoder.decode(line), ""
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                yield number, None, f"not a JSON object: {error}"


def _csv(path: str) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import csv

    if path == "-":
        raise InvalidInputError("csv from standard input is not possible, for each column is looked at twice; name a file")
    convert: dict[str, Any] = {"null_values": list(NULLS), "strings_can_be_null": True, "timestamp_parsers": ["-"]}
    try:
        types = _csv_types(path)
        options = csv.ConvertOptions(column_types=types, **convert)
        with _opened(path) as file, csv.open_csv(file, convert_options=options) as reader:
            number = 1  # the header is line 1
            for batch in reader:
                for row in batch.to_pylist():
                    number += 1
                    yield number, row, ""
    except pa.ArrowException as error:
        raise InvalidInputError(f"{path}: {error}") from error


def _csv_types(path: str) -> dict[str, Any]:
    """The type of each column, from all of its values, read as text a block at a time."""
    import pyarrow as pa
    from pyarrow import compute, csv

    with _opened(path) as file:
        names = csv.open_csv(file).schema.names
    candidates: dict[str, list[Any]] = {name: [pa.int64(), pa.float64(), pa.bool_(), pa.string()] for name in names}
    options = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=list(NULLS), strings_can_be_null=True
    )
    with _opened(path) as file, csv.open_csv(file, convert_options=options) as reader:
        for batch in reader:
            for name, column in zip(names, batch.columns, strict=True):
                while len(candidates[name]) > 1:
                    try:
                        if (
                            candidates[name][0] == pa.bool_()
                            and not compute.all(compute.is_in(column, pa.array(["true", "false", "TRUE", "FALSE", None]))).as_py()
                        ):
                            raise pa.ArrowInvalid
                        column.cast(candidates[name][0])
                        break
                    except pa.ArrowInvalid:
                        candidates[name].pop(0)
    return {name: kinds[0] for name, kinds in candidates.items()}


def _parquet(path: str) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    if path == "-":
        raise InvalidInputError("parquet from standard input is not possible; name a file")
    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(10_000):
            for row in batch.to_pylist():
                number += 1
                yield number, {name: _plain(value) for name, value in row.items()}, ""
    except pa.ArrowException as error:
        raise InvalidInputError(f"{path}: {error}") from error


def _plain(value: Any) -> Any:
    """Times as RFC 3339 text; what JSON has stays as it is."""
    if isinstance(value, datetime):
        return value.isoformat() + ("" if value.tzinfo else "Z")
    return value.isoformat() if isinstance(value, date) else value
