"""Files of rows: what each format's values become, and how a bad row or file is told."""

import gzip
import io
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import fastavro
import pyarrow as pa
import pytest
from pyarrow import parquet

from event_streaming_bus.cli.rows import Row, RowFile, format_of
from event_streaming_bus.errors import InvalidInputError


def rows_of(path: Path, form: str) -> list[Row]:
    return list(RowFile(str(path), form).rows())


def csv_rows(folder: Path, text: str) -> list[Row]:
    file = folder / "rows.csv"
    file.write_text(text, encoding="utf-8")
    return rows_of(file, "csv")


def column(folder: Path, *values: str) -> list[Any]:
    """The values of a CSV column, as they are read."""
    return [row["x"] for _, row, _ in csv_rows(folder, "n,x\n" + "".join(f"1,{v}\n" for v in values)) if row is not None]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.ndjson", "ndjson"),
        ("a.jsonl.gz", "ndjson"),
        ("a.JSON", "ndjson"),
        ("a.b.csv", "csv"),
        ("a.csv.gz", "csv"),
        ("a.parquet", "parquet"),
        ("a.avro", "avro"),
        ("-", "ndjson"),
    ],
)
def test_the_suffix_tells_the_format(name: str, expected: str) -> None:
    assert format_of(name, None) == expected


def test_a_given_format_goes_before_the_suffix() -> None:
    assert format_of("a.csv", "ndjson") == "ndjson"


@pytest.mark.parametrize("name", ["flights.xlsx", "flights", "flights.gz"])
def test_an_unknown_suffix_asks_for_the_format(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"--format ndjson\|csv\|parquet\|avro"):
        format_of(name, None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-20", ""], [1, -20, None]),
        (["1", "2.5", "NA"], [1.0, 2.5, None]),
        (["1e3", "-0.5"], [1000.0, -0.5]),
        (["true", "FALSE", ""], [True, False, None]),
        (["1", "true"], ["1", "true"]),
        (["007", "12"], ["007", "12"]),
        (["00.5", "1"], ["00.5", "1"]),
        (["+1", "2"], ["+1", "2"]),
        (["0x1F", "2"], ["0x1F", "2"]),
        (["nan", "1.5"], ["nan", "1.5"]),
        (["1e999", "1.5"], ["1e999", "1.5"]),
        (["9223372036854775807"], [9223372036854775807]),
        (["9223372036854775808"], ["9223372036854775808"]),
        (["1234567890123456789", "0.5"], ["1234567890123456789", "0.5"]),
        (["2013-01-01"], ["2013-01-01"]),
        (["2013-01-01T10:00:00Z"], ["2013-01-01T10:00:00Z"]),
        (["NA", ""], [None, None]),
    ],
)
def test_a_csv_column_has_the_one_type_that_fits_all_of_its_values(
    tmp_path: Path, values: list[str], expected: list[Any]
) -> None:
    found = column(tmp_path, *values)
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_a_value_beyond_the_first_block_changes_the_type_of_the_whole_column(tmp_path: Path) -> None:
    count = 200_000
    found = column(tmp_path, *(["1"] * count), "x")
    assert found[0] == "1"
    assert found[-1] == "x"
    assert len(found) == count + 1


def test_a_quoted_csv_value_may_hold_commas_and_lines(tmp_path: Path) -> None:
    assert csv_rows(tmp_path, 'a,b\n"x,\ny",1\nz,2\n') == [(1, {"a": "x,\ny", "b": 1}, ""), (2, {"a": "z", "b": 2}, "")]


def test_a_ragged_csv_row_is_told_with_its_number_and_the_others_are_read(tmp_path: Path) -> None:
    assert csv_rows(tmp_path, "a,b\n1,2\n3,4,5\n6\n7,8\n9\n") == [
        (1, {"a": 1, "b": 2}, ""),
        (2, None, "3 values, but 2 columns"),
        (3, None, "1 values, but 2 columns"),
        (4, {"a": 7, "b": 8}, ""),
        (5, None, "1 values, but 2 columns"),
    ]


@pytest.mark.parametrize(("text", "told"), [("", "Empty CSV file"), ("a,a\n1,2\n", "'a' is there twice")])
def test_a_csv_file_without_usable_columns_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        csv_rows(tmp_path, text)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(InvalidInputError, match=r"rows\.csv: "):
        rows_of(file, "csv")


