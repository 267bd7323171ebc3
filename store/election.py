"""Which of the nodes that share a database leads: the one that holds an advisory lock of PostgreSQL, for as long as its session
lives.

The session says every second that it is alive, and the server ends one that does not for ``SILENT_MS``, so a node that is cut
off or stands still loses the lead, and another takes it. The node that lost it learns so from its next sign of life. In between
both may believe that they lead: what a leader writes must be fenced by other means, as flows and projections are.
"""

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import BusError
from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.store.postgres import connected, postgres_errors

if TYPE_CHECKING:
    import psycopg

EVERY_S: Final = 1.0
SILENT_MS: Final = 8_000
_GONE_S: Final = 60
_LOCK_KEY: Final = 0x4553424C  # "ESBL"
_SESSION: Final = (
    f"SET idle_session_timeout = {SILENT_MS}; SET tcp_keepalives_idle = 3; SET tcp_keepalives_interval = 2; "
    f"SET tcp_keepalives_count = 2; SET tcp_user_timeout = {SILENT_MS}"
)
_log: Final = logging.getLogger(__name__)


class Node(msgspec.Struct, frozen=True):
    """A node: where it answers, whether it says that it leads, and how long ago, in seconds, it was heard of."""

    node_id: str
    url: str
    is_leader: bool
    silent_s: float


class Election:
    """This node's part in it. ``url`` is where others reach this node. Nothing happens before ``start``."""

    def __init__(self, place: PostgresPlace, url: str) -> None:
        self.node_id: Final = ids.new_id("node_")
        self._place = place
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None
        self._has_led = False
        self._leads = False
        self._others: list[Node] = []
        self._heard_s = float("-inf")  # when the last sign of life was given
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def leads(self) -> bool:
        """Whether this node leads, as of its last sign of life."""
        return self._leads

    @property
    def is_over(self) -> bool:
        """Whether this node has led and does so no more. It does not run again: its process is to be started anew."""
        return self._has_led and not self._leads

    def leader(self) -> Node | None:
        """The node that leads, unless nobody does, or it was not heard of for ``SILENT_MS``; as of at most a second ago."""
        return next((each for each in self._others if each.is_leader and each.silent_s * 1000 < SILENT_MS), None)

    def nodes(self) -> list[Node]:
        """All that were heard of within a minute; as of at most a second ago."""
        return self._others

    def start(self) -> None:
        """Take part from now on; whether this node leads is known when this returns. Raises ``StorageError``."""
        self._beat()
        self._thread = threading.Thread(target=self._run, name="esb-election", daemon=True)
        self._thread.start()

    def failed(self) -> None:
        """This node cannot do what a leader does: another may lead at once, and this one is over."""
        self._leave()
        self._leads = False

    def close(self) -> None:
        """Leave: another may lead at once. Closing twice is harmless."""
        self._leave()
        if self._leads:
            self._leads = self._has_led = False  # it has given the lead back, and not lost it

    def _leave(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._connection is not None:
            try:
                with postgres_errors(self._place, "leaving"), self._connection as connection:
                    connection.execute("DELETE FROM nodes WHERE node_id = %s", (self.node_id,))
            except BusError:
                pass  # it is forgotten within a minute
            self._connection = None

    def _run(self) -> None:
        is_away = False
        while not self._stop.wait(EVERY_S) and not self.is_over:
            try:
                self._beat()
                is_away = False
            except BusError as error:
                if not is_away:
                    _log.warning("No sign of life can be given: %s", error.message)
                is_away = True

    def _beat(self) -> None:
        """Give a sign of life, try for the lead, and look who else is there."""
        begun = time.monotonic()
        try:
            if self._connection is None:
                self._connection = connected(self._place)
                with postgres_errors(self._place, "joining"):
                    self._connection.execute(_SESSION.encode())
            with postgres_errors(self._place, "giving a sign of life"):
                leads = self._try(self._connection)
                self._others = self._look(self._connection)
        except BusError:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._leads and self._has_been_silent(begun):
                self._leads = False
            raise
        self._heard_s = time.monotonic()
        if self._leads and not leads:
            _log.warning("Another node leads now.")
        self._leads = leads
        self._has_led = self._has_led or leads

    def _has_been_silent(self, now: float) -> bool:
        """Whether the server may have given the lead to another by now, so that this node must not go on as if it had it."""
        return now - self._heard_s > SILENT_MS / 1000

    def _try(self, connection: "psycopg.Connection[Any]") -> bool:
        """Whether this session holds the lock, which it takes if nobody does."""
        leads = self._holds(connection)
        if not leads:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK_KEY,)).fetchone()
            leads = row is not None and bool(row[0])
            if leads:
                connection.execute("UPDATE nodes SET is_leader = FALSE WHERE is_leader AND node_id <> %s", (self.node_id,))
        connection.execute(
            "INSERT INTO nodes (node_id, url, is_leader) VALUES (%s, %s, %s) ON CONFLICT (node_id) DO UPDATE SET "
            "url = excluded.url, is_leader = excluded.is_leader, seen_at = now()",
            (self.node_id, self._url, leads),
        )
        return leads

    def _holds(self, connection: "psycopg.Connection[Any]") -> bool:
        row = connection.execute(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND pid = pg_backend_pid() AND granted",
            (_LOCK_KEY,),
        ).fetchone()
        return row is not None

    def _look(self, connection: "psycopg.Connection[Any]") -> list[Node]:
        connection.execute("DELETE FROM nodes WHERE seen_at < now() - %s * interval '1 second'", (_GONE_S,))
        rows = connection.execute(
            "SELECT node_id, url, is_leader, extract(epoch FROM now() - seen_at)::float8 FROM nodes ORDER BY started_at, node_id"
        )
        return [Node(*row) for row in rows.fetchall()]
