"""The questions that are being answered: how many at once, for how long, in how much memory; and how each of them ended.

One thread looks after all of them. DuckDB counts memory for the whole process and not for a question, and does not count all of
it, so two bounds hold: DuckDB's own, and one on how far the process grows while questions are answered.
"""

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Protocol

import psutil

from event_streaming_bus import ids
from event_streaming_bus.errors import AlreadyExistsError, NotFoundError, QueryError
from event_streaming_bus.models import rfc3339

MAX_RUNNING: Final = 8
MAX_OF_TENANT: Final = 4
MAX_GROWTH_BYTES: Final = 1 << 30
"""So much more memory the process may take from when a question was asked; beyond it the last one that this is true of is
stopped."""
_KEPT: Final = 200
_TICK_S: Final = 0.05
_MAX_SQL_TOLD: Final = 2000
_QUERY_ID: Final = "qry_"
_MAX_ID: Final = 100


class _Connection(Protocol):
    def interrupt(self) -> None: ...
    def close(self) -> None: ...


class RunningQuery:
    """A question that is being answered, or was. Its connection is used by one thread at a time: whoever holds ``in_use``."""

    def __init__(self, query_id: str, tenant_id: str | None, sql: str, timeout_s: float) -> None:
        self.query_id = query_id
        self.tenant_id = tenant_id
        self.sql = sql
        self.started_ms = time.time_ns() // 1_000_000
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.in_use = threading.RLock()
        self.connection: _Connection | None = None
        self.base_bytes = 0
        self.ended_ms: int | None = None
        self.error: str | None = None
        self.rows = 0
        self.size = 0
        self.is_truncated = False

    def stop(self, why: str) -> None:
        """Have it stopped for this reason; the first one counts."""
        self.error = self.error or why
        connection = self.connection
        if connection is not None:
            with contextlib.suppress(Exception):  # it may be closed in this very moment
                connection.interrupt()

    def check(self) -> None:
        """Raise ``QueryError`` if it was stopped."""
        if self.error is not None:
            raise QueryError(self.error, query_id=self.query_id)

    def told(self) -> dict[str, Any]:
        """As JSON. ``state`` is RUNNING, COMPLETED, or FAILED, then with its ``error``."""
        state = "FAILED" if self.error is not None else "RUNNING" if self.ended_ms is None else "COMPLETED"
        return {
            "query_id": self.query_id,
            "sql": self.sql[:_MAX_SQL_TOLD],
            "state": state,
            "started_at": rfc3339(self.started_ms),
            "ended_at": None if self.ended_ms is None else rfc3339(self.ended_ms),
            "rows": self.rows,
            "bytes": self.size,
            "truncated": self.is_truncated,
            "error": self.error,
        }


