"""What a projection is: the events that it is for, its tables, and what each type of event does to them."""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from event_streaming_bus.expressions import Expression
from event_streaming_bus.models import JsonValue
from event_streaming_bus.store.projections_base import TableShape
from event_streaming_bus.store.recorded import EventQuery

EVERY_TYPE: Final = "*"
"""In ``on``: what every event does, before what its own type does."""


class StoreKind(StrEnum):
    """Where the tables are: SQLite for look-ups by key, DuckDB for sums over many rows."""

    SQLITE = "sqlite"
    DUCKDB = "duckdb"


class OnError(StrEnum):
    """What becomes of a projection whose code raises for an event: it stops there, or goes on without it and says so."""

    STOP = "stop"
    SKIP = "skip"


class ActionKind(StrEnum):
    """What is done to a row.

    ``insert``: it is made, and must not be there. ``upsert``: it is made or changed. ``update``: it is changed if it is there.
    ``delete``: it is removed if it is there.
    """

    INSERT = "insert"
    UPSERT = "upsert"
    UPDATE = "update"
    DELETE = "delete"


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an event does to the rows of a table.

    ``values`` are expressions for columns, the key's included. Without ``where`` the key says which row is meant; with it, every
    row that has these values is. ``each`` is a list: the action is done once for every ``item`` of it. ``when`` says whether it
    is done. ``path`` is where it stands.
    """

    kind: ActionKind
    table: str
    values: Mapping[str, Expression]
    where: Mapping[str, Expression] | None = None
    when: Expression | None = None
    each: Expression | None = None
    path: str = ""

    def to_data(self) -> dict[str, Any]:
        data: dict[str, Any] = {self.kind.value: {name: each.text for name, each in self.values.items()}, "table": self.table}
        if self.where is not None:
            data["where"] = {name: each.text for name, each in self.where.items()}
        if self.when is not None:
            data["when"] = self.when.text
        if self.each is not None:
            data["each"] = self.each.text
        return data


class ProjectionDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A projection, checked.

    It is for the events of ``aggregate_types`` and ``event_types`` (None: of all). What they do is said by ``on``, or by the
    class ``class_name`` (``module:Class``), whose code has the hash ``code``. ``version`` is the author's: another one means that
    what the events do has changed.
    """

    name: str
    tables: tuple[TableShape, ...]
    on: Mapping[str, tuple[Action, ...]] = {}
    class_name: str | None = None
    code: str | None = None
    version: int = 1
    aggregate_types: tuple[str, ...] | None = None
    event_types: tuple[str, ...] | None = None
    store: StoreKind = StoreKind.SQLITE
    on_error: OnError = OnError.STOP
    description: str = ""

    @property
    def query(self) -> EventQuery:
        """The events that it reads: of the types that it does something for."""
        types = self.event_types
        if types is None and self.on and EVERY_TYPE not in self.on:
            types = tuple(self.on)
        return EventQuery(aggregate_types=self.aggregate_types, event_types=types)

    def table(self, name: str) -> TableShape | None:
        """The table of this name."""
        return next((table for table in self.tables if table.name == name), None)

    @property
    def hash(self) -> str:
        """Names what the rows depend on: two definitions with the same one make the same rows of the same events."""
        data = self.to_data()
        for key in ("on_error", "description"):
            data.pop(key, None)
        return hashlib.sha256(msgspec.json.encode(data, order="sorted")).hexdigest()[:16]

    def to_data(self) -> dict[str, Any]:
        """As it may be declared, with everything said; of a class, its tables and what it reads too."""
        data: dict[str, Any] = {"name": self.name, "store": self.store.value, "on_error": self.on_error.value}
        if self.description:
            data["description"] = self.description
        if self.version != 1:
            data["version"] = self.version
        source: dict[str, JsonValue] = {}
        if self.aggregate_types is not None:
            source["aggregate_types"] = list(self.aggregate_types)
        if self.event_types is not None:
            source["event_types"] = list(self.event_types)
        if source:
            data["from"] = source
        data["tables"] = {table.name: _table_data(table) for table in self.tables}
        if self.class_name is not None:
            data |= {"class": self.class_name, "code": self.code}
        else:
            data["on"] = {name: [action.to_data() for action in actions] for name, actions in self.on.items()}
        return data


def _table_data(table: TableShape) -> dict[str, Any]:
    columns = {column.name: {"type": column.type.value, "default": column.default} for column in table.columns}
    return {"columns": columns, "key": list(table.key), "indexes": [list(index) for index in table.indexes]}
