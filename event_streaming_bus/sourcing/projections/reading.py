"""Reads projections from plain data, and from files (YAML, JSON or TOML); every problem is told with its exact place."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any, Final, TypeVar

from event_streaming_bus.errors import FlowError
from event_streaming_bus.expressions import Expression, Scope
from event_streaming_bus.expressions.grammar import Emitter, Refused
from event_streaming_bus.flows.checker import (
    BAD,
    Field,
    Path,
    Problems,
    Reader,
    choice,
    describe,
    expression_in,
    format_path,
    integer,
    json_value,
    list_of,
    mapping_of,
    member,
    read_table,
    required,
    suggest,
    text,
)
from event_streaming_bus.flows.flow_file import read_flow_file
from event_streaming_bus.flows.processors.custom import FUNCTION
from event_streaming_bus.sourcing.projection_errors import ProjectionConfigError
from event_streaming_bus.sourcing.projections.definition import (
    EVERY_TYPE,
    Action,
    ActionKind,
    OnError,
    ProjectionDefinition,
    StoreKind,
)
from event_streaming_bus.store.projections_base import OWN_PREFIX, Column, ColumnType, TableShape

T = TypeVar("T")
_PARSE_TRIES: Final = 10
MAX_TABLES: Final = 20
MAX_COLUMNS: Final = 200
MAX_ACTIONS: Final = 100
EVENT_NAMES: Final = {
    "timestamp": "timestamp_ms",
    "recorded_at": "recorded_at_ms",
    **{
        name: name
        for name in (
            "event_id",
            "event_type",
            "aggregate_id",
            "aggregate_type",
            "version",
            "position",
            "metadata",
            "correlation_id",
            "causation_id",
            "user_id",
            "schema_id",
            "tenant_id",
        )
    },
}
"""The names of an expression that are the event's, and the attributes they stand for."""
ROW_NAMES: Final = ("row", "is_new")
"""The present row (or the defaults, if there is none), and whether there is none."""
_BEFORE_ROW: Final = ("payload", *EVENT_NAMES)
_DEFAULTS: Final[dict[ColumnType, Any]] = {ColumnType.INTEGER: 0, ColumnType.NUMBER: 0.0}
_KINDS: Final = tuple(kind.value for kind in ActionKind)
_ACTION_KEYS: Final = (*_KINDS, "table", "where", "when", "each")
_word: Final = text(r"[A-Za-z][A-Za-z0-9_]{0,62}", "a name: a letter, then letters, digits and '_', at most 63 characters")
_name: Final = text(r"[A-Za-z][A-Za-z0-9_-]{0,62}", "a name: a letter, then letters, digits, '-' and '_', at most 63 characters")
_types: Final = list_of(text(max_chars=500), least=1)
_class: Final = text(FUNCTION, "module:Class, such as 'my_company.views:Users'")


def read_projection(data: object, *, where: Path = (), problems: Problems | None = None, kept: bool = False) -> Any:
    """The projection that plain data declares.

    One with ``class`` says its name and nothing else, for the rest is the class's: it comes without tables here, unless it is
    ``kept``, as ``to_data`` made it. Raises ``ProjectionConfigError`` with all problems; with ``problems`` given they are added
    there instead, and ``BAD`` is returned.
    """
    found = Problems() if problems is None else problems
    before = len(found.found)
    definition = _read(data, where, found, kept=kept)
    if problems is None:
        raise_if_any(found)
    return BAD if definition is None or len(found.found) > before else definition


def steadily(work: Callable[[], T]) -> T:
    """The result of something that parses Python: before 3.13, CPython may raise ``SystemError`` if two threads do at once."""
    for _ in range(_PARSE_TRIES):
        with suppress(SystemError):
            return work()
    return work()


def raise_if_any(problems: Problems) -> None:
    """Raise the problems, if there are any, as one ``ProjectionConfigError``."""
    try:
        problems.raise_if_any()
    except FlowError as error:
        raise ProjectionConfigError(error.message, **error.details) from None


