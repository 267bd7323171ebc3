"""The gate for users' SQL: one reading statement, over the documented tables, and for a tenant over its own rows only."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import duckdb

from event_streaming_bus.errors import QueryError
from event_streaming_bus.store.history.database import SQL, told

TABLES: Final = ("events", "processing_history", "dead_letters", "processor_runs", "late_events", "rebalances")
_READING: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_EXPLAIN: Final = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+)?", re.IGNORECASE)
_TABLE_FUNCTIONS: Final = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree", "repeat"})
# What waits, writes, or tells of the process instead of the history.
_REFUSED: Final = frozenset(
    {
        *("sleep_ms", "write_log", "setseed", "nextval", "currval", "setval", "getvariable", "current_setting", "getenv"),
        *("current_query", "current_schemas", "current_connection_id", "current_query_id", "current_transaction_id"),
        *("json_serialize_plan", "json_execute_serialized_sql", "query", "query_table"),
    }
)
_FOR_ADMINISTRATORS: Final = frozenset({"current_setting", "current_schemas"})
_FORMATTING: Final = frozenset({"printf", "format"})
_WIDE: Final = re.compile(r"\d{5}|[*]|\{[^{}]*\{")


def check_statement(sql: str) -> list[str]:
    """The names of the parameters of ``sql``. Raises ``QueryError`` unless it is one statement that only reads."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(told(error)) from error
    if len(statements) != 1:
        raise QueryError(f"expected one SQL statement, got {len(statements)}")
    if statements[0].type not in _READING:
        raise QueryError(f"{statements[0].type.name} is not allowed: history is read only; SELECT, WITH, FROM and EXPLAIN are")
    return sorted(statements[0].named_parameters)


def tenant_schema(tenant_id: str) -> str:
    """The name of the schema with a tenant's views."""
    return "tenant_" + hashlib.sha256(tenant_id.encode()).hexdigest()[:32]


def make_views(cursor: duckdb.DuckDBPyConnection, tenant_id: str) -> None:
    """Make the schema with a tenant's views, in one transaction."""
    schema, quoted = tenant_schema(tenant_id), tenant_id.replace("'", "''")
    cursor.begin()
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    for name in TABLES:
        cursor.execute(f"CREATE OR REPLACE VIEW {schema}.{name} AS FROM main.{name} WHERE tenant_id = '{quoted}'")
    cursor.execute(SQL["create_guards"].format(schema=schema))
    cursor.commit()


def check_names(connection: duckdb.DuckDBPyConnection, sql: str, *, is_of_tenant: bool) -> None:
    """Raise ``QueryError`` unless ``sql`` names nothing but what it may: tables, no files; functions that only compute.

    For a tenant these are the documented tables, its own WITH tables and a few harmless table functions. What could reach around
    the tenant's views is refused: names with a schema or database in front; and WITH tables named like a table of DuckDB's or the
    bus's own, for outside of its WITH such a name means that table. An administrator may name any table, and look at plans.
    """
    found = None if is_of_tenant else _EXPLAIN.match(sql)
    tree = tree_of(connection, sql[found.end() :] if found else sql)
    for node in nodes_of(tree):
        _check_function(node, is_of_tenant)
    if is_of_tenant:
        _check_tenant_tables(connection, tree)
    else:
        _check_no_files(tree)


def _check_tenant_tables(connection: duckdb.DuckDBPyConnection, tree: Any) -> None:
    own = {entry["key"].lower() for node in nodes_of(tree) for entry in (node.get("cte_map") or {}).get("map", [])} - {*TABLES}
    taken = own & {name for (name,) in connection.execute(SQL["select_taken_names"]).fetchall()}
    if taken:
        raise QueryError(f"WITH {min(taken)}: this name is taken; choose another")
    for node in nodes_of(tree):
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


def _check_no_files(tree: Any) -> None:
    """Files of the data folder can be opened by DuckDB, for the history is in some of them; but not by anybody's SQL."""
    for node in nodes_of(tree):
        name = str(node.get("table_name") or "")
        if node.get("type") == "BASE_TABLE" and re.search(r"[./\\*?:]", name):
            raise QueryError(f"{name}: files are not read; there is {', '.join(TABLES)}")
        if node.get("type") == "TABLE_FUNCTION":
            function = str(node.get("function", {}).get("function_name", "")).lower()
            if function not in _TABLE_FUNCTIONS and not function.startswith("duckdb_"):
                raise QueryError(f"the table function {function} is not allowed; {', '.join(sorted(_TABLE_FUNCTIONS))} are")


def _check_function(node: dict[str, Any], is_of_tenant: bool) -> None:
    if node.get("class") != "FUNCTION":
        return
    name = str(node.get("function_name", "")).lower()
    if name in _REFUSED and (is_of_tenant or name not in _FOR_ADMINISTRATORS):
        raise QueryError(f"the function {name} is not allowed")
    if node.get("schema") or node.get("catalog"):
        raise QueryError(f"{name}: name functions without a schema")
    if name in _FORMATTING:
        # The widths that a format asks for are made in memory that nobody counts.
        arguments = node.get("arguments") or [{}]
        literal = (arguments[0].get("expression") or {}).get("literal") or {}
        if literal.get("kind") != "STRING" or _WIDE.search(str(literal.get("text"))):
            raise QueryError(f"{name}: the format is to be a plain text, with widths below 10,000")


def tree_of(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    """A statement as DuckDB reads it. Raises ``QueryError`` for one that is no SELECT."""
    row = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    try:
        tree: dict[str, Any] = json.loads(row[0]) if row else {"error": True}
    except RecursionError:
        raise QueryError("the statement is nested too deeply") from None
    if tree.get("error"):
        raise QueryError(str(tree.get("error_message") or "this statement is not allowed here; use SELECT"))
    return tree


def nodes_of(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON tree."""
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
