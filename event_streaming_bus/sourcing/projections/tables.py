"""The tables of a projection while events are projected: rows in memory, read when they are first asked for and written once a
batch, and a memory of what an event changed, so that one that fails leaves nothing behind."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from event_streaming_bus.store.projections_base import Key, ProjectionDatabase, Row, TableShape

MAX_ROWS_IN_MEMORY: Final = 100_000
"""How many rows are kept in memory after a batch; with more than that all of them are let go."""


class Table:
    """A table, as an event finds it: with what the events before have done, those of the same batch too.

    Keys and values are given by the names of columns. A value that does not fit its column raises ``ValueError``, and so does a
    name that is no column's, or a column of the key that is missing.
    """

    def __init__(self, shape: TableShape, tables: "Tables") -> None:
        self.shape = shape
        self.rows: dict[Key, Row | None] = {}
        """The rows in memory; None: it is known that there is none."""
        self.changed: dict[Key, None] = {}
        self.defaults: Row = {column.name: column.default for column in shape.columns}
        self._tables = tables
        self._columns = {column.name: column for column in shape.columns}

    def get(self, /, **key: Any) -> Row | None:
        """The row of this key, to keep and to change at will; ``None`` if there is none."""
        row = self.row(self._key(key, only=True))
        return None if row is None else dict(row)

    def insert(self, /, **values: Any) -> None:
        """Make a row, with defaults where nothing is said. Raises ``ValueError`` if there is one of this key."""
        key = self._key(values)
        if self.row(key) is not None:
            raise ValueError(f"{self._told(key)} is there already")
        self.put(key, self.defaults | self._checked(values))

    def upsert(self, /, **values: Any) -> None:
        """Change a row, or make it, with defaults where nothing is said."""
        key = self._key(values)
        self.put(key, (self.row(key) or self.defaults) | self._checked(values))

    def update(self, /, **values: Any) -> bool:
        """Change a row if it is there; whether it is."""
        key = self._key(values)
        row = self.row(key)
        if row is not None:
            self.put(key, row | self._checked(values))
        return row is not None

    def delete(self, /, **key: Any) -> bool:
        """Remove a row if it is there; whether it was."""
        wanted = self._key(key, only=True)
        was_there = self.row(wanted) is not None
        if was_there:
            self.put(wanted, None)
        return was_there

    def find(self, /, **columns: Any) -> list[Row]:
        """The rows with these values in these columns, in the order of their keys. All rows so far changed are written first."""
        return [dict(row) for _, row in self.matching(columns)]

    # --- for generated code -----------------------------------------------------------------------------------------------

    def row(self, key: Key) -> Row | None:
        """The row of a key. It must not be changed."""
        if key not in self.rows:
            self.load([key])
        return self.rows[key]

    def load(self, keys: Sequence[Key]) -> None:
        """Read the rows of these keys, none of which is in memory."""
        self.rows.update(dict.fromkeys(keys))
        names = self.shape.key
        for row in self._tables.database.fetch(self.shape, keys):
            self.rows[tuple(row[name] for name in names)] = row

    def put(self, key: Key, row: Row | None) -> None:
        """Let this be the row of the key, ``None``: none. Its present one must be in memory. ``row`` has all columns in order."""
        self._tables.undo.append((self, key, self.rows[key]))
        self.rows[key] = row
        self.changed[key] = None

    def matching(self, columns: Mapping[str, Any]) -> Iterator[tuple[Key, Row]]:
        """The rows with these values, in the order of their keys. They must not be changed."""
        values = self._checked(columns)
        self.write()
        found = self._tables.database.find(self.shape, values)
        for row in found:
            key = tuple(row[name] for name in self.shape.key)
            if self.rows.get(key) is None:
                self.rows[key] = row
            yield key, row

    def write(self) -> None:
        """Write what has changed."""
        if self.changed:
            rows = [row for key in self.changed if (row := self.rows[key]) is not None]
            gone = [key for key in self.changed if self.rows[key] is None]
            self._tables.database.write(self.shape, rows, gone)
            self.changed.clear()

    def forget(self) -> None:
        """Let go of all rows in memory, of what has changed too."""
        self.rows.clear()
        self.changed.clear()

    def _key(self, values: Mapping[str, Any], *, only: bool = False) -> Key:
        names = self.shape.key
        if only and len(values) > len(names):
            raise ValueError(f"{self.shape.name}: the key is {', '.join(names)}, got {', '.join(values)}")
        try:
            return tuple(self.key_value(name, values[name]) for name in names)
        except KeyError as missing:
            raise ValueError(f"{self.shape.name}: the key is {', '.join(names)}, but {missing.args[0]} is missing") from None

    def key_value(self, name: str, value: Any) -> Any:
        """A value of the key, checked: it cannot be null."""
        if value is None:
            raise ValueError(f"{self.shape.name}.{name} is a part of the key and cannot be null")
        return self.value(name, value)

    def value(self, name: str, value: Any) -> Any:
        """A value of a column, checked."""
        column = self._columns.get(name)
        if column is None:
            raise ValueError(f"{self.shape.name} has no column {name}; it has {', '.join(self._columns)}")
        try:
            return column.checked(value)
        except ValueError as error:
            raise ValueError(f"{self.shape.name}.{error}") from None

    def _checked(self, values: Mapping[str, Any]) -> Row:
        return {name: self.value(name, value) for name, value in values.items()}

    def _told(self, key: Key) -> str:
        told = ", ".join(f"{name} {value!r}" for name, value in zip(self.shape.key, key, strict=True))
        return f"{self.shape.name}: the row with {told}"


class Tables:
    """The tables of a projection, by name: ``tables.users`` or ``tables["users"]``."""

    def __init__(self, shapes: Iterable[TableShape], database: ProjectionDatabase) -> None:
        self.database = database
        self.undo: list[tuple[Table, Key, Row | None]] = []
        self.has_run_sql = False
        self._tables = {shape.name: Table(shape, self) for shape in shapes}

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def __getattr__(self, name: str) -> Table:
        table: Table | None = self.__dict__.get("_tables", {}).get(name)
        if table is None:
            raise AttributeError(f"there is no table {name}; there is {', '.join(self.__dict__.get('_tables', {}))}")
        return table

    def __iter__(self) -> Iterator[Table]:
        return iter(self._tables.values())

    def select(self, sql: str, *parameters: Any) -> list[Row]:
        """The rows that a SELECT finds in the projection's own database, with what the events before have done.

        Values are as the database keeps them. Raises ``QueryError``.
        """
        self.write()
        return self.database.select(sql, parameters)

    def execute(self, sql: str, *parameters: Any) -> int:
        """Run one INSERT, UPDATE or DELETE in the projection's own database; how many rows it changed (-1: not known).

        It is of the same transaction as everything else. Raises ``QueryError``.
        """
        self.has_run_sql = True
        self.write()
        for table in self:
            table.forget()
        return self.database.execute(sql, parameters)

    # --- for the fold -----------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write what has changed."""
        for table in self:
            table.write()

    def undo_event(self) -> None:
        """Put back what has been changed since ``undo`` was emptied; not what ``execute`` did."""
        for table, key, row in reversed(self.undo):
            table.rows[key] = row
            table.changed[key] = None
        self.undo.clear()

    def forget(self) -> None:
        """Let go of everything, after a transaction that was undone."""
        for table in self:
            table.forget()
        self.undo.clear()

    def trim(self) -> None:
        """Let go of the rows in memory if they are too many. All that has changed must be written."""
        if sum(len(table.rows) for table in self) > MAX_ROWS_IN_MEMORY:
            for table in self:
                table.rows.clear()
