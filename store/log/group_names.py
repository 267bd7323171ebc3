"""The names under which positions are committed in a log: consumer groups, those that only call ``commit`` included."""

from contextlib import closing
from typing import Any

from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.sqlite import SqliteDatabase


def groups_of(log: EventLog, url: str) -> list[str]:
    """Every name that something is, or may be, committed under in the log that the URL opens, in order."""
    if isinstance(log, EmbeddedLog):
        with closing(SqliteDatabase(log.path)) as database, database.reading("listing groups") as db:
            rows: list[Any] = db.execute("SELECT DISTINCT consumer_group FROM group_offsets ORDER BY 1").fetchall()
        return [name for (name,) in rows]
    from event_streaming_bus.store.log.kafka_group_names import groups_on_kafka  # loads confluent_kafka: only where it is needed

    return groups_on_kafka(url)
