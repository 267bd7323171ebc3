"""Where the stream that the history is made from ends."""

import sqlite3
from typing import NamedTuple

from event_streaming_bus.models import LANES, EventPriority
from event_streaming_bus.store.history_records import HISTORY_STREAM, SYSTEM_TENANT


class HistoryEnd(NamedTuple):
    """The id of the stream ``_history`` and the offset after its last record."""

    stream_id: str
    offset: int


def history_end(db: sqlite3.Connection) -> HistoryEnd | None:
    """Where ``_history`` ends in a log; None if there is no such stream yet. Raises ``sqlite3.Error``."""
    query = """
        SELECT stream_id, end_offset FROM streams JOIN splits USING (stream_no)
        WHERE tenant_id = ? AND name = ? AND partition = 0 AND lane = ?
    """
    row = db.execute(query, (SYSTEM_TENANT, HISTORY_STREAM, LANES.index(EventPriority.NORMAL))).fetchone()
    return None if row is None else HistoryEnd(*row)