class RunningQueries:
    """At most ``MAX_RUNNING`` questions at once, and ``MAX_OF_TENANT`` of one tenant; others wait. Safe to use from any thread.

    The last 200 that have ended are remembered.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: dict[tuple[str | None, str], RunningQuery] = {}
        self._ended: OrderedDict[tuple[str | None, str], RunningQuery] = OrderedDict()
        self._guard: threading.Thread | None = None

    def begin(
        self, connect: Callable[[], _Connection], sql: str, tenant_id: str | None, timeout_s: float, query_id: str | None = None
    ) -> RunningQuery:
        """A question that may use a connection of its own now. Raises ``QueryError`` if others leave no room for so long, and
        ``AlreadyExistsError`` if one with this id is running."""
        if query_id is not None and not (0 < len(query_id) <= _MAX_ID and query_id.isprintable()):
            raise QueryError(f"query_id: expected 1 to {_MAX_ID} characters")
        query = RunningQuery(query_id or ids.new_id(_QUERY_ID), tenant_id, sql, timeout_s)
        key = (tenant_id, query.query_id)
        with self._changed:
            if key in self._running:
                raise AlreadyExistsError(f"A query with the id '{query.query_id}' is running.", query_id=query.query_id)
            if not self._changed.wait_for(lambda: self._has_room(tenant_id), timeout_s):
                raise QueryError(f"other queries left no room for {timeout_s:g} s; at most {MAX_RUNNING} run at once")
            if key in self._running:
                raise AlreadyExistsError(f"A query with the id '{query.query_id}' is running.", query_id=query.query_id)
            query.deadline = time.monotonic() + timeout_s
            query.connection = connect()
            query.base_bytes = _resident_bytes()
            self._running[key] = query
            self._ended.pop(key, None)
            if self._guard is None:
                self._guard = threading.Thread(target=self._look_after, name="esb-history-queries", daemon=True)
                self._guard.start()
        return query

    def _has_room(self, tenant_id: str | None) -> bool:
        of_tenant = sum(query.tenant_id == tenant_id for query in self._running.values())
        return len(self._running) < MAX_RUNNING and (tenant_id is None or of_tenant < MAX_OF_TENANT)

    def end(self, query: RunningQuery) -> None:
        """Its connection is closed, and others have room. Ending twice is harmless."""
        with query.in_use:
            connection, query.connection = query.connection, None
        if connection is not None:
            connection.close()
        with self._changed:
            if self._running.pop((query.tenant_id, query.query_id), None) is not None:
                query.ended_ms = time.time_ns() // 1_000_000
                self._ended[query.tenant_id, query.query_id] = query
                while len(self._ended) > _KEPT:
                    self._ended.popitem(last=False)
            self._changed.notify_all()

    def cancel(self, query_id: str, tenant_id: str | None) -> RunningQuery:
        """Stop a query of a tenant. One that has ended stays as it is. Raises ``NotFoundError``."""
        query = self.find(query_id, tenant_id)
        if query.ended_ms is None:
            query.stop("the query was cancelled")
        return query

    def find(self, query_id: str, tenant_id: str | None) -> RunningQuery:
        """A query of a tenant that runs, or ended lately; for no tenant, a query over all tenants. Raises ``NotFoundError``."""
        with self._changed:
            query = self._running.get((tenant_id, query_id)) or self._ended.get((tenant_id, query_id))
        if query is None:
            raise NotFoundError(f"There is no query with the id '{query_id}'.", query_id=query_id)
        return query

    def all(self, tenant_id: str | None) -> list[RunningQuery]:
        """The queries of a tenant, or those over all tenants: the newest first, those that run before those that have ended."""
        with self._changed:
            every = [*reversed(self._running.values()), *reversed(self._ended.values())]
        return [query for query in every if query.tenant_id == tenant_id]

    def stop_all(self, why: str) -> None:
        """Have every query stopped."""
        with self._changed:
            running = list(self._running.values())
        for query in running:
            query.stop(why)

    def wait_for(self, timeout_s: float) -> bool:
        """Whether all queries that run now have ended before ``timeout_s`` is over."""
        with self._changed:
            running = list(self._running.values())
            return self._changed.wait_for(lambda: all(each.ended_ms is not None for each in running), timeout_s)

    def _look_after(self) -> None:
        while True:
            time.sleep(_TICK_S)
            with self._changed:
                running = list(self._running.values())
                if not running:
                    self._guard = None
                    return
            now = time.monotonic()
            for query in running:
                if now > query.deadline:
                    query.stop(f"the query took longer than {query.timeout_s:g} s and was stopped")
            resident = _resident_bytes()
            grown = [query for query in running if resident - query.base_bytes > MAX_GROWTH_BYTES and query.error is None]
            if grown:
                grown[-1].stop("the query needs more memory than there is for one, and was stopped")
            for query in running:
                if query.error is None:
                    continue
                if query.in_use.acquire(blocking=False):  # nobody fetches: who asked has stopped reading
                    query.in_use.release()
                    self.end(query)
                else:
                    query.stop(query.error)


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
