"""The right answers: each query as DuckDB SQL (``queries/*.sql``) over the same events, in the tables person, auction and bid.

A row is what a flow writes as a payload. SQL knows times as epoch milliseconds; ``window_start`` and ``window_end`` are
turned into the text that flows write.
"""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import duckdb
import msgspec
import pyarrow as pa

from event_streaming_bus.models import rfc3339

from .generator import AUCTION, BID, PERSON, Row

FOLDER: Final = Path(__file__).parent
QUERIES: Final = tuple(sorted((file.stem for file in FOLDER.glob("queries/*.sql")), key=lambda name: (len(name), name)))
_WINDOW_TIMES: Final = ("window_start", "window_end")


class _Person(msgspec.Struct, rename="camel"):
    id: int
    name: str
    email_address: str
    credit_card: str
    city: str
    state: str
    date_time: int
    extra: str


class _Auction(msgspec.Struct, rename="camel"):
    id: int
    item_name: str
    description: str
    initial_bid: int
    reserve: int
    date_time: int
    expires: int
    seller: int
    category: int
    extra: str


class _Bid(msgspec.Struct, rename="camel"):
    auction: int
    bidder: int
    price: int
    channel: str
    url: str
    date_time: int
    extra: str


_TABLES: Final[dict[str, type[msgspec.Struct]]] = {PERSON: _Person, AUCTION: _Auction, BID: _Bid}


def flow_file(query: str) -> Path:
    """The flow file of a query. It reads the stream ``nexmark`` and writes the stream ``<query>_answer``."""
    return FOLDER / f"{query}.yaml"


class Answers:
    """A DuckDB in memory that holds events. To be closed, or used in a ``with``."""

    def __init__(self, rows: Iterable[Row]) -> None:
        lines: dict[str, list[bytes]] = {name: [] for name in _TABLES}
        for row in rows:
            lines[row.event_type].append(row.data)
        self._database = duckdb.connect()
        for name, struct in _TABLES.items():
            self._database.register(f"{name}_events", _table(struct, lines[name]))
            self._database.execute(f"create table {name} as from {name}_events")
            self._database.unregister(f"{name}_events")

    def __enter__(self) -> "Answers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The payloads that are the answer to a query, in no order."""
        result = self._database.execute((FOLDER / f"queries/{query}.sql").read_text())
        names = [column[0] for column in result.description]
        rows = [dict(zip(names, values, strict=True)) for values in result.fetchall()]
        for name in _WINDOW_TIMES:
            if name in names:
                for row in rows:
                    row[name] = rfc3339(row[name])
        return rows


def _table(struct: type[msgspec.Struct], lines: list[bytes]) -> pa.Table:
    """The payloads as an Arrow table with a column for each field, which is text or a 64-bit integer."""
    rows: list[Any] = msgspec.json.decode(b"[" + b",".join(lines) + b"]", type=list[struct])  # type: ignore[valid-type]
    names = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    return pa.table(
        {
            encoded: pa.array([getattr(row, field.name) for row in rows], pa.string() if field.type is str else pa.int64())
            for encoded, field in names.items()
        }
    )
