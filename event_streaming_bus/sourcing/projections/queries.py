"""Questions to the tables of a projection: rows by conditions, page by page, and the answers as JSON has them."""

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import rfc3339, time_ms
from event_streaming_bus.sourcing.projections.definition import ProjectionDefinition, StoreKind
from event_streaming_bus.store.projections_base import Answer, Column, ColumnType, TableShape, quoted

DEFAULT_ROWS: Final = 100
MAX_ROWS: Final = 10_000
_MAX_VALUES: Final = 1000
_OPERATORS: Final = {"eq": "=", "ne": "<>", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


class RowQuery(NamedTuple):
    """A statement for rows in order, with one row more than asked for, to see whether there is another page."""

    sql: str
    values: list[Any]
    table: TableShape
    order: tuple[tuple[str, bool], ...]
    limit: int

    def page(self, answer: Answer) -> dict[str, Any]:
        """``rows`` as JSON has them, ``cursor`` for the next page (null: this was the last), and the ``position`` of it all."""
        rows = [dict(zip(self.table.names, row, strict=True)) for row in answer.rows[: self.limit]]
        more = len(answer.rows) > self.limit or answer.truncated
        cursor = _cursor(self, rows[-1]) if more and rows else None
        columns = self.table.columns
        told = [{column.name: _told(column, row[column.name]) for column in columns} for row in rows]
        return {"rows": told, "cursor": cursor, "position": answer.progress.position}


def row_query(
    definition: ProjectionDefinition,
    *,
    table: str | None = None,
    where: Mapping[str, Any] | None = None,
    order: str | Sequence[str] | None = None,
    limit: int = DEFAULT_ROWS,
    cursor: str | None = None,
) -> RowQuery:
    """The statement for some rows. Raises ``InvalidInputError`` for what it cannot be asked.

    ``where``: by column a value, or an object with ``eq``, ``ne``, ``lt``, ``le``, ``gt``, ``ge`` or ``in``. ``order``: columns,
    with ``-`` in front for the highest first; the key decides between equals, and null is lower than everything.
    """
    shape = table_of(definition, table)
    if limit.__class__ is not int or not 1 <= limit <= MAX_ROWS:
        raise InvalidInputError(f"limit: expected 1 to {MAX_ROWS:,}, got {limit!r}")
    names = [order] if isinstance(order, str) else list(order or ())
    wanted = [name for each in names for name in each.split(",")]
    sorting: dict[str, bool] = {}
    for name in wanted:
        _plain_column(shape, name.removeprefix("-"), "order")
        sorting.setdefault(name.removeprefix("-"), name.startswith("-"))
    for name in shape.key:
        sorting.setdefault(name, False)
    builder = _Conditions(definition.store)
    for name, condition in (where or {}).items():
        builder.add(_plain_column(shape, name, "where"), condition)
    if cursor is not None:
        builder.after(shape, sorting, _read_cursor(cursor, shape, sorting))
    columns = ", ".join(_selected(column, definition.store) for column in shape.columns)
    conditions = f" WHERE {' AND '.join(builder.parts)}" if builder.parts else ""
    by = ", ".join(f"{quoted(name)} {'DESC NULLS LAST' if falls else 'ASC NULLS FIRST'}" for name, falls in sorting.items())
    sql = f"SELECT {columns} FROM {quoted(shape.name)}{conditions} ORDER BY {by} LIMIT {limit + 1}"  # noqa: S608 - names are quoted
    return RowQuery(sql, builder.values, shape, tuple(sorting.items()), limit)


def table_of(definition: ProjectionDefinition, name: str | None) -> TableShape:
    """The table of this name, or the only one."""
    known = ", ".join(table.name for table in definition.tables)
    if name is None and len(definition.tables) > 1:
        raise InvalidInputError(f"table: {definition.name} has several tables; name one of {known}")
    found = definition.tables[0] if name is None else definition.table(name)
    if found is None:
        raise InvalidInputError(f"table: {definition.name} has no table {name!r}; it has {known}")
    return found


def _plain_column(shape: TableShape, name: str, what: str) -> Column:
    column = shape.column(name)
    if column is None:
        raise InvalidInputError(f"{what}: {shape.name} has no column {name!r}; it has {', '.join(shape.names)}")
    if column.type is ColumnType.JSON:
        raise InvalidInputError(f"{what}: {name} is json; ask for what is in it with SQL")
    return column


class _Conditions:
    """The conditions of a statement, and their values."""

    def __init__(self, store: StoreKind) -> None:
        self.parts: list[str] = []
        self.values: list[Any] = []
        # What is epoch milliseconds here is a TIMESTAMP_MS in DuckDB.
        self._is_duckdb = store is StoreKind.DUCKDB

    def _left(self, column: Column) -> str:
        is_time = self._is_duckdb and column.type is ColumnType.TIMESTAMP
        return f"epoch_ms({quoted(column.name)})" if is_time else quoted(column.name)

    def add(self, column: Column, condition: Any) -> None:
        given = condition if isinstance(condition, Mapping) else {"eq": condition}
        if not given:
            raise InvalidInputError(f"where.{column.name}: expected a value or one of {', '.join([*_OPERATORS, 'in'])}")
        for name, value in given.items():
            self.parts.append(self._one(column, name, value))

    def _one(self, column: Column, name: str, value: Any) -> str:
        left, place = self._left(column), f"where.{column.name}"
        if name == "in":
            if not isinstance(value, list | tuple) or not 1 <= len(value) <= _MAX_VALUES:
                raise InvalidInputError(f"{place}.in: expected a list of 1 to {_MAX_VALUES} values")
            self.values += [_value(column, each, f"{place}.in") for each in value]
            return f"{left} IN ({', '.join('?' * len(value))})"
        if name not in _OPERATORS:
            raise InvalidInputError(f"{place}: there is no {name!r}; there is {', '.join([*_OPERATORS, 'in'])}")
        if value is None:
            if name not in ("eq", "ne"):
                raise InvalidInputError(f"{place}.{name}: null is neither more nor less than anything")
            return f"{left} IS {'NOT ' if name == 'ne' else ''}NULL"
        self.values.append(_value(column, value, place))
        compared = f"{left} {_OPERATORS[name]} ?"
        return f"({compared} OR {left} IS NULL)" if name == "ne" else compared

    def after(self, shape: TableShape, sorting: Mapping[str, bool], row: Sequence[Any]) -> None:
        """Only the rows that come after this one: those that are equal in the first columns and beyond it in the next."""
        ways: list[str] = []
        equal: list[tuple[str, Any]] = []
        for (name, falls), value in zip(sorting.items(), row, strict=True):
            column = shape.column(name)
            if column is None:  # the order was checked
                continue
            left = self._left(column)
            beyond = _beyond(left, falls, is_null=value is None)
            if beyond is not None:
                parts = [part for part, _ in equal] + [beyond]
                ways.append(f"({' AND '.join(parts)})")
                self.values += [each for _, each in equal if each is not None]
                self.values += [value] if "?" in beyond else []
            equal.append((f"{left} IS NULL" if value is None else f"{left} = ?", value))
        self.parts.append(f"({' OR '.join(ways) or 'FALSE'})")


def _beyond(left: str, falls: bool, *, is_null: bool) -> str | None:
    if falls:
        return None if is_null else f"({left} < ? OR {left} IS NULL)"
    return f"{left} IS NOT NULL" if is_null else f"{left} > ?"


def _value(column: Column, value: Any, place: str) -> Any:
    try:
        if column.type is ColumnType.TIMESTAMP and isinstance(value, str):
            return time_ms(value)
        return column.checked(value)
    except ValueError as error:
        raise InvalidInputError(f"{place}: {error}") from None
    except InvalidInputError as error:
        raise InvalidInputError(f"{place}: {error.message}") from None


def _selected(column: Column, store: StoreKind) -> str:
    name = quoted(column.name)
    return f"epoch_ms({name}) AS {name}" if store is StoreKind.DUCKDB and column.type is ColumnType.TIMESTAMP else name


# --- cursors ----------------------------------------------------------------------------------------------------------


def _cursor(query: RowQuery, row: Mapping[str, Any]) -> str:
    order = [f"{'-' if falls else ''}{name}" for name, falls in query.order]
    told = [query.table.name, order, [row[name] for name, _ in query.order]]
    return base64.urlsafe_b64encode(msgspec.json.encode(told)).decode().rstrip("=")


def _read_cursor(cursor: str, shape: TableShape, sorting: Mapping[str, bool]) -> list[Any]:
    order = [f"{'-' if falls else ''}{name}" for name, falls in sorting.items()]
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        table, its_order, row = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=tuple[str, list[str], list[Any]])
        columns = [shape.column(name) for name in sorting]
        values = [
            bool(value) if column.type is ColumnType.BOOLEAN and value is not None else column.checked(value)
            for column, value in zip(columns, row, strict=True)
            if column is not None
        ]
    except ValueError:
        raise InvalidInputError("cursor: expected one that an answer gave") from None
    if (table, its_order) != (shape.name, order):
        raise InvalidInputError("cursor: it is of another table or order; ask with the same ones, or without it")
    return values


