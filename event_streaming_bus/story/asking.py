"""Questions to the history for stories: rows of one tenant, as dictionaries."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from event_streaming_bus.store.history import History
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.story.model import Place

SQL: Final = load_queries("stories.sql", "event_streaming_bus.story")

Row = dict[str, Any]


class Rows:
    """Asks the history of one tenant. Blocks."""

    def __init__(self, history: History, tenant_id: str, timeout_s: float) -> None:
        self._history = history
        self.tenant_id = tenant_id
        self._timeout_s = timeout_s

    def of(self, name: str, values: Mapping[str, Any], **parts: str) -> list[Row]:
        """The rows of a query of ours. ``parts`` are put into its text; they are never made of what events carry."""
        sql = SQL[name].format(**parts) if parts else SQL[name]
        result = self._history.query(sql, tenant_id=self.tenant_id, timeout_s=self._timeout_s, parameters=values)
        return [dict(zip(result.columns, row, strict=True)) for row in result.rows()]


def place(row: Row, by: str | None = None) -> Place:
    """A row's event and its place."""
    return Place(
        event_id=row["event_id"],
        event_type=row["event_type"],
        stream=row["stream"],
        lane=row["lane"],
        partition=row["partition"],
        offset=row["offset"],
        timestamp=utc(row["timestamp"]),
        published_at=utc(row.get("published_at")),
        by=by,
    )


def utc(moment: datetime | None) -> str | None:
    """A time of the history as text."""
    return None if moment is None else moment.isoformat(timespec="milliseconds") + "Z"


def ms_between(start: datetime, end: datetime) -> float:
    """Milliseconds from one time to another."""
    return round((end - start).total_seconds() * 1000, 3)


def epoch_ms(moment: datetime) -> int:
    """A time of the history as milliseconds since 1970 UTC."""
    return round(moment.replace(tzinfo=UTC).timestamp() * 1000)


def epoch_us(moment: datetime) -> int:
    """A time of the history as microseconds since 1970 UTC."""
    whole = moment.replace(tzinfo=UTC)
    return int(whole.replace(microsecond=0).timestamp()) * 1_000_000 + whole.microsecond
