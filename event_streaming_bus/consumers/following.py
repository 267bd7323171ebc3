"""How a consumer follows its group: takes partitions and gives them up as the group says, and commits how far it has come."""

import inspect
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from event_streaming_bus.consumers.blocking import BlockingCalls
from event_streaming_bus.consumers.coordination import Coordinator
from event_streaming_bus.consumers.deliveries import Deliveries
from event_streaming_bus.consumers.delivery_history import DeliveryHistory
from event_streaming_bus.consumers.membership import Membership
from event_streaming_bus.consumers.model import Joined, OffsetReset, Partition
from event_streaming_bus.consumers.parking import Parking
from event_streaming_bus.consumers.split_reader import SplitReader
from event_streaming_bus.errors import FencedError
from event_streaming_bus.models import Split

Listener: TypeAlias = Callable[[Sequence[Partition]], Awaitable[None] | None]
"""Called with partitions that were given, or are taken away."""

_MOST_STEPS: Final = 8
_log: Final = logging.getLogger(__name__)


class Follower:
    """Follows a group. ``on_revoked`` is called before what is done of the revoked partitions is committed, unless they are lost
    already; ``on_assigned`` before anything is read of the new ones."""

    def __init__(
        self,
        member: Membership,
        coordinator: Coordinator,
        deliveries: Deliveries,
        parking: Parking,
        calls: BlockingCalls,
        history: DeliveryHistory,
        counts: Counter[str],
        on_assigned: Listener,
        on_revoked: Listener,
    ) -> None:
        self._member = member
        self._coordinator = coordinator
        self._deliveries = deliveries
        self._parking = parking
        self._calls = calls
        self._history = history
        self._counts = counts
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._given_up: tuple[int, dict[Split, SplitReader]] = (0, {})
        self._untold: set[Partition] = set()
        self._applied: Joined | None = None  # the group's answer that was followed last
        self.committed_s = 0.0
        """When something was committed last, by the monotonic clock."""

    async def follow(self, *, has_news: bool) -> bool:
        """Do what the group asks for; whether there may be something to read. ``has_news``: something was written to the folder
        since the last look."""
        member = self._member
        if member.polls(has_news=has_news):
            await self._calls.run(member.beat)
        for _ in range(_MOST_STEPS):  # a rebalance may come upon the other; the next poll goes on with it
            if member.failure is not None:
                raise member.failure
            if member.is_lost():
                await self._lose()
            elif member.answer is not None:
                answer = member.answer
                if answer is not self._applied:
                    await self._apply(answer)
                    self._applied = answer
                if member.is_lost():
                    continue
                if not member.answer.must_rejoin:
                    break
            await self._calls.run(member.join, self._deliveries.partitions)
        return not member.is_lost() and (self._deliveries.has_any() or not member.is_waiting())

    async def _apply(self, answer: Joined) -> None:
        """Give up, and take, what makes the difference to what the group says."""
        streams = {*self._member.stream_ids, answer.retry_stream_id}
        wanted = {partition for partition in answer.assignment if partition.stream_id in streams}
        has = self._deliveries.partitions
        if revoked := has - wanted:
            await self._tell(self._on_revoked, revoked)
            await self.commit_done()
            self._given_up = (answer.generation, self._deliveries.drop(revoked))
        self._deliveries.retry_stream_id = answer.retry_stream_id
        if not self._member.is_lost() and (given := wanted - has):
            generation, kept = self._given_up
            again = {split: reader for split, reader in kept.items() if Partition(split.stream_id, split.partition) in given}
            self._given_up = (0, {})
            await self._calls.run(self._begin, given, again if answer.generation == generation + 1 else {})
            if self._member.group.config.auto_offset_reset is OffsetReset.LATEST:
                await self.commit_done()  # or whoever reads on, before a first commit, would begin at a later end
        if self._untold:  # also what a poll that was cancelled meanwhile has not told any more
            if told := self._untold & self._deliveries.partitions:
                await self._tell(self._on_assigned, told)
            self._untold.clear()

    def forget(self, stream_id: str) -> None:
        """A stream was dropped: read the others."""
        if stream_id in self._member.stream_ids:
            self._member.stream_ids.remove(stream_id)
        self._deliveries.drop([partition for partition in self._deliveries.partitions if partition.stream_id == stream_id])

    def _begin(self, partitions: set[Partition], again: Mapping[Split, SplitReader]) -> None:
        """Read these partitions from now on: those that nobody has had since, and whose offsets nobody has set, where they were
        given up, the others where the group is."""
        self._untold |= partitions
        committed = self._coordinator.committed(self._member.group.group_id)
        again = {split: reader for split, reader in again.items() if committed.get(split) == reader.committed}
        self._deliveries.resume(again)
        starts = self._deliveries.starts(partitions, committed)
        self._deliveries.assign({split: offset for split, offset in starts.items() if split not in again}, committed)

    async def _lose(self) -> None:
        """The group has gone on without this member: forget what it had."""
        had = self._deliveries.partitions
        self._counts["put_out"] += 1
        _log.warning("a consumer lost its place in group %s and joins again: %s", self._member.group.name, self._member.lost)
        self._given_up = (0, {})
        self._deliveries.drop(had)
        if had:
            await self._tell(self._on_revoked, had)

    async def _tell(self, listener: Listener, partitions: Iterable[Partition]) -> None:
        told = listener(sorted(partitions))
        if inspect.isawaitable(told):
            await told

    # --- commits ------------------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Commit what is done. Raises ``FencedError`` if it is too late."""
        offsets = self._deliveries.uncommitted()
        if offsets or self._member.is_lost() or self._member.failure is not None:
            # Not a method: a thread that holds on to the follower keeps a consumer alive that was forgotten.
            await self._calls.run(_commit, self._member, self._deliveries, self._history, offsets)
        else:
            self._history.tell()
        self.committed_s = time.monotonic()

    async def commit_done(self) -> None:
        """As ``commit``; if it is too late, that is counted and told in the log, and the member joins anew."""
        self._parking.raise_failure()
        try:
            await self.commit()
        except FencedError as error:
            self._counts["fenced"] += 1
            _log.warning("%s", error)


def _commit(member: Membership, deliveries: Deliveries, history: DeliveryHistory, offsets: dict[Split, int]) -> None:
    member.commit(offsets)
    history.delivered(deliveries.committed(offsets))