# --- values -----------------------------------------------------------------------------------------------------------


def _told(column: Column, value: Any) -> Any:
    if value is None:
        return None
    match column.type:
        case ColumnType.TIMESTAMP:
            return rfc3339(value)
        case ColumnType.BOOLEAN:
            return bool(value)
        case ColumnType.JSON:
            return msgspec.json.decode(value)
    return value


def answer_data(answer: Answer) -> dict[str, Any]:
    """The answer to a SQL query: ``columns``, ``rows`` of JSON values, ``truncated`` and the ``position`` of it all."""
    return {
        "columns": list(answer.columns),
        "rows": [[json_value(value) for value in row] for row in answer.rows],
        "truncated": answer.truncated,
        "position": answer.progress.position,
    }


def json_value(value: Any) -> Any:
    """A value of a database as JSON has it: whole decimals as integers, times as RFC 3339 text in UTC, the rest as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    plain: Callable[[Any], Any] | None = next((read for kind, read in _PLAIN if isinstance(value, kind)), None)
    return str(value) if plain is None else plain(value)


_PLAIN: Final[tuple[tuple[Any, Callable[[Any], Any]], ...]] = (
    (float, lambda value: value if value - value == 0 else str(value)),
    (Decimal, lambda value: int(value) if value == value.to_integral_value() else float(value)),
    (datetime, lambda value: value.isoformat(timespec="milliseconds") + ("" if value.tzinfo else "Z")),
    (date, date.isoformat),
    (bytes, lambda value: value.decode("utf-8", "replace")),
    (list | tuple, lambda value: [json_value(each) for each in value]),
    (dict, lambda value: {str(name): json_value(each) for name, each in value.items()}),
)
