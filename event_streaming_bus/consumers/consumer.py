"""Consuming with the SDK: a member of a group that polls, or iterates over, the events of streams.

At least once: an event is delivered until it is done, and what is done is committed at times, so after a crash a
little of it is delivered again. Within a generation of the group no event is delivered to two members.
"""

import asyncio
import logging
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple, TypeAlias

from event_streaming_bus.consumers.blocking import BlockingCalls
from event_streaming_bus.consumers.coordination import Coordinator, coordinator_of
from event_streaming_bus.consumers.delivery_history import DeliveryHistory, error_of
from event_streaming_bus.consumers.following import Follower
from event_streaming_bus.consumers.membership import Membership
from event_streaming_bus.consumers.model import Group, GroupConfig, Partition
from event_streaming_bus.consumers.parking import Parking
from event_streaming_bus.consumers.positions import Positions
from event_streaming_bus.consumers.split_reader import SplitReader
from event_streaming_bus.consumers.traced import deliveries
from event_streaming_bus.errors import (
    AlreadyExistsError,
    ClosedError,
    GroupNotFoundError,
    InvalidInputError,
    StreamNotFoundError,
)
from event_streaming_bus.flows.retries import Retrier
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.models import DEFAULT_TENANT, Event, Split, StreamInfo
from event_streaming_bus.registry.protection import reveal_events
from event_streaming_bus.store.storage import Storage

Listener: TypeAlias = Callable[["Consumer", Sequence[Partition]], Awaitable[None] | None]
"""Called with the consumer and the partitions that it was given, or that are taken away from it."""