def test_gzip_is_read_transparently(tmp_path: Path) -> None:
    for name, form, text in (("a.csv.gz", "csv", "a\n1\n"), ("a.ndjson.gz", "ndjson", '{"a":1}\n')):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        assert rows_of(tmp_path / name, form) == [(1, {"a": 1}, "")]


def test_a_truncated_gzip_file_is_told_after_its_readable_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson.gz"
    file.write_bytes(gzip.compress(b"".join(b'{"a":%d}\n' % i for i in range(50_000)))[:-2000])
    found = []
    with pytest.raises(InvalidInputError, match=r"a\.ndjson\.gz: cannot be read"):
        found.extend(RowFile(str(file), "ndjson").rows())


def test_ndjson_counts_lines_and_tells_the_bad_ones(tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    file.write_text('{"a": 1}\n\n[1]\n{"a": \n{"a": 2}')
    found = rows_of(file, "ndjson")
    assert [(number, row) for number, row, _ in found] == [(1, {"a": 1}), (3, None), (4, None), (5, {"a": 2})]
    assert found[1][2].startswith("not a JSON object")


def test_a_json_array_is_told_to_be_one_object_a_line(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('[{"a": 1}]')
    assert "each line must hold one whole object" in rows_of(file, "ndjson")[0][2]


def test_parquet_values_become_json_values(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    table = pa.table(
        {
            "at": [datetime(2013, 1, 1, 10, tzinfo=UTC)],
            "day": [date(2013, 1, 1)],
            "nested": [{"days": [date(2013, 1, 2)], "none": None}],
            "n": [3],
        }
    )
    parquet.write_table(table, file)
    expected = {
        "at": "2013-01-01T10:00:00+00:00",
        "day": "2013-01-01",
        "nested": {"days": ["2013-01-02"], "none": None},
        "n": 3,
    }
    assert rows_of(file, "parquet") == [(1, expected, "")]


def test_a_parquet_row_with_bytes_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"x": [b"\x00", None]}), file)
    assert rows_of(file, "parquet") == [(1, None, "binary values have no place in JSON"), (2, {"x": None}, "")]


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_text("not parquet")
    with pytest.raises(InvalidInputError, match=r"a\.parquet: "):
        rows_of(file, "parquet")


def test_csv_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a\n1\nx\n")))
    assert list(RowFile("-", "csv").rows()) == [(1, {"a": "1"}, ""), (2, {"a": "x"}, "")]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="there is no such file"):
        rows_of(tmp_path / "none.csv", "csv")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        rows_of(tmp_path, "ndjson")


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_progress_reaches_the_size_of_the_file(tmp_path: Path, form: str) -> None:
    file = tmp_path / "rows"
    file.write_text('{"a": 1}\n' * 1000 if form == "ndjson" else "a\n" + "1\n" * 1000)
    reading = RowFile(str(file), form)
    assert len(list(reading.rows())) == 1000
    assert reading.done == reading.total == file.stat().st_size


AVRO = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "raw", "type": "bytes"},
    ],
}


def test_avro_values_become_json_values(tmp_path: Path) -> None:
    file = tmp_path / "a.avro"
    row = {"id": UUID(int=1), "total": Decimal("12.50"), "at": datetime(2013, 1, 1, tzinfo=UTC), "raw": b"\x00"}
    with file.open("wb") as out:
        fastavro.writer(out, AVRO, [row, {**row, "total": Decimal("123456789012345678.25")}, {**row, "total": Decimal(7)}])
    rows = rows_of(file, "avro")
    expected = {"id": str(UUID(int=1)), "total": 12.5, "at": "2013-01-01T00:00:00+00:00", "raw": "AA=="}
    assert rows[0] == (1, expected, "")
    assert [row["total"] for _, row, _ in rows if row] == [12.5, "123456789012345678.25", 7]


@pytest.mark.parametrize("cut", [0, 3, -20])
def test_a_file_that_is_no_avro_or_cut_off_is_told(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "a.avro"
    with file.open("wb") as out:
        fastavro.writer(out, {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}, [{"a": 1}] * 50)
    file.write_bytes(file.read_bytes()[: cut or 0])
    with pytest.raises(InvalidInputError, match=r"a\.avro.*cannot be read as an Avro file"):
        rows_of(file, "avro")
