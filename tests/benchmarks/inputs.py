"""What is measured with, made once a session: Nexmark events as a log and as files of JSON lines, and the right answers.

    python tests/benchmarks/inputs.py FOLDER EVENTS [no-memory]

makes in ``FOLDER``: ``bus-1`` and ``bus-2``, data folders whose stream ``nexmark`` has one or two partitions (the first is for
runs in memory, and can be left out), ``person.jsonl``, ``auction.jsonl``, ``bid.jsonl``, and ``expected.json``: by query, how
many rows DuckDB answers, and a sum of their hashes.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb
import msgspec
import xxhash
from nexmark import generator
from nexmark.answers import FOLDER as QUERIES
from nexmark.generator import AUCTION, BID, PERSON, Settings
from nexmark.loading import load

from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import rfc3339

SETTINGS: Final = Settings(distinct_bidders=1000)
MEASURED: Final = ("q1", "q2", "q3", "q5", "q7", "q8", "q11", "sum_by_bidder")
_AT_ONCE: Final = 10_000
_COLUMNS: Final = {
    PERSON: "id bigint, name varchar, emailAddress varchar, creditCard varchar, city varchar, state varchar, dateTime bigint, "
    "extra varchar",
    AUCTION: "id bigint, itemName varchar, description varchar, initialBid bigint, reserve bigint, dateTime bigint, "
    "expires bigint, seller bigint, category bigint, extra varchar",
    BID: "auction bigint, bidder bigint, price bigint, channel varchar, url varchar, dateTime bigint, extra varchar",
}


class Digest(NamedTuple):
    """Rows told apart whatever their order: how many there are, and the sum of their hashes."""

    rows: int
    hashes: int


def digest(rows: Iterable[dict[str, Any]]) -> Digest:
    """Times of windows may be text or milliseconds, and what is called ``price`` whole or not. A row may have a ``diff``, how
    often it is there (-1: it is taken back), beside the ``time`` of that."""
    encode, hashed = msgspec.json.Encoder(order="sorted").encode, xxhash.xxh3_64_intdigest
    count = total = 0
    for row in rows:
        for name in ("window_start", "window_end"):
            if isinstance(row.get(name), int):
                row[name] = rfc3339(row[name])
        if "price" in row:
            row["price"] = float(row["price"])
        times = row.pop("diff", 1)
        row.pop("time", None)
        count += times
        total += times * hashed(encode(row))
    return Digest(count, total % (1 << 64))


def check(folder: Path, query: str, rows: Iterable[dict[str, Any]]) -> None:
    """``AssertionError`` if these are not the rows that the query answers."""
    expected = Digest(*json.loads((folder / "expected.json").read_text())[query])
    found = digest(rows)
    if found != expected:
        raise AssertionError(f"{query}: {found.rows} rows that are not the {expected.rows} expected ones")


def tables(folder: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory with the views person, auction and bid over the files, read anew by each query."""
    database = duckdb.connect()
    for name, columns in _COLUMNS.items():
        types = ", ".join(f"'{column.split()[0]}': '{column.split()[1]}'" for column in columns.split(", "))
        file = folder / f"{name}.jsonl"
        database.execute(f"create view {name} as from read_json('{file}', format = 'newline_delimited', columns = {{{types}}})")
    return database


def sql_of(query: str) -> str:
    """The query in SQL."""
    return (QUERIES / f"queries/{query}.sql").read_text()


def answers(folder: Path, query: str) -> Iterator[dict[str, Any]]:
    """The rows that DuckDB answers."""
    with tables(folder) as database:
        result = database.execute(sql_of(query))
        names = [column[0] for column in result.description]
        while rows := result.fetchmany(_AT_ONCE):
            yield from (dict(zip(names, row, strict=True)) for row in rows)


def make(folder: Path, events: int, *, for_memory: bool = True) -> None:
    """Make all of it, in a folder that is not there yet."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.jsonl").open("wb")) for name in _COLUMNS}

        def written() -> Iterator[list[generator.Row]]:
            for batch in generator.batches(events, SETTINGS):
                for row in batch:
                    files[row.event_type].write(row.data + b"\n")
                yield batch

        with open_bus(folder / "bus-2") as bus:
            load(bus, written(), partitions=2)
    if for_memory:
        with open_bus(folder / "bus-1") as bus:
            load(bus, generator.batches(events, SETTINGS), partitions=1)
    expected = {query: digest(answers(folder, query)) for query in MEASURED}
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]), for_memory="no-memory" not in sys.argv)