def read_projection_file(path: FilePath) -> list[ProjectionDefinition]:
    """The projections that a file declares: a list ``projections``, or one.

    Raises ``ProjectionConfigError`` with file and line.
    """
    try:
        data, problems = read_flow_file(path)
    except FlowError as error:
        raise ProjectionConfigError(error.message, **error.details) from None
    definitions: list[Any] = []
    if isinstance(data, Mapping) and "projections" in data:
        read = list_of(lambda value, place, found: read_projection(value, where=place, problems=found), least=1, most=200)
        values = read_table(data, (), {"projections": required(read)}, problems)
        definitions = list(values["projections"]) if values else []
    else:
        definitions = [read_projection(data, problems=problems)]
    names: set[str] = set()
    for i, definition in enumerate(definitions):
        if isinstance(definition, ProjectionDefinition):
            if definition.name in names:
                problems.add(("projections", i, "name"), f"{definition.name!r} is the name of a projection before")
            names.add(definition.name)
    raise_if_any(problems)
    return definitions


def _read(data: object, where: Path, problems: Problems, *, kept: bool) -> ProjectionDefinition | None:
    of_class = isinstance(data, Mapping) and data.get("class") is not None
    fields: dict[str, Field] = {
        "name": required(_name),
        "description": Field(text(), ""),
        "on_error": Field(member(OnError), OnError.STOP),
    }
    if of_class:
        fields["class"] = required(_class)
    if not of_class or kept:
        fields |= {
            "version": Field(integer(1, 1 << 31), 1),
            "from": Field(_read_source, {}),
            "store": Field(member(StoreKind), StoreKind.SQLITE),
            "table": Field(lambda value, path, found: value),
            "tables": Field(lambda value, path, found: value),
        }
    if of_class and kept:
        fields["code"] = Field(text())
    if not of_class:
        fields["on"] = required(lambda value, path, found: value)
    values = read_table(data, where, fields, problems)
    tables = _read_tables(data, where, problems) if isinstance(data, Mapping) and (not of_class or kept) else ()
    on = _read_on(data["on"], (*where, "on"), tables, problems) if isinstance(data, Mapping) and tables and "on" in data else {}
    if values is None:
        return None
    source = values.get("from") or {}
    types = source.get("event_types")
    for name in on:
        if types is not None and name != EVERY_TYPE and name not in types:
            problems.add((*where, "on", name), f"never happens: from.event_types has no {name!r}{suggest(name, types)}")
    return ProjectionDefinition(
        name=values["name"],
        tables=tables,
        on=on,
        class_name=values.get("class"),
        code=values.get("code"),
        version=values.get("version", 1),
        aggregate_types=source.get("aggregate_types"),
        event_types=types,
        store=values.get("store", StoreKind.SQLITE),
        on_error=values["on_error"],
        description=values["description"],
    )


def _read_source(value: object, path: Path, problems: Problems) -> Any:
    found = read_table(value, path, {"aggregate_types": Field(_types), "event_types": Field(_types)}, problems)
    return BAD if found is None else found


# --- tables -----------------------------------------------------------------------------------------------------------


def _read_tables(data: Mapping[str, Any], where: Path, problems: Problems) -> tuple[TableShape, ...]:
    """The tables; empty if something is wrong with one."""
    one, several = data.get("table"), data.get("tables")
    if (one is None) == (several is None):
        problems.add((*where, "tables"), "required, but missing" if one is None else "give either table or tables, not both")
        return ()
    if several is None:
        name = str(data.get("name", "")).replace("-", "_")
        found: Any = [_read_shape(name, one, (*where, "table"), problems)]
    else:
        path = (*where, "tables")
        pairs = mapping_of(_word, lambda value, place, _: (value, place), most=MAX_TABLES)(several, path, problems)
        found = [] if pairs is BAD else [_read_shape(name, value, place, problems) for name, (value, place) in pairs]
        _apart([str(name) for name, _ in pairs] if pairs is not BAD else [], path, problems)
    return () if None in found else tuple(found)


