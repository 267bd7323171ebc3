"""Answers to requests that came with a key of their own, so that the same request again is answered without being done again.

They are kept for a day, and at most ``MAX_KEYS`` of a tenant: of more, the oldest go.
"""

from functools import partial
from typing import Final

import msgspec

from event_streaming_bus.store.database import Place, open_database
from event_streaming_bus.store.patient_clock import patient_ms, wall_ms
from event_streaming_bus.store.published_once import Once, PublishedOnce
from event_streaming_bus.store.sql import load_queries

KEPT_MS: Final = 24 * 3_600_000
MAX_KEYS: Final = 10_000
MAX_ANSWER_BYTES: Final = 64 << 10
SQL: Final = load_queries("idempotency.sql")


class KeptAnswer(msgspec.Struct, frozen=True):
    """How a request was answered. ``request_hash``: of the request; ``body`` is None if it was too large to keep."""

    request_hash: str
    status: int
    content_type: str
    body: bytes | None


class IdempotencyStore:
    """Answers by tenant, route and key. Safe to use from any thread and any number of processes."""

    def __init__(self, place: Place) -> None:
        self._db = open_database(place, tables=SQL["create_tables"], name="idempotency")

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self._db.close()

    def find(self, tenant_id: str, route: str, key: str) -> KeptAnswer | None:
        """The answer that was kept for a key, if it is not too old."""
        values = (tenant_id, route, key, patient_ms() - KEPT_MS)
        with self._db.querying("looking for a kept answer") as db:
            row = db.execute(SQL["select_answer"], values).fetchone()
        return None if row is None else KeptAnswer(*row)

    def keep(self, tenant_id: str, route: str, key: str, answer: KeptAnswer) -> None:
        """Keep an answer; a body that is too large is left out. It is on disk when this returns."""
        body = answer.body if answer.body is not None and len(answer.body) <= MAX_ANSWER_BYTES else None
        now_ms = wall_ms()
        with self._db.transaction("keeping an answer") as db:
            (newest_ms,) = db.execute(SQL["select_newest"], (tenant_id,)).fetchone()
            if newest_ms is not None and newest_ms > now_ms:
                now_ms = newest_ms + 1  # the clock was set back: the newest answer is none of the oldest, which go
            values = (tenant_id, route, key, answer.request_hash, answer.status, answer.content_type, body, now_ms)
            db.execute(SQL["delete_old"], (tenant_id, patient_ms() - KEPT_MS))
            db.execute(SQL["upsert_answer"], values)
            db.execute(SQL["delete_surplus"], (tenant_id, MAX_KEYS))

    def once(self, tenant_id: str, name: str) -> Once:
        """What lets a publication be made once in a day under a name of the tenant's."""
        return partial(PublishedOnce, tenant_id, name)
