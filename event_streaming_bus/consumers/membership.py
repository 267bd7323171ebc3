"""A consumer's membership in its group: joined, kept alive by a thread of its own, and left."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from event_streaming_bus.consumers.coordination import Coordinator
from event_streaming_bus.consumers.model import Group, Joined, Partition
from event_streaming_bus.errors import BusError, ClosedError, FencedError, GroupNotFoundError, UnknownMemberError
from event_streaming_bus.models import Split

_LOOK_S: Final = 0.1  # how long a change of the group may go unnoticed while its member polls
_STOPPED_S: Final = 5.0
_log: Final = logging.getLogger(__name__)


class Membership:
    """A member of a group, or one to be.

    A thread sends heartbeats, however long the user's code is busy; only joining is left to the member's polls, since what is in
    the user's hands must be given up before. ``answer`` is what the group said last: what the member may read. The
    calls block, and are safe to use from any thread; one at a time goes to the coordinator. ``on_beat`` is called by the thread
    from time to time.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        group: Group,
        stream_ids: Sequence[str],
        client_id: str,
        on_beat: Callable[[], object],
    ) -> None:
        self.group = group
        self.stream_ids = list(stream_ids)
        self.answer: Joined | None = None
        self.lost: BusError | None = None
        """Why the member lost all that it held, if it did: others may have it by now."""
        self.failure: BusError | None = None
        """Why the member can do nothing any more: its group was deleted, or the data folder closed."""
        self._coordinator = coordinator
        self._client_id = client_id
        self._on_beat = on_beat
        self._lock = threading.RLock()
        self._member_id: str | None = None
        self._told = 0
        self._has_polled, self._has_news = True, False
        self._heard_s = self._polled_s = time.monotonic()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        config = group.config
        self._session_s = config.session_timeout_ms / 1000
        self._poll_s = min(config.heartbeat_interval_ms, config.max_poll_interval_ms / 10) / 1000
        if coordinator.look_s is not None:
            self._poll_s = min(self._poll_s, coordinator.look_s)

    @property
    def member_id(self) -> str | None:
        """The member's id, while it is one."""
        return self._member_id

    @property
    def generation(self) -> int:
        """The generation that the member was told last."""
        return self._told

    # --- polls --------------------------------------------------------------------------------------------------------

    def polls(self, *, has_news: bool) -> bool:
        """Note that the user asks for events; whether a heartbeat is due first. ``has_news``: something was written to the
        log, which may be a change of the group. Does not block."""
        self._has_polled = True
        self._has_news |= has_news
        silent_s = time.monotonic() - min(self._heard_s, self._polled_s)
        if self._member_id is not None and self._coordinator.has_news(self._member_id):
            return True
        return silent_s >= self._poll_s or (self._has_news and silent_s >= _LOOK_S)

    def is_lost(self) -> bool:
        """Whether all that the member held may be another's by now."""
        return self.lost is not None

    def is_in_doubt(self) -> bool:
        """Whether the group may have put the member out unheard: the process was asleep, or stopped, for as long as that takes.
        A heartbeat tells."""
        return time.monotonic() - self._heard_s >= self._session_s

    def is_waiting(self) -> bool:
        """Whether the member has joined and waits for others, or has still to join."""
        return self.answer is None or (self.answer.is_rebalancing and not self.answer.must_rejoin)

    def join(self, owned: Iterable[Partition]) -> None:
        """Join the group, or join it again. What was lost before is lost."""
        with self._lock:
            asked_s = time.monotonic()
            try:
                answer = self._join(self._member_id, () if self.lost else tuple(owned))
            except UnknownMemberError as error:  # told to the user before it joins anew
                self.lost, self._member_id = error, None
                return
            self.lost = None
            self._heard(answer, asked_s)
            if self._thread is None:
                name = f"esb-member-{self.group.name}"
                self._thread = threading.Thread(target=self._keep_alive, name=name, daemon=True)
                self._thread.start()

    def _join(self, member_id: str | None, owned: Sequence[Partition]) -> Joined:
        return self._coordinator.join(
            self.group.group_id, self.stream_ids, member_id=member_id, client_id=self._client_id, owned=owned
        )

    def beat(self) -> None:
        """Send a heartbeat now, and hear what the group says."""
        with self._lock:
            if self._member_id is None or self.lost is not None:
                return
            polled, self._has_polled, self._has_news = self._has_polled, False, False
            asked_s = time.monotonic()
            try:
                answer = self._coordinator.heartbeat(self.group.group_id, self._member_id, self._told, polled=polled)
            except (UnknownMemberError, FencedError) as error:
                self.lost = error
                if isinstance(error, UnknownMemberError):
                    self._member_id = None
                return
            except GroupNotFoundError as error:
                self.failure = error
                raise
            if polled:
                self._polled_s = time.monotonic()
            self._heard(answer, asked_s)

    def _heard(self, answer: Joined, asked_s: float) -> None:
        self._heard_s = asked_s  # not now: the process may have been stopped since the group answered
        self._member_id, self._told = answer.member_id, answer.generation
        self.answer = answer

    def commit(self, offsets: dict[Split, int]) -> None:
        """Commit. Raises ``FencedError`` if others may have what was read, also for a member that was put out."""
        with self._lock:
            if self.failure is not None:
                raise self.failure
            lost = self.lost
            if lost is None and self._member_id is not None:
                try:
                    self._coordinator.commit(self.group.group_id, self._member_id, self._told, offsets)
                    return
                except (UnknownMemberError, FencedError) as error:
                    self.lost = lost = error
                    if isinstance(error, UnknownMemberError):
                        self._member_id = None
        raise FencedError(
            f"The commit of this consumer of group '{self.group.name}' came too late, and was refused: what it had read may be "
            "another member's by now. Nothing was committed, and the events will be delivered again. The next poll joins the "
            "group again." + (f" ({lost.message})" if lost is not None else ""),
            group=self.group.name,
            member_id=self._member_id,
            generation=self._told,
        ) from lost

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _keep_alive(self) -> None:
        interval_s = self.group.config.heartbeat_interval_ms / 1000
        while not self._stopping.wait(interval_s):
            try:
                self.beat()
                self._on_beat()
            except (GroupNotFoundError, ClosedError) as error:
                self.failure = error
                return
            except BusError as error:  # a full disk, for instance: it may be better next time
                _log.warning("the heartbeat of a consumer of group %s failed: %s", self.group.name, error)

    def stop(self) -> None:
        """Send no more heartbeats."""
        self._stopping.set()

    def leave(self) -> None:
        """Leave the group, if the member is in one, and end the thread."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STOPPED_S)
        with self._lock:
            member_id, self._member_id = self._member_id, None
            if member_id is not None:
                with suppress(GroupNotFoundError, ClosedError):
                    self._coordinator.leave(self.group.group_id, member_id)