def _read_shape(default_name: str, data: object, path: Path, problems: Problems) -> TableShape | None:
    columns = mapping_of(_word, _read_column, most=MAX_COLUMNS)
    words = list_of(_word, least=1, most=20)
    fields = {
        "name": Field(_word, default_name),
        "columns": required(columns),
        "key": required(words),
        "indexes": Field(list_of(lambda v, p, f: words([v] if isinstance(v, str) else v, p, f)), ()),
    }
    if path[-1] != "table":
        del fields["name"]
    values = read_table(data, path, fields, problems)
    if values is None:
        return None
    name, before = values.get("name", default_name), len(problems.found)
    made = tuple(Column(column, kind, default) for column, (kind, default) in values["columns"])
    shape = TableShape(name, made, values["key"], values["indexes"])
    _apart(list(shape.names), (*path, "columns"), problems)
    if name.lower().startswith(("sqlite_", OWN_PREFIX)):
        problems.add(path, f"the name {name!r} is taken")
    for place, group in [(("key",), shape.key), *((("indexes", i), index) for i, index in enumerate(shape.indexes))]:
        here: Path = (*path, *place)
        for i, column in enumerate(group):
            declared = shape.column(column)
            if declared is None:
                problems.add((*here, i), f"there is no column {column!r}{suggest(column, shape.names)}")
            elif declared.type is ColumnType.JSON:
                problems.add((*here, i), f"the column {column!r} is json, which cannot be a key or have an index")
            elif place == ("key",) and declared.type is ColumnType.NUMBER:
                problems.add((*here, i), f"the column {column!r} is a number; a key is text, integer, boolean or timestamp")
        if len(set(group)) < len(group):
            problems.add(here, "a column is named twice")
    return shape if len(problems.found) == before else None


def _read_column(value: object, path: Path, problems: Problems) -> Any:
    """``(type, default)`` of a column. Where no default is said, integers and numbers are 0, and the rest null."""
    kind = member(ColumnType)
    if not isinstance(value, Mapping):
        found = kind(value, path, problems)
        return BAD if found is BAD else (found, _DEFAULTS.get(found))
    values = read_table(value, path, {"type": required(kind), "default": Field(json_value)}, problems)
    if values is None:
        return BAD
    if "default" not in value:
        return values["type"], _DEFAULTS.get(values["type"])
    try:
        return values["type"], Column("default", values["type"]).checked(values["default"])
    except ValueError as error:
        return problems.add((*path, "default"), str(error).removeprefix("default: "))


def _apart(names: list[str], path: Path, problems: Problems) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            problems.add((*path, name), f"differs from {other!r} in upper and lower case only, which SQL does not tell apart")


# --- actions ----------------------------------------------------------------------------------------------------------


def _read_on(data: object, path: Path, tables: tuple[TableShape, ...], problems: Problems) -> dict[str, tuple[Action, ...]]:
    def actions(value: object, place: Path, found: Problems) -> Any:
        return list_of(lambda each, at, _: _read_action(each, at, tables, found), least=1, most=MAX_ACTIONS)(value, place, found)

    pairs = mapping_of(text(max_chars=500), actions)(data, path, problems)
    return {} if pairs is BAD else dict(pairs)


def _read_action(data: object, path: Path, tables: tuple[TableShape, ...], problems: Problems) -> Any:
    if not isinstance(data, Mapping):
        return problems.reject(path, f"an action: a mapping with one of {', '.join(_KINDS)}", data)
    kinds = [key for key in data if key in _KINDS]
    if len(kinds) != 1:
        unknown = next((str(key) for key in data if key not in _ACTION_KEYS), None)
        near = get_close_matches(unknown, _KINDS, 1) if unknown else []
        hint = f"; did you mean {near[0]!r} for {unknown!r}?" if near else ""
        return problems.add(path, f"expected one of {', '.join(_KINDS)}, got {' and '.join(kinds) or 'none'}{hint}")
    kind = ActionKind(kinds[0])
    table = _table_of(data, path, tables, problems)
    if table is None:
        return BAD
    item = ("item",) if data.get("each") is not None else ()
    before, names = (*_BEFORE_ROW, *item), (*_BEFORE_ROW, *item, *ROW_NAMES)
    told = data.get(kind.value)
    read = lambda value, place, found: _expressions(value, place, found, table, before, names)  # noqa: E731
    fields = {
        kind.value: Field(read) if kind is ActionKind.DELETE and data.get("where") is not None else required(read),
        "table": Field(text()),
        "when": Field(_expression_of(names, table)),
        "each": Field(_expression_of(_BEFORE_ROW, None)),
    }
    if kind in (ActionKind.UPDATE, ActionKind.DELETE):
        fields["where"] = Field(lambda value, place, found: _expressions(value, place, found, table, before, before))
    values = read_table(data, path, fields, problems)
    if values is None:
        return BAD
    action = Action(
        kind=kind,
        table=table.name,
        values=values[kind.value] or {},
        where=values.get("where"),
        when=values["when"],
        each=values["each"],
        path=format_path(path),
    )
    return _fitting(action, table, (*path, kind.value), problems) if isinstance(told, Mapping) or action.where else BAD


