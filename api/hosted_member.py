"""A member of a consumer group that this server hosts for a client that consumes over HTTP.

The SDK's consumer does the reading, the heartbeats and the commits. What is added is what HTTP needs: a client names events by
their ids or positions, its answers can get lost on the way, and it can vanish without a word.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from event_streaming_bus.api.consuming_hands import Delivery, EventPlace, Hands, stream_not_read
from event_streaming_bus.api.log_watch import LogWatch
from event_streaming_bus.consumers.consumer import Consumer
from event_streaming_bus.consumers.coordination import coordinator_of
from event_streaming_bus.consumers.model import Group, GroupState, Partition
from event_streaming_bus.consumers.resets import AtOffset, AtTime, Place, read_target
from event_streaming_bus.errors import (
    BusError,
    ClosedError,
    FencedError,
    InvalidInputError,
    InvalidStateError,
    UnknownMemberError,
)
from event_streaming_bus.models import Event, EventPriority, Split
from event_streaming_bus.store.redeliveries import retry_stream_name
from event_streaming_bus.store.storage import Storage

__all__ = ["SLICE_S", "Delivery", "HostedMember", "unknown_member"]

SLICE_S: Final = 0.1
"""How long a poll may not notice that its client is gone, or that the server stops."""

_LOOK_S: Final = 0.1  # how old the group's state may be that a poll tells
_TURN_S: Final = 2.0
_log: Final = logging.getLogger(__name__)


class HostedMember:
    """A member, and what its client has in hand. Belongs to the event loop that made it.

    At least once: with ``auto_commit`` a poll says that the answer before it has arrived, unless the client says otherwise
    (``received``); without it only what is acknowledged is done. Either way an answer that is known to be lost is given again.
    """

    def __init__(
        self,
        storage: Storage,
        watch: LogWatch,
        tenant_id: str,
        group: Group,
        consumer: Consumer,
        names: Mapping[str, str],
    ) -> None:
        self.tenant_id = tenant_id
        self.group = group
        self.auto_commit = True
        self.is_streamed = False
        """Whether its events go to an event stream, and not to polls."""
        self.requests = 0
        """How many requests of its client are being answered, an open event stream among them."""
        self.heard_s = time.monotonic()
        self.member_id = ""
        self.batch = 0
        """The number of the last answer with events."""
        self.is_dirty = False
        """Whether something was acknowledged or parked that is not committed yet."""
        self._consumer = consumer
        self._watch = watch
        self._coordinator = coordinator_of(storage)
        self._names = dict(names)
        self._hands = Hands()
        self._last: list[Delivery] = []
        self._again: list[Delivery] = []  # handed out by the consumer, but not to the client
        self._polling = asyncio.Lock()
        self._committing = asyncio.Lock()
        self._has_acked = False
        self._paused: set[Partition] = set()
        self._looked_s, self._is_rebalancing = 0.0, False

    @classmethod
    async def join(
        cls,
        storage: Storage,
        watch: LogWatch,
        tenant_id: str,
        group: str,
        streams: Sequence[str],
        *,
        auto_commit: bool = True,
        is_streamed: bool = False,
        **options: Any,
    ) -> "HostedMember":
        """Join a group, by its id or name; ``options`` are those of a ``Consumer``. Raises ``GroupNotFoundError``,
        ``StreamNotFoundError`` and ``InvalidInputError``."""
        hosted: list[HostedMember] = []

        def revoked(consumer: Consumer, partitions: Sequence[Partition]) -> None:
            for member in hosted:
                member._forget(lambda split: Partition(split.stream_id, split.partition) in partitions)
                member._paused.difference_update(partitions)

        def make() -> HostedMember:
            found = coordinator_of(storage).get(tenant_id, group)
            consumer = Consumer(
                storage,
                found.group_id,
                streams,
                tenant_id=tenant_id,
                auto_commit=auto_commit,
                on_revoked=revoked,
                **options,
            )
            infos = [storage.log.find_stream(tenant_id, stream) for stream in streams]
            return cls(storage, watch, tenant_id, found, consumer, {info.stream_id: info.name for info in infos})

        member = await asyncio.to_thread(make)
        member.auto_commit, member.is_streamed = auto_commit, is_streamed
        hosted.append(member)
        try:
            await member._consumer.__aenter__()
            member.member_id = member._consumer.member_id or ""
            member.check_place()
        except BaseException:
            await member._consumer.close(settle=False)
            raise
        return member

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def names(self) -> Mapping[str, str]:
        """The names of the streams that it reads, by their ids: those that it asked for, and that of its group's redeliveries."""
        retries = self._consumer.retry_stream_id
        if retries is not None and retries not in self._names:
            self._names[retries] = retry_stream_name(self.group.group_id)
        return self._names

    def _ids(self) -> dict[str, str]:
        """The ids of these streams, by name and id."""
        names = self.names
        return {name: stream_id for stream_id, name in names.items()} | {each: each for each in names}

    @property
    def generation(self) -> int:
        """The generation of the group that it was told last."""
        return self._consumer.generation

    async def poll(
        self, most: int, timeout_s: float, is_over: Callable[[], bool], *, received: int | None = None
    ) -> list[Delivery]:
        """The next events, as soon as there are any; none after ``timeout_s``, or soon after ``is_over`` says that nobody waits.

        ``received``: the number of the last answer with events that the client has got; if it is the one before the last, the
        last one is given again. One poll at a time: raises ``InvalidStateError`` if another one does not end. Raises what the
        consumer's poll raises, and ``FencedError`` once it was put out of its group.
        """
        async with self._turn():
            is_again = received is not None and self._is_lost(received)
            if is_again:  # under the same number, for this answer can get lost, too
                self._again = [each for each in self._last if each.position in self._hands] + self._again
                self.batch -= 1
            self._last = []
            if self._again:
                self.check_place()
                taken, self._again = self._again[:most], self._again[most:]
            else:
                taken = await self._read(most, timeout_s, is_over)
            if taken and is_over():
                self._again = taken + self._again
                return []
            if taken:
                self.batch += 1
                self._last = taken
            return taken

    def _is_lost(self, received: int) -> bool:
        """Whether the last answer with events was lost, if this is the number of the last one that has arrived."""
        if not max(0, self.batch - 1) <= received <= self.batch:
            raise InvalidInputError(
                f"received: expected the number of the last answer, {self.batch}, or of the one before it; got {received}"
            )
        return received < self.batch

    async def _read(self, most: int, timeout_s: float, is_over: Callable[[], bool]) -> list[Delivery]:
        deadline_s = time.monotonic() + timeout_s
        while True:
            self.check_place()
            version = self._watch.version()
            if self.auto_commit:  # the poll settles them
                self._hands.clear()
            events = await self._consumer.poll(most, timeout_s=0)
            self.check_place()
            if events:
                return self._handed_out(events)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or is_over():
                return []
            await self._watch.wait(version, min(left_s, SLICE_S))

    def _handed_out(self, events: Iterable[Event]) -> list[Delivery]:
        taken = [Delivery(event, self._consumer.position(event)) for event in events]
        names = self.names
        for each in taken:
            self._hands.add(each, names)
        return taken

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            await asyncio.wait_for(self._polling.acquire(), _TURN_S)
        except TimeoutError:
            raise InvalidStateError(
                f"Another poll of member '{self.member_id}' is waiting for events. Let more members join to poll side by side.",
                member_id=self.member_id,
            ) from None
        try:
            yield
        finally:
            self._polling.release()

    def check_place(self) -> None:
        """Raise ``FencedError`` if it was put out of its group."""
        if not self.is_member():
            raise FencedError(
                f"Member '{self.member_id}' was put out of consumer group '{self.group.name}', which has gone on without it. "
                "What it had not committed will be delivered again. Join again to become a member.",
                group=self.group.name,
                member_id=self.member_id,
            )

    def is_member(self) -> bool:
        """Whether it is still the member that it joined as, as far as it has been told."""
        return bool(self.member_id) and self._consumer.member_id == self.member_id

    async def is_rebalancing(self) -> bool:
        """Whether the group is being shared out anew, as it was at most 0.1 s ago. Raises ``GroupNotFoundError``."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            group = await asyncio.to_thread(self._coordinator.get, self.tenant_id, self.group.group_id)
            self._looked_s, self._is_rebalancing = now_s, group.state is GroupState.PREPARING
        return self._is_rebalancing

    def offsets(self) -> dict[Split, int]:
        """For each split where to go on once all that was handed out is done."""
        return self._consumer.offsets()

    def assignment(self) -> list[dict[str, Any]]:
        """The partitions that it reads, as plain data."""
        names, paused = self.names, self._paused
        return [
            {"stream": names.get(each.stream_id, each.stream_id), "partition": each.partition, "is_paused": each in paused}
            for each in self._consumer.assignment
        ]

    # --- what becomes of events ---------------------------------------------------------------------------------------

    def chosen(
        self, positions: Iterable[EventPlace], event_ids: Iterable[str], up_to: Iterable[EventPlace]
    ) -> tuple[list[Delivery], list[Any]]:
        """The events in hand that are meant, as ``Hands.chosen`` says."""
        return self._hands.chosen(positions, event_ids, up_to, self._ids())

    def ack(self, events: Iterable[Delivery]) -> int:
        """They are done; how many were in hand. Committed within a moment."""
        return self._done(events, self._consumer.ack)

    def nack(self, events: Iterable[Delivery], error: str) -> int:
        """They could not be processed: they are delivered again after a pause, or parked after the last retry."""
        return self._done(events, lambda event: self._consumer.nack(event, error))

    def park(self, events: Iterable[Delivery], reason: str) -> int:
        """They are set aside as dead letters, and done."""
        return self._done(events, lambda event: self._consumer.park(event, reason))

    def _done(self, events: Iterable[Delivery], act: Callable[[Event], bool]) -> int:
        self.check_place()
        count = 0
        for event, position in events:
            count += act(event)
            self._hands.drop(position)
            # Even of an event that is out of hand, an ack tells the consumer that what is in hand is not done by itself.
            self._consumer.ack(event)
        self._has_acked = self.is_dirty = True
        return count

    async def commit(self) -> None:
        """Commit what is done; if nothing was ever acknowledged, that is all that was delivered. Raises ``FencedError``."""
        self.check_place()
        if self._again and not self._has_acked:
            raise InvalidStateError("An answer was lost on its way to the client. Poll again before this is committed.")
        async with self._committing:
            self.is_dirty = False
            await self._consumer.commit()
        if not self._has_acked:
            self._forget(lambda split: True)

    async def commit_soon(self) -> None:
        """Commit what was acknowledged. If that cannot be, it is told in the log, and to the client when it next asks."""
        try:
            await self.commit()
        except ClosedError:
            pass
        except BusError as error:
            _log.warning("commit of member %s of group %s: %s", self.member_id, self.group.name, error)

    # --- where it reads -----------------------------------------------------------------------------------------------

    async def seek(
        self, stream: str | None, partition: int | None, lane: EventPriority | None, offset: int | None, to: object
    ) -> list[Split]:
        """Go on elsewhere, in all that is assigned or less; returns the splits that are meant. What is in hand of them is
        forgotten. Raises ``InvalidInputError``, ``StreamNotFoundError``, and ``InvalidStateError`` for what is not assigned."""
        if (offset is None) == (to is None):
            raise InvalidInputError('expected either "offset", or "to": "earliest", "latest" or {"timestamp": ...}')
        target = read_target({"offset": offset} if to is None else to)
        if isinstance(target, AtOffset) and (stream is None or partition is None):
            raise InvalidInputError("stream, partition: required with an offset; the lane is NORMAL unless it is given")
        self.check_place()
        stream_id = None if stream is None else self._stream_id(stream)
        if isinstance(target, AtOffset):
            lane = lane or EventPriority.NORMAL
        splits = [
            split
            for split in self._consumer.offsets()
            if stream_id in (None, split.stream_id) and partition in (None, split.partition) and lane in (None, split.lane)
        ]
        if not splits:
            raise InvalidStateError(f"Nothing of that is assigned to member '{self.member_id}' at the moment.")
        async with self._turn():
            match target:
                case AtOffset(at):
                    for split in splits:
                        self._consumer.seek(split, at)
                case AtTime(at_ms):
                    await self._consumer.seek_to_time(at_ms, splits)
                case Place.EARLIEST:
                    await self._consumer.seek_to_beginning(splits)
                case Place.LATEST:
                    await self._consumer.seek_to_end(splits)
            self._forget(set(splits).__contains__)
        return splits

    def set_paused(self, partitions: Iterable[tuple[str, int]], *, paused: bool) -> None:
        """Hand out nothing of these partitions, until they are resumed or taken away; or go on with them. Raises
        ``StreamNotFoundError``, and ``InvalidStateError`` for one that is not assigned: then nothing is changed."""
        self.check_place()
        meant = {Partition(self._stream_id(stream), partition) for stream, partition in partitions}
        (self._consumer.pause if paused else self._consumer.resume)(*meant)
        self._paused = self._paused | meant if paused else self._paused - meant

    def _stream_id(self, stream: str) -> str:
        ids = self._ids()
        if stream not in ids:
            raise stream_not_read(stream, ids)
        return ids[stream]

    def _forget(self, is_meant: Callable[[Split], bool]) -> None:
        """Nothing of these splits is in the client's hands any more."""
        self._hands.forget(is_meant)
        self._last = [each for each in self._last if not is_meant(each.position.split)]
        self._again = [each for each in self._again if not is_meant(each.position.split)]

    # --- its end ------------------------------------------------------------------------------------------------------

    def is_silent(self, now_s: float) -> bool:
        """Whether its client has shown no sign of life for the group's session timeout."""
        return not self.requests and now_s - self.heard_s > self.group.config.session_timeout_ms / 1000

    def unknown(self, why: str) -> UnknownMemberError:
        """What to tell a client that asks for it when it is no member any more."""
        return unknown_member(self.group.name, self.member_id, why)

    async def close(self, *, settle: bool, received: int | None = None) -> None:
        """Leave the group, and commit what is done. With ``settle`` and automatic commits, what was handed out last is done,
        unless the client has said that it was lost."""
        settle = settle and received in (None, self.batch)
        with suppress(ClosedError):
            await self._consumer.close(settle=settle and not self._again)

    def abandon(self) -> None:
        """As the consumer's ``abandon``."""
        self._consumer.abandon()


def unknown_member(group: str, member_id: str, why: str = "") -> UnknownMemberError:
    """That a group has no such member here, or not any more."""
    any_more = f" any more: {why}." if why else "."
    return UnknownMemberError(
        f"'{member_id}' is no member of consumer group '{group}' that joined over HTTP{any_more} Join to become one.",
        group=group,
        member_id=member_id,
    )
