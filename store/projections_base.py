"""What the database of a projection can do, whichever engine it is in: tables of rows, and how far they have come.

The rows and the position go into one transaction, so that an event counts once, whatever happens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec

from event_streaming_bus.models import JsonValue

MAX_FOUND_ROWS: Final = 100_000
"""How many rows one look-up by other columns than the key may find."""
MAX_KEPT_SKIPPED: Final = 1000
"""How many skipped events are kept with their reason, the newest ones; all are counted."""
OWN_PREFIX: Final = "_esb_"
_MIN_INTEGER: Final = -(1 << 63)
_MAX_INTEGER: Final = (1 << 63) - 1
MIN_TIME_MS: Final = -62_135_596_800_000
MAX_TIME_MS: Final = 253_402_300_799_999

Row: TypeAlias = dict[str, Any]
"""A row with all of its columns: text, integers, floats, booleans, epoch milliseconds, JSON values, or null."""
Key: TypeAlias = tuple[Any, ...]
"""The values of a row's key columns, in the order of the key."""


class ColumnType(StrEnum):
    """What a column holds. ``timestamp`` is epoch milliseconds, ``number`` a float."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    JSON = "json"


_EXPECTED: Final = {
    ColumnType.TEXT: "text",
    ColumnType.INTEGER: "an integer of 64 bits",
    ColumnType.NUMBER: "a finite number",
    ColumnType.BOOLEAN: "true or false",
    ColumnType.TIMESTAMP: "epoch milliseconds",
}


class Column(msgspec.Struct, frozen=True):
    """A column; ``default`` is what it has in a row that was made without it."""

    name: str
    type: ColumnType
    default: JsonValue = None

    def checked(self, value: Any) -> Any:
        """The value as the column keeps it. Raises ``ValueError`` if it is none for it. Null always is."""
        if value is None or _fits(self.type, value):
            return value
        if self.type is ColumnType.NUMBER and value.__class__ is int and abs(value) < 1 << 1000:
            return float(value)
        raise ValueError(f"{self.name}: expected {_EXPECTED.get(self.type, 'a JSON value')}, got {_told(value)}")


def _fits(kind: ColumnType, value: Any) -> bool:
    match kind:
        case ColumnType.TEXT:
            return isinstance(value, str) and (value.isascii() or bool(value.encode()))
        case ColumnType.INTEGER:
            return value.__class__ is int and _MIN_INTEGER <= value <= _MAX_INTEGER
        case ColumnType.NUMBER:
            return value.__class__ is float and value - value == 0
        case ColumnType.BOOLEAN:
            return value.__class__ is bool
        case ColumnType.TIMESTAMP:
            return value.__class__ is int and MIN_TIME_MS <= value <= MAX_TIME_MS
        case ColumnType.JSON:
            try:
                msgspec.json.encode(value)
            except (TypeError, ValueError, RecursionError):
                return False
            return True


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class TableShape(msgspec.Struct, frozen=True):
    """A table: its columns, those of its key, and the groups of columns that have an index (in SQLite; DuckDB needs none)."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...] = ()

    def column(self, name: str) -> Column | None:
        """The column of this name."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


class SkippedEvent(msgspec.Struct, frozen=True):
    """An event that could not be projected and was passed over, and why."""

    position: int
    event_id: str
    event_type: str
    aggregate_id: str
    message: str
    at_ms: int


class Progress(msgspec.Struct, frozen=True):
    """How far a projection has come: every event up to ``position`` that it is for has been projected.

    ``events`` have been projected, ``skipped`` passed over; the newest of them was recorded at ``recorded_at_ms``.
    """

    position: int = 0
    events: int = 0
    skipped: int = 0
    recorded_at_ms: int | None = None


class Answer(msgspec.Struct, frozen=True):
    """The answer to a query: rows of plain values. ``truncated``: there was more than an answer may have.

    ``progress`` is how far the projection had come when it was asked.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool
    progress: Progress


class Bounds(NamedTuple):
    """What a query may take."""

    timeout_s: float = 10.0
    max_rows: int = 10_000
    max_bytes: int = 64 << 20


class ProjectionDatabase(Protocol):
    """The database of one build of a projection, written by one thread at a time.

    Between ``begin`` and ``commit`` everything is one transaction. Errors are ``StorageError``s.
    """

    def progress(self) -> Progress:
        """How far it has come, as it is kept."""

    def skipped(self, limit: int) -> list[SkippedEvent]:
        """The newest events that were skipped, newest first."""

    def begin(self) -> None:
        """Begin a transaction."""

    def commit(self, progress: Progress, skipped: Sequence[SkippedEvent] = ()) -> None:
        """Keep what was written since ``begin``, together with the progress."""

    def rollback(self) -> None:
        """Undo what was written since ``begin``. Without one it does nothing."""

    def fetch(self, table: TableShape, keys: Sequence[Key]) -> Iterable[Row]:
        """The rows of these keys, those that there are, in any order."""

    def find(self, table: TableShape, columns: Mapping[str, Any]) -> list[Row]:
        """The rows with these values in these columns, by key. ``ValueError`` if they are more than ``MAX_FOUND_ROWS``."""

    def write(self, table: TableShape, rows: Sequence[Row], gone: Sequence[Key]) -> None:
        """Make these rows, or put them in the place of those with their keys; remove the rows of the keys ``gone``."""

    def select(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """The rows that a statement of the projection's own code finds, within the transaction."""

    def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        """Run a statement of the projection's own code that changes its tables; the number of rows changed, -1 if not known."""

    def close(self) -> None:
        """Close it. Closing twice is harmless."""


Query: TypeAlias = Callable[[str, Sequence[Any], Bounds], Answer]
"""One statement that only reads, asked of a projection's database. Raises ``QueryError``."""


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
