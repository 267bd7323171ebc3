"""The gate for users' SQL: one reading statement, over the documented tables, and for a tenant over its own rows only."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

import duckdb

from event_streaming_bus.errors import QueryError
from event_streaming_bus.store.history.database import SQL, told

TABLES: Final = ("events", "processing_history", "dead_letters", "processor_runs", "late_events", "rebalances")
_READING: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_TABLE_FUNCTIONS: Final = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree", "repeat"})


def check_statement(sql: str) -> None:
    """Raise ``QueryError`` unless ``sql`` is one statement that only reads."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(told(error)) from error
    if len(statements) != 1:
        raise QueryError(f"expected one SQL statement, got {len(statements)}")
    if statements[0].type not in _READING:
        raise QueryError(f"{statements[0].type.name} is not allowed: history is read only; SELECT, WITH, FROM and EXPLAIN are")


def tenant_schema(tenant_id: str) -> str:
    """The name of the schema with a tenant's views."""
    return "tenant_" + hashlib.sha256(tenant_id.encode()).hexdigest()[:32]


def check_tenant_tables(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise ``QueryError`` unless ``sql`` names nothing but the documented tables, its own WITH tables and a few harmless
    table functions.

    What could reach around the tenant's views is refused: names with a schema or database in front; and WITH tables named like
    a table of DuckDB's or the bus's own, for outside of its WITH such a name means that table.
    """
    row = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    try:
        tree = json.loads(row[0]) if row else {"error": True}
    except RecursionError:
        raise QueryError("the statement is nested too deeply") from None
    if tree.get("error"):
        raise QueryError(str(tree.get("error_message") or "this statement is not allowed here; use SELECT"))
    own = {entry["key"].lower() for node in _nodes(tree) for entry in (node.get("cte_map") or {}).get("map", [])} - {*TABLES}
    taken = own & {name for (name,) in connection.execute(SQL["select_taken_names"]).fetchall()}
    if taken:
        raise QueryError(f"WITH {min(taken)}: this name is taken; choose another")
    for node in _nodes(tree):
        kind = node.get("type")
        if kind == "BASE_TABLE":
            if node.get("schema_name") or node.get("catalog_name"):
                raise QueryError(f"{node.get('table_name')}: name tables without a schema; there is {', '.join(TABLES)}")
            if node.get("table_name", "").lower() not in {*TABLES, *own}:
                raise QueryError(f"there is no table {node.get('table_name')}; there is {', '.join(TABLES)}")
        elif kind == "TABLE_FUNCTION":
            name = str(node.get("function", {}).get("function_name", "")).lower()
            if name not in _TABLE_FUNCTIONS:
                raise QueryError(f"the table function {name} is not allowed; {', '.join(sorted(_TABLE_FUNCTIONS))} are")
        elif kind == "SHOW_REF":
            raise QueryError(f"DESCRIBE, SHOW and SUMMARIZE are not allowed here; there is {', '.join(TABLES)}")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON tree."""
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