MAX_POLL_EVENTS: Final = 100_000
_SLICE_S: Final = 0.1
_JOINING_S: Final = 0.02
_TURN_S: Final = 0.005
_LOOK_S: Final = 0.001
_LOOK_AT_BROKERS_S: Final = 0.01
_GIVEN_BACK: Final = "it was given back"
_log: Final = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Events, and for each split that they are of where it was read from, and where it is to be read on after them."""

    events: list[Event]
    before: dict[Split, int]
    after: dict[Split, int]


class Consumer(Positions):
    """Reads the events of streams as a member of a consumer group. Made by ``Bus.consumer``.

    It joins the group when it is entered as a context manager, or polled, and leaves when it is closed. In between a thread sends
    its heartbeats, also while the user's code is busy; a rebalance of the group is followed by the polls, so whoever does not
    poll for the group's ``rebalance_timeout_ms`` while there is one, or for ``max_poll_interval_ms``, is put out. The next poll
    then joins anew, logs a warning and counts it in ``counts["put_out"]``.

    ``auto_commit``: at a poll all that earlier polls handed out, and that was not given to ``nack`` or ``park``, is done. What is
    done is committed at a poll, at most every ``commit_interval_ms`` (when there is nothing to hand out, at once), before
    partitions are given up, and on leaving. Without it an event is done when it is acknowledged or parked, or, if nothing ever is
    acknowledged, when ``commit`` is called.

    One task polls at a time. ``ack``, ``nack`` and ``park`` may be called from any task and any thread.
    """

    def __init__(
        self,
        storage: Storage,
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
        on_assigned: Listener | None = None,
        on_revoked: Listener | None = None,
    ) -> None:
        if isinstance(streams, str) or not streams:
            raise InvalidInputError("streams: expected a list of at least one name or id", path="streams")
        _check_count("max_poll_events", max_poll_events)
        if max_unacknowledged < 1:
            raise InvalidInputError(f"max_unacknowledged: expected at least 1, got {max_unacknowledged}")
        log, coordinator = storage.log, coordinator_of(storage)
        self._keys = storage.subject_keys
        found = [log.find_stream(tenant_id, stream) for stream in streams]
        self._streams: dict[str, StreamInfo] = {info.stream_id: info for info in found}
        self._group = _find_group(coordinator, tenant_id, group)
        self.counts: Counter[str] = Counter()
        """``put_out``, ``fenced``, ``resets``, ``redelivered``, ``parked`` and ``expired``: how often each has happened."""
        handing_out = deliveries(log, max_unacknowledged, self.counts, self._group, self._streams)
        super().__init__(log, handing_out, BlockingCalls(log, self._group.name))
        self._auto_commit, self._max_poll_events = auto_commit, max_poll_events
        self._asks_brokers = coordinator.look_s is not None
        self._look_s = _LOOK_AT_BROKERS_S if self._asks_brokers else _LOOK_S
        self._commit_interval_s = commit_interval_ms / 1000
        self._pause_ms = Retrier(retry or RetryPolicy()).pause_ms
        self._history = DeliveryHistory(storage, self._group)
        self._member = Membership(coordinator, self._group, list(self._streams), client_id, self._history.tell)
        self._parking = Parking(storage, self._group, self._deliveries, self._streams, self._history)
        self._follower = Follower(
            self._member,
            coordinator,
            self._deliveries,
            self._parking,
            self._calls,
            self._history,
            self.counts,
            partial(on_assigned or _nobody, self),
            partial(on_revoked or _nobody, self),
        )
        self._polling = asyncio.Lock()
        self._acknowledges = self._is_closed = self._is_entered = False
        self._yielded_s = self._looked_s = 0.0
        self._before: dict[Split, int] = {}  # where each split would have been read on before the last poll
        # Who forgets to close a consumer has it put out by its timeouts, not kept alive for ever by its thread.
        weakref.finalize(self, _forget, self._member, self._calls)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def poll(self, max_events: int | None = None, timeout_s: float = 1.0) -> list[Event]:
        """The next events, at most ``max_events`` (by default ``max_poll_events``): at once if there are any, else as soon as
        there are, and none after ``timeout_s`` or while the group is paused.

        CRITICAL events come first, then the lanes share (see ``lanes``). Raises ``GroupNotFoundError`` once the group was
        deleted, ``StreamNotFoundError`` once for a stream that was dropped (the next poll goes on with the others),
        ``OffsetOutOfRangeError`` if there is no offset to go on at and the group's ``auto_offset_reset`` is none, and
        ``ClosedError``.
        """
        most = self._max_poll_events if max_events is None else max_events
        _check_count("max_events", most)
        async with self._polling:
            return await self._poll(most, timeout_s)

    async def _poll(self, most: int, timeout_s: float) -> list[Event]:
        started_s = time.monotonic()
        deadline_s = started_s + timeout_s
        if started_s - self._yielded_s > _TURN_S:  # others of the event loop get their turn, though events never run out
            await asyncio.sleep(0)
            self._yielded_s = time.monotonic()
        if self._auto_commit and not self._member.is_lost():
            self._deliveries.settle()
        while True:
            self._check_open()
            try:
                has_news = await self._has_news()
                may_read = await self._follower.follow(has_news=has_news)
                self._check_open()  # it may have been closed meanwhile
                if may_read and (has_news or self._deliveries.is_dry()):
                    await self._fetch()
                self._looked_s = time.monotonic() if may_read else 0.0
            except StreamNotFoundError as error:
                retries = self.retry_stream_id
                if retries is None or retries != error.details.get("stream"):
                    raise self._dropped(error) from error
                self._follower.forget(retries)  # the group was deleted, or goes on without it
                may_read = False
            if may_read:
                if self._auto_commit and time.monotonic() - self._follower.committed_s >= self._commit_interval_s:
                    await self._follower.commit_done()
                if self._member.is_in_doubt():  # the process was stopped meanwhile: others may have what it would hand out
                    continue
                if not self._is_paused() and not self._member.is_lost():
                    self._before = self._deliveries.resume_offsets()
                    if events := self._deliveries.take(most):
                        return list(reveal_events(self._keys, events))
                if self._auto_commit:
                    await self._follower.commit_done()
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return []
            if may_read and not self._is_paused():
                await self._wait(min(left_s, _SLICE_S))
            else:
                await asyncio.sleep(min(left_s, _JOINING_S))

    async def _has_news(self) -> bool:
        """Whether something was written to the log. Brokers are asked for that in a thread, so the event loop goes on."""
        return await self._calls.run(self._deliveries.has_news) if self._asks_brokers else self._deliveries.has_news()

    def _is_paused(self) -> bool:
        return self._member.answer is not None and self._member.answer.is_paused

    async def _fetch(self) -> None:
        await self._calls.run(self._deliveries.fetch, list(self._streams), only_look=self._is_paused())
        for told in self._deliveries.resets:
            self.counts["resets"] += 1
            _log.warning("consumer of group %s: %s", self._group.name, told)
        self._deliveries.resets.clear()

    def _dropped(self, error: StreamNotFoundError) -> StreamNotFoundError:
        """What to tell of a stream that was dropped. The consumer goes on with the others, if there are any."""
        stream = self._streams.get(str(error.details.get("stream")))
        if stream is None:
            return error
        rest = ""
        if len(self._streams) > 1:
            del self._streams[stream.stream_id]
            self._follower.forget(stream.stream_id)
            rest = " The next poll goes on with the others."
        return StreamNotFoundError(
            f"The stream '{stream.name}', which consumer group '{self._group.name}' reads, was dropped.{rest}", stream=stream.name
        )

    async def _wait(self, timeout_s: float) -> None:
        with suppress(StreamNotFoundError):  # the next look at the streams tells it
            await self._calls.run(self._deliveries.wait, timeout_s)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events, for ever, one at a time: a CRITICAL one that arrives is the next, a millisecond later at the latest, or ten
        where brokers are asked. An event is done when the next one is asked for. Outside of ``async with`` the consumer is closed
        when the loop is left, and the event at hand is not done."""
        try:
            while not self._is_closed:
                events = self._take_at_once()
                if not events:
                    with self._closing():
                        events = await self.poll(max_events=1)
                for event in events:
                    yield event
        finally:
            if not self._is_entered:
                await self.close(settle=False)

    def _take_at_once(self) -> list[Event]:
        """The next event, if the log and the group were looked at a moment ago and it is read ahead: that is quicker than a
        poll."""
        is_due = time.monotonic() - self._looked_s > self._look_s
        member = self._member
        if is_due or self._polling.locked() or self._is_paused() or member.is_lost() or member.is_in_doubt():
            return []
        if self._auto_commit:
            self._deliveries.settle()
        return list(reveal_events(self._keys, self._deliveries.take(1)))

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """That the consumer was closed meanwhile is the end, and no error."""
        try:
            yield
        except ClosedError:
            if not self._is_closed:
                raise

    @asynccontextmanager
    async def batch(self, max_events: int | None = None, timeout_s: float = 1.0) -> AsyncIterator[Batch]:
        """A poll as a context: when it is left, its events are done; when it is left by an error, they are delivered again."""
        events = await self.poll(max_events, timeout_s)
        splits = {place[0].split for event in events if (place := self._deliveries.find(event)) is not None}
        after = self._deliveries.resume_offsets(list(splits))
        try:
            yield Batch(events, {split: self._before[split] for split in splits}, after)
        except BaseException:
            self._deliveries.put_back()
            raise
        self._deliveries.settle()

    # --- what becomes of events ---------------------------------------------------------------------------------------

    def ack(self, event: Event) -> bool:
        """The event is done. ``False`` if it is not in hand: done already, or of a partition that was taken away."""
        self._acknowledges = True
        return self._deliveries.ack(event)

    def nack(self, event: Event, error: BaseException | str = "") -> bool:
        """The event could not be processed: it is delivered again after a pause (``retry``), as often as the event's and the
        group's ``max_retries`` both allow, and then parked. Meanwhile no more events of its key are handed out. As ``ack``, tells
        whether it was in hand."""
        place = self._deliveries.find(event)
        if place is None:
            return False
        reader, offset = place
        retries = reader.retries(offset)
        if retries >= min(event.max_retries, self._group.config.max_retries):
            return self._park(event, reader, offset, error or _GIVEN_BACK)
        started_us = self._deliveries.started_us(reader, offset)
        is_in_hand = self._deliveries.nack(reader, offset, time.monotonic() + self._pause_ms(retries + 1) / 1000)
        self.counts["redelivered"] += is_in_hand
        if is_in_hand:
            told = error_of(error or _GIVEN_BACK, "GivenBack")
            self._history.given_back(reader.split, offset, told, retries + 1, started_us)
        return is_in_hand

    def park(self, event: Event, reason: BaseException | str) -> bool:
        """Put the event on the stream ``_dead_letters``, with where it comes from; it is done once it is on disk there. As
        ``ack``, tells whether it was in hand."""
        place = self._deliveries.find(event)
        return place is not None and self._park(event, *place, reason)

    def _park(self, event: Event, reader: SplitReader, offset: int, reason: BaseException | str) -> bool:
        is_in_hand = self._parking.park(event, reader, offset, reason, self._member.member_id)
        self.counts["parked"] += is_in_hand
        return is_in_hand

    async def commit(self) -> None:
        """Commit what is done: if nothing was ever acknowledged, all that has been handed out, else what was acknowledged. Of
        each split the offset of the first event that is not done counts.

        Raises ``FencedError`` if the group has gone on without this consumer: its events will be delivered again.
        """
        if not self._acknowledges and not self._member.is_lost():
            self._deliveries.settle()
        await self._parking.finish()
        await self._follower.commit()

    # --- its life -----------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """The generation of the group that this consumer was told last."""
        return self._member.generation

    @property
    def member_id(self) -> str | None:
        """The consumer's id in the group; ``None`` while it is no member."""
        return self._member.member_id

    async def __aenter__(self) -> "Consumer":
        self._is_entered = True
        async with self._polling:
            await self._follower.follow(has_news=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(settle=error is None)

    async def close(self, *, settle: bool = True) -> None:
        """Leave the group. With ``auto_commit``, what was handed out last is done, unless ``settle`` says no; what is done is
        committed. A poll that waits raises ``ClosedError``. Closing twice is harmless."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            async with self._polling:
                if self._member.failure is None and not self._member.is_lost():
                    if settle and self._auto_commit:
                        self._deliveries.settle()
                    await self._parking.finish()
                    await self._follower.commit_done()
        finally:
            self._deliveries.drop(self._deliveries.partitions)  # what is in hand is this consumer's no more
            try:
                await self._calls.run(self._member.leave)
                await self._calls.run(self._history.finish)
            finally:
                self._calls.close()

    def abandon(self) -> None:
        """Leave the group without a last commit, for whoever closes the data folder. Blocks until nothing is read any more."""
        self._is_closed = True
        self._calls.close(wait=True)
        self._member.leave()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("The consumer is closed.")


def _forget(member: Membership, calls: BlockingCalls) -> None:
    member.stop()
    calls.close()


def _check_count(name: str, value: int) -> None:
    if not 1 <= value <= MAX_POLL_EVENTS:
        raise InvalidInputError(f"{name}: expected 1 to {MAX_POLL_EVENTS:,}, got {value}", path=name)


def _find_group(coordinator: Coordinator, tenant_id: str, reference: str) -> Group:
    """The group, made with the default settings if it is not there."""
    for _ in range(2):
        with suppress(GroupNotFoundError):
            return coordinator.get(tenant_id, reference)
        with suppress(AlreadyExistsError):  # made by another process since, with other settings
            return coordinator.create(tenant_id, GroupConfig(group_name=reference))
    return coordinator.get(tenant_id, reference)


def _nobody(consumer: Consumer, partitions: Sequence[Partition]) -> None:
    """The listener of those who do not listen."""
