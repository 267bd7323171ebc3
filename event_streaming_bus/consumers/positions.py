"""Where a consumer reads: what it has, how far it has come, and going elsewhere."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from event_streaming_bus.consumers.blocking import BlockingCalls
from event_streaming_bus.consumers.deliveries import Deliveries
from event_streaming_bus.consumers.model import Partition
from event_streaming_bus.errors import InvalidInputError, InvalidStateError
from event_streaming_bus.models import Event, Position, Split, time_ms
from event_streaming_bus.store.log.base import EventLog


class Positions:
    """The part of a consumer that its user navigates by."""

    def __init__(self, log: EventLog, deliveries: Deliveries, calls: BlockingCalls) -> None:
        self._log = log
        self._deliveries = deliveries
        self._calls = calls

    @property
    def assignment(self) -> tuple[Partition, ...]:
        """The partitions that this consumer reads at the moment, those of ``retry_stream_id`` included."""
        return tuple(sorted(self._deliveries.partitions))

    @property
    def retry_stream_id(self) -> str | None:
        """The id of the stream of dead letters that were retried for this group, once there are any. All members of the group
        share its partitions, without asking for them."""
        return self._deliveries.retry_stream_id

    def position(self, event: Event) -> Position:
        """Where an event that is in hand was read: for one that is redelivered, its place on ``retry_stream_id``. Raises
        ``InvalidStateError`` for another."""
        position = self._deliveries.position(event)
        if position is None:
            raise InvalidStateError(f"The event {event.event_id} is not in hand: it is done, or its partition was taken away.")
        return position

    def offsets(self) -> dict[Split, int]:
        """For each split where to go on once all that was handed out is done: to be stored with what was made of the events."""
        return self._deliveries.resume_offsets()

    def seek(self, split: Split, offset: int) -> None:
        """Go on reading a split at ``offset``; what is in hand of it is forgotten. Raises ``InvalidStateError`` for one that is
        not assigned. An offset that is out of range is left to the group's ``auto_offset_reset``."""
        if offset < 0:
            raise InvalidInputError(f"offset: expected 0 or more, got {offset}")
        self._deliveries.seek(split, offset)

    def seek_to(self, offsets: Mapping[Split, int]) -> None:
        """``seek`` for each of these splits that is assigned; the others are passed over."""
        assigned = set(self._deliveries.splits())
        for split, offset in offsets.items():
            if split in assigned:
                self.seek(split, offset)

    async def seek_to_beginning(self, splits: Iterable[Split] | None = None) -> None:
        """Go on with the oldest events kept, in these splits or all that are assigned."""
        await self._seek_each(splits, lambda split: self._log.begin_offsets(split.stream_id)[split])

    async def seek_to_end(self, splits: Iterable[Split] | None = None) -> None:
        """Go on with what is published from now on, in these splits or all that are assigned."""
        await self._seek_each(splits, lambda split: self._log.end_offsets(split.stream_id)[split])

    async def seek_to_time(self, time: str | int | datetime, splits: Iterable[Split] | None = None) -> None:
        """Go on with the oldest record batch that has an event at or after this time, in these splits or all that are
        assigned."""
        at_ms = time_ms(time)
        await self._seek_each(splits, lambda split: self._log.offset_for_time(split, at_ms))

    async def _seek_each(self, splits: Iterable[Split] | None, find: Callable[[Split], int]) -> None:
        wanted = self._deliveries.splits() if splits is None else list(splits)
        offsets = await self._calls.run(lambda: {split: find(split) for split in wanted})
        for split, offset in offsets.items():
            self.seek(split, offset)

    def pause(self, *partitions: Partition) -> None:
        """Hand out nothing of these partitions, until ``resume`` or a rebalance."""
        self._deliveries.set_paused(partitions, paused=True)

    def resume(self, *partitions: Partition) -> None:
        """Go on with paused partitions."""
        self._deliveries.set_paused(partitions, paused=False)
