"""What a projection does with events, whether it was declared or is a class, and the declared ones as native code.

The code of an action is generated once: the expressions of the key, of the conditions and of the columns are pasted into one
function that takes an event and its payload and changes rows in memory.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Protocol

from event_streaming_bus.expressions import NAMESPACE, Expression
from event_streaming_bus.sourcing.projections.definition import EVERY_TYPE, Action, ActionKind, ProjectionDefinition
from event_streaming_bus.sourcing.projections.reading import EVENT_NAMES, ROW_NAMES
from event_streaming_bus.sourcing.projections.tables import Table, Tables
from event_streaming_bus.store.projections_base import MAX_TIME_MS, MIN_TIME_MS, ColumnType, Key, Row, TableShape
from event_streaming_bus.store.recorded import RecordedEvent

_FITS: Final = {
    ColumnType.TEXT: "(_v := ({})).__class__ is _str",
    ColumnType.INTEGER: f"(_v := ({{}})).__class__ is _int and {-(1 << 63)} <= _v < {1 << 63}",
    ColumnType.TIMESTAMP: f"(_v := ({{}})).__class__ is _int and {MIN_TIME_MS} <= _v <= {MAX_TIME_MS}",
    ColumnType.BOOLEAN: "(_v := ({})).__class__ is _bool",
    ColumnType.NUMBER: "(_v := ({})).__class__ is _float and _v - _v == 0",
}
"""Code that says whether a value is what the column most often has."""


class Program(Protocol):
    """What becomes of events, over some tables."""

    def prefetch(self, events: Iterable[tuple[RecordedEvent, Any]]) -> None:
        """Read the rows that the events are going to need, as far as that can be told, at once. Never raises for an event."""

    def apply(self, event: RecordedEvent, payload: Any) -> None:
        """Do to the tables what the event does. Whatever it raises means that the event cannot be projected."""

    def explain(self, error: Exception, event: RecordedEvent, payload: Any) -> str:
        """What ``apply`` has just failed at for the event, in words."""


class DeclaredProgram:
    """The program of a declared projection."""

    def __init__(self, definition: ProjectionDefinition, tables: Tables) -> None:
        self._tables = tables
        self._at: list[Any] = [None, None]  # the action that is done, and its item
        self._every = [_Compiled(action, tables[action.table], self._at) for action in definition.on.get(EVERY_TYPE, ())]
        self._on = {
            name: [*self._every, *(_Compiled(action, tables[action.table], self._at) for action in actions)]
            for name, actions in definition.on.items()
            if name != EVERY_TYPE
        }

    def prefetch(self, events: Iterable[tuple[RecordedEvent, Any]]) -> None:
        wanted: defaultdict[Table, dict[Key, None]] = defaultdict(dict)
        for event, payload in events:
            for action in self._on.get(event.event_type, self._every):
                if action.keys is None:
                    continue
                keys = wanted[action.table]
                try:
                    for key in action.keys(event, payload):
                        if key not in action.table.rows:
                            keys[key] = None
                except Exception:  # noqa: S112 - it is raised again, and told, when the event's turn comes
                    continue
        for table, keys in wanted.items():
            if keys:
                table.load(list(keys))

    def apply(self, event: RecordedEvent, payload: Any) -> None:
        for action in self._on.get(event.event_type, self._every):
            action.run(event, payload)

    def explain(self, error: Exception, event: RecordedEvent, payload: Any) -> str:
        action, item = self._at
        return str(error) if action is None else action.explain(error, event, payload, item)


class _Compiled:
    """An action as functions: ``keys`` gives the keys that an event is for (None: that takes a search), ``run`` does it."""

    def __init__(self, action: Action, table: Table, at: list[Any]) -> None:
        self.action = action
        self.table = table
        namespace: dict[str, Any] = NAMESPACE | {
            "_at": at,
            "_bool": bool,
            "_defaults": table.defaults,
            "_float": float,
            "_list": list,
            "_rows": table.rows,
            "_self": self,
            "_str": str,
            "_table": table,
            "_ValueError": ValueError,
        }
        for column in table.shape.columns:
            check = table.key_value if column.name in table.shape.key else table.value
            namespace[f"_check_{column.name}"] = partial(check, column.name)
        exec(compile("\n".join(_lines(action, table.shape)), f"<{action.path}>", "exec"), namespace)  # noqa: S102 - of checked parts
        self.keys: Callable[[RecordedEvent, Any], Sequence[Key]] | None = namespace.get("keys")
        self.run: Callable[[RecordedEvent, Any], None] = namespace["run"]

    def explain(self, error: Exception, event: RecordedEvent, payload: Any, item: Any) -> str:
        """Which of the expressions failed and why; what a column refused says so itself."""
        action = self.action
        names = {name: getattr(event, attribute) for name, attribute in EVENT_NAMES.items()}
        names |= {"payload": payload, "item": item}
        failed = self._failing([("each", action.each)] if action.each else [], names)
        if failed is None:
            key_columns = self.table.shape.key if action.where is None else ()
            place = action.kind.value
            parts = [(f"where.{name}", each) for name, each in (action.where or {}).items()]
            parts += [(f"{place}.{name}", action.values[name]) for name in key_columns]
            failed = self._failing(parts, names)
        if failed is None:
            for row in self._rows_meant(names):
                names |= {"row": row or self.table.defaults, "is_new": row is None}
                parts = [("when", action.when)] if action.when else []
                parts += [(f"{action.kind.value}.{name}", each) for name, each in action.values.items()]
                failed = self._failing(parts, names)
                if failed is not None:
                    break
        return f"{action.path}: {error}" if failed is None else f"{action.path}.{failed}"

    def _rows_meant(self, names: dict[str, Any]) -> Iterator[Row | None]:
        try:
            if self.action.where is not None:
                values = {name: each.compile()(names) for name, each in self.action.where.items()}
                yield from (row for _, row in self.table.matching(values))
            else:
                yield self.table.row(tuple(self.action.values[name].compile()(names) for name in self.table.shape.key))
        except Exception:
            return  # then it is not the row that is to blame

    def _failing(self, parts: Iterable[tuple[str, Expression]], names: dict[str, Any]) -> str | None:
        for place, expression in parts:
            try:
                expression.compile()(names)
            except Exception as raised:
                return f"{place}: {expression.explain(raised, names)}"
        return None


# --- code -------------------------------------------------------------------------------------------------------------


def _lines(action: Action, shape: TableShape) -> list[str]:
    """The functions ``run`` and, where the key says which row is meant, ``keys``."""
    to_do = _indented(_action_lines(action, shape))
    of_items = "" if action.each is None else f" for _item in _items({_code(action.each)})"
    if action.each is None:
        lines = ["def run(_event, _payload):", "    _at[0] = _self; _at[1] = None", *to_do]
    else:
        lines = ["def one(_event, _payload, _item):", *to_do]
        lines += ["def run(_event, _payload):", "    _at[0] = _self; _at[1] = None", f"   {of_items}:"]
        lines += ["        _at[1] = _item", "        one(_event, _payload, _item)"]
    if action.where is None:
        early = f"({_code(action.when)})" if action.when is not None and not _knows_row(action.when) else ""
        each = of_items or (" for _item in (None,)" if early else "")
        lines += ["def keys(_event, _payload):", f"    return [{_key(action, shape)}{each}{early and f' if {early}'}]"]
    return lines


def _action_lines(action: Action, shape: TableShape) -> list[str]:
    late = action.when is not None and _knows_row(action.when)
    when = None if action.when is None else [f"if not ({_code(action.when)}):", "    {leave}"]
    before = [] if when is None or late else [line.format(leave="return") for line in when]
    if action.where is not None:
        values = ", ".join(f"{name!r}: {_checked(name, each, shape)}" for name, each in action.where.items())
        after = [line.format(leave="continue") for line in when] if when and late else []
        what = ["_table.put(_key, None)"] if action.kind is ActionKind.DELETE else _put(action, shape)
        loop = [f"for _key, _row in _list(_table.matching({{{values}}})):", "    _is_new = False", *_indented([*after, *what])]
        return [*before, *loop]
    after = [line.format(leave="return") for line in when] if when and late else []
    lines = [*before, f"_key = {_key(action, shape)}", "_row = _rows[_key] if _key in _rows else _table.row(_key)"]
    match action.kind:
        case ActionKind.DELETE:
            lines += ["if _row is None:", "    return", "_is_new = False", *after, "_table.put(_key, None)"]
        case ActionKind.UPDATE:
            lines += ["if _row is None:", "    return", "_is_new = False", *after, *_put(action, shape)]
        case ActionKind.INSERT:
            there = 'raise _ValueError(f"{_table._told(_key)} is there already")'
            lines += ["_is_new = _row is None", "if _is_new:", "    _row = _defaults", *after]
            lines += ["if not _is_new:", f"    {there}", *_put(action, shape)]
        case ActionKind.UPSERT:
            lines += ["_is_new = _row is None", "if _is_new:", "    _row = _defaults", *after, *_put(action, shape)]
    return lines


def _put(action: Action, shape: TableShape) -> list[str]:
    key = {name: f"_key[{i}]" for i, name in enumerate(shape.key)} if action.where is None else {}
    values = [f"{name!r}: {key.get(name) or _checked(name, each, shape)}" for name, each in action.values.items()]
    return [f"_table.put(_key, {{**_row, {', '.join(values)}}})"]


def _key(action: Action, shape: TableShape) -> str:
    return "(" + "".join(f"{_checked(name, action.values[name], shape)}, " for name in shape.key) + ")"


def _checked(name: str, expression: Expression, shape: TableShape) -> str:
    """The code of a value that fits its column. What fits as it most often is takes no call."""
    column = shape.column(name)
    fits = _FITS.get(column.type) if column is not None else None
    code = _code(expression)
    return f"_check_{name}({code})" if fits is None else f"(_v if {fits.format(code)} else _check_{name}(_v))"


def _code(expression: Expression) -> str:
    return expression.source(_resolve)


def _resolve(path: tuple[str, ...]) -> str:
    first, rest = path[0], path[1:]
    match first:
        case "payload" | "row" if rest:
            top = f"_payload.get({rest[0]!r})" if first == "payload" else f"_row[{rest[0]!r}]"
            return f"_get_path({top}, {rest[1:]!r})" if len(rest) > 1 else top
        case "payload" | "row" | "item" | "is_new":
            value = f"_{first}"
        case _:
            value = f"_event.{EVENT_NAMES[first]}"
    return f"_get_path({value}, {rest!r})" if rest else value


def _knows_row(expression: Expression) -> bool:
    return any(name in expression.names for name in ROW_NAMES)


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
