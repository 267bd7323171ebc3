"""The history: every published event and every processing step as rows in DuckDB, questioned with SQL."""

from event_streaming_bus.store.history.answers import QueryResult
from event_streaming_bus.store.history.history import History
from event_streaming_bus.store.history.sql_gate import TABLES

__all__ = ["TABLES", "History", "QueryResult"]
