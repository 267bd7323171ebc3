"""Consuming from a server: a member of a group that polls, or iterates over, the events of streams."""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final

from event_streaming_bus.client.client_errors import ServerUnreachableError, not_remote
from event_streaming_bus.client.connecting import Connection
from event_streaming_bus.client.options import ClientOptions
from event_streaming_bus.client.positions import Positions
from event_streaming_bus.client.pulse import Pulse
from event_streaming_bus.client.remote_service import Data
from event_streaming_bus.client.requests import given
from event_streaming_bus.client.session import MAX_POLL_EVENTS, MAX_POLL_S, Membership, Session
from event_streaming_bus.client.waiting import Lock
from event_streaming_bus.consumers.consumer import Batch
from event_streaming_bus.errors import ClosedError, FencedError, InvalidInputError, UnknownMemberError
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.models import DEFAULT_TENANT, Event, Split

_MAX_EVENTS: Final = 100_000
_TELL_S: Final = 0.1
_MAX_LOSSES: Final = 3
_log: Final = logging.getLogger(__name__)


class Consumer(Positions):
    """Reads the events of streams as a member of a consumer group that a server hosts. Made by ``RemoteBus.consumer``.

    As in process: it joins the group when it is entered or polled, and leaves when it is closed; a thread sends its heartbeats;
    an event is delivered until it is done. What is said of events by ``ack``, ``nack`` and ``park`` is kept here, and goes to the
    server with the next poll or commit, before anything else; the server commits it within a moment. Where the server has lost
    the member, for it was started anew, say, the next poll joins again, and what was not committed is delivered again.

    How often it commits is the server's to say: about five times a second, whatever ``commit_interval_ms``. The server accepts
    ``max_unacknowledged`` up to 100,000. Payloads come as JSON.
    Iterating reads ``max_poll_events`` ahead, so that a CRITICAL event comes behind those that are here already.
    """

    def __init__(
        self,
        url: str | Connection,
        group: str,
        streams: Sequence[str],
        *,
        client_id: str = "",
        auto_commit: bool = True,
        max_poll_events: int = 500,
        tenant_id: str = DEFAULT_TENANT,
        commit_interval_ms: int = 100,
        max_unacknowledged: int = 10_000,
        retry: RetryPolicy | None = None,
        token: str | None = None,
        options: ClientOptions | None = None,
        **local: Any,
    ) -> None:
        if local:
            raise not_remote(f"setting {', '.join(sorted(local))}", "the server decides that; consume in process to set it")
        if isinstance(streams, str) or not streams:
            raise InvalidInputError("streams: expected a list of at least one name or id", path="streams")
        _check_count("max_poll_events", max_poll_events)
        super().__init__(Session(url, token=token, options=options), group, tenant_id)
        self._wanted = {
            "streams": list(streams),
            "client_id": client_id,
            "max_unacknowledged": max_unacknowledged,
            **given(retry=None if retry is None else retry.to_data()),
        }
        self._auto_commit, self._max_poll_events = auto_commit, max_poll_events
        self.counts: Counter[str] = Counter()
        """``put_out``, ``redelivered``, ``parked`` and ``not_in_hand`` (what the server was told of in vain): how often."""
        self._polling = Lock()
        self._pulse: Pulse | None = None
        self._generation = self._batch = 0
        self._acknowledges = self._is_closed = self._is_entered = self._is_lost = False
        self._told_s = 0.0

    # --- reading ------------------------------------------------------------------------------------------------------

    async def poll(self, max_events: int | None = None, timeout_s: float = 1.0) -> list[Event]:
        """The next events, at most ``max_events`` (by default ``max_poll_events``) and 5000: at once if there are any, else as
        soon as there are, and none after ``timeout_s`` or while the group is paused.

        Raises what the server's member raises, and ``ClosedError``.
        """
        most = self._max_poll_events if max_events is None else max_events
        _check_count("max_events", most)
        async with self._polling:
            if self._auto_commit:
                self._hands.settle()
            if events := self._hands.take(most):
                return events
            await self._fetch(most, timeout_s)
            return self._hands.take(most)

    async def _fetch(self, most: int, timeout_s: float) -> None:
        """Read ahead what there is, or comes within the time."""
        until_s = time.monotonic() + timeout_s
        losses = 0
        while True:
            self._check_open()
            try:
                member = await self._joined()
                await self._tell(member)
                wait_s = min(max(0.0, until_s - time.monotonic()), MAX_POLL_S)
                answer = await self._session.poll(member, min(most, MAX_POLL_EVENTS), wait_s, self._batch, self._tenant_id)
                if answer.generation != self._generation:
                    self._take_note(await self._session.tell(member, "heartbeat", self._tenant_id))
            except (UnknownMemberError, FencedError) as error:
                losses += 1
                if losses == _MAX_LOSSES:
                    raise
                self._lose(error)
                continue
            if answer.events:
                self._batch = answer.batch
                self._hands.add(answer.events)
                return
            if time.monotonic() >= until_s:
                return

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events, for ever, one at a time. An event is done when the next one is asked for. Outside of a ``with`` the
        consumer is closed when the loop is left, and the event at hand is not done."""
        try:
            while not self._is_closed:
                for event in self._at_hand() or await self._next():
                    yield event
        finally:
            if not self._is_entered:
                await self.close(settle=False)

    def _at_hand(self) -> list[Event]:
        """The next event that was read ahead, unless there is something to ask or to tell."""
        if self._auto_commit:
            self._hands.settle()
        if self._is_lost or self._polling.locked() or time.monotonic() - self._told_s > _TELL_S:
            return []
        return self._hands.take(1)

    async def _next(self) -> list[Event]:
        try:
            async with self._polling:
                if self._member_id is not None and not self._is_lost:
                    try:
                        await self._tell(self._member())
                    except (UnknownMemberError, FencedError) as error:
                        self._lose(error)
                events = self._hands.take(1)
                if not events:
                    await self._fetch(self._max_poll_events, MAX_POLL_S)
                    events = self._hands.take(1)
                return events
        except ClosedError:
            if not self._is_closed:
                raise
            return []

    @asynccontextmanager
    async def batch(self, max_events: int | None = None, timeout_s: float = 1.0) -> AsyncIterator[Batch]:
        """A poll as a context: when it is left, its events are done; when it is left by an error, they are delivered again."""
        events = await self.poll(max_events, timeout_s)
        before: dict[Split, int] = {}
        after: dict[Split, int] = {}
        for event in events:
            split, offset = self.position(event)
            before[split] = min(before.get(split, offset), offset)
            after[split] = max(after.get(split, 0), offset + 1)
        try:
            yield Batch(events, before, after)
        except BaseException:
            self._hands.put_back()
            raise
        self._hands.settle()

    # --- what becomes of events ---------------------------------------------------------------------------------------

    def ack(self, event: Event) -> bool:
        """The event is done. ``False`` if it is not in hand."""
        self._acknowledges = True
        return self._hands.done_with(event, "ack")

    def nack(self, event: Event, error: BaseException | str = "") -> bool:
        """The event could not be processed: it is delivered again after a pause, as often as the event's and the group's
        ``max_retries`` both allow, and then parked. As ``ack``, tells whether it was in hand."""
        is_in_hand = self._hands.done_with(event, "nack", _reason(error))
        self.counts["redelivered"] += is_in_hand
        return is_in_hand

    def park(self, event: Event, reason: BaseException | str) -> bool:
        """Put the event on the stream ``_dead_letters``; it is done once it is on disk there. As ``ack``, tells whether it was in
        hand."""
        is_in_hand = self._hands.done_with(event, "park", _reason(reason) or "parked")
        self.counts["parked"] += is_in_hand
        return is_in_hand

    async def commit(self) -> None:
        """Commit what is done: if nothing was ever acknowledged, all that has been handed out, else what was acknowledged. Raises
        ``FencedError`` if the group has gone on without this consumer: its events will be delivered again."""
        self._check_open()
        if self._member_id is None:
            return
        if not self._acknowledges:
            self._hands.settle()
        try:
            member = self._member()
            await self._tell(member)
            self._assigned = await self._session.tell(member, "commit", self._tenant_id)
        except UnknownMemberError as error:
            self._is_lost = True
            raise FencedError(error.message, **error.details) from error

    async def _tell(self, member: Membership) -> None:
        """Tell the server what became of events."""
        acts = self._hands.acts()
        try:
            while acts:
                self.counts["not_in_hand"] += await self._session.act(member, acts[0], self._tenant_id)
                acts.pop(0)
        finally:
            if acts:
                self._hands.give_back(acts)
        self._told_s = time.monotonic()

    # --- its life -----------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """The generation of the group that this consumer was told last."""
        return self._generation

    @property
    def member_id(self) -> str | None:
        """The consumer's id in the group; ``None`` while it is no member."""
        return self._member_id

    async def _joined(self) -> Membership:
        if self._is_lost:
            self._lose(FencedError(f"Member '{self._member_id}' was put out of consumer group '{self._group}'."))
        if self._member_id is None:
            told = await self._session.join(self._group, self._wanted, self._tenant_id)
            self._hands.clear()
            self._batch = 0
            self._member_id, self._generation, self._assigned = told["member_id"], told["generation"], told
            self._pulse = Pulse(self, told["heartbeat_interval_ms"] / 1000)
        return self._member()

    def _lose(self, error: BaseException) -> None:
        _log.warning("consumer of group %s joins anew, and gets again what it had not committed: %s", self._group, error)
        self.counts["put_out"] += 1
        self._end()
        self._hands.clear()

    def _end(self) -> None:
        if self._pulse is not None:
            self._pulse.stop()
        self._pulse = self._member_id = None
        self._is_lost = False

    def beat(self) -> bool:
        """Tell the server that this consumer is there; whether it is to be told again. Blocks."""
        if self._member_id is None or self._is_closed:
            return False
        try:
            told = self._session.beat(self._member(), self._tenant_id)
        except (UnknownMemberError, FencedError):
            self._is_lost = True
            return False
        self._take_note(told)
        return True

    def _take_note(self, told: Data) -> None:
        """The server has told the generation, and what this member reads in it."""
        has_changed = told["generation"] != self._generation
        self._generation, self._assigned = told["generation"], told
        if has_changed:
            self._note_paused(told)
            self._hands.keep_of({(each["stream"], each["partition"]) for each in told["assignment"]})

    async def __aenter__(self) -> "Consumer":
        self._is_entered = True
        async with self._polling:
            await self._joined()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(settle=error is None)

    async def close(self, *, settle: bool = True) -> None:
        """Leave the group. With ``auto_commit``, what was handed out last is done, unless ``settle`` says no; what is done is
        committed. Closing twice is harmless. If the server cannot be reached, the group puts the member out by itself."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._member_id is not None and not self._is_lost:
                if settle and self._auto_commit:
                    self._hands.settle()
                member = self._member()
                if self._hands.has_acts:
                    await self._tell(member)
                    await self._session.tell(member, "commit", self._tenant_id)
                await self._session.leave(member, self._batch, self._tenant_id)
        except (UnknownMemberError, FencedError, ClosedError, ServerUnreachableError) as error:
            _log.warning("consumer of group %s did not leave in good order: %s", self._group, error)
        finally:
            self._end()
            self._session.close()

    def abandon(self) -> None:
        """Leave the group without a last commit. Blocks."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._member_id is not None:
                self._session.leave_now(self._member(), self._batch, self._tenant_id)
        except (UnknownMemberError, FencedError, ClosedError, ServerUnreachableError) as error:
            _log.warning("consumer of group %s did not leave in good order: %s", self._group, error)
        finally:
            self._end()
            self._session.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("The consumer is closed.")


def _reason(error: BaseException | str) -> str:
    return error if isinstance(error, str) else f"{type(error).__name__}: {error}"


def _check_count(name: str, value: int) -> None:
    if not 1 <= value <= _MAX_EVENTS:
        raise InvalidInputError(f"{name}: expected 1 to {_MAX_EVENTS:,}, got {value}", path=name)