def _fitting(action: Action, table: TableShape, path: Path, problems: Problems) -> Any:
    """The action, if it says which row it is for and nothing that it cannot do."""
    fine = True
    for column in table.key:
        if action.where is not None and column in action.values:
            problems.add((*path, column), "the key of a row cannot be changed; with where it is not said here")
            fine = False
        elif action.where is None and column not in action.values:
            problems.add((*path, column), f"required, but missing: the key of {table.name} is {', '.join(table.key)}")
            fine = False
    if action.kind is ActionKind.DELETE:
        for column in action.values:
            if column not in table.key:
                problems.add((*path, column), f"a delete names the key, {', '.join(table.key)}, and nothing else")
                fine = False
    return action if fine else BAD


def _table_of(data: Mapping[str, Any], path: Path, tables: tuple[TableShape, ...], problems: Problems) -> TableShape | None:
    known = [table.name for table in tables]
    given = data.get("table")
    if given is None:
        if len(tables) == 1:
            return tables[0]
        problems.add((*path, "table"), f"required where there are several tables: one of {', '.join(known)}")
        return None
    name = choice(known)(given, (*path, "table"), problems)
    return None if name is BAD else next(table for table in tables if table.name == name)


def _expressions(
    data: object, path: Path, problems: Problems, table: TableShape, before: tuple[str, ...], names: tuple[str, ...]
) -> Any:
    """Expressions by column; those of the key cannot know the row yet."""
    if not isinstance(data, Mapping):
        return problems.reject(path, "a mapping of columns to expressions", data)
    found: dict[str, Any] = {}
    for column, value in data.items():
        here = (*path, column if isinstance(column, str) else describe(column))
        if not isinstance(column, str) or table.column(column) is None:
            hint = suggest(column, table.names)
            found[str(column)] = problems.add(here, f"there is no column {column!r} in {table.name}{hint}")
        else:
            is_key = column in table.key
            found[column] = _expression_of(before if is_key else names, table, "the key")(value, here, problems)
    return BAD if any(each is BAD for each in found.values()) else found


def _expression_of(names: tuple[str, ...], table: TableShape | None, what: str = "this") -> Reader:
    """An expression over these names, with the columns of the row checked."""
    plain = expression_in(Scope.PAYLOAD)

    def read(value: object, path: Path, problems: Problems) -> Any:
        expression = steadily(lambda: plain("null" if value is None else value, path, problems))
        if not isinstance(expression, Expression):
            return expression
        early = next((name for name in ROW_NAMES if name in expression.names and name not in names), None)
        if early is not None:
            return problems.add(path, f"{what} cannot depend on {early}: it says which row is meant")
        try:
            Emitter(lambda _: "_", names).emit(expression.tree)
        except Refused as refused:
            return problems.add(path, re.sub(r" There is: .*", "", refused.message))
        columns = {each[1] for each in expression.payload_paths if each[0] == "row" and len(each) > 1}
        for column in sorted(columns):
            if table is not None and table.column(column) is None:
                hint = suggest(column, table.names)
                return problems.add(path, f"row.{column}: there is no column {column!r} in {table.name}{hint}")
        return expression

    return read
