"""Events that a consumer sets aside: as dead letters, with where they come from."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.consumers.deliveries import Deliveries
from event_streaming_bus.consumers.delivery_history import DeliveryHistory, error_of
from event_streaming_bus.consumers.model import Group
from event_streaming_bus.consumers.split_ledger import Stretch
from event_streaming_bus.consumers.split_reader import SplitReader
from event_streaming_bus.models import Event, ProcessingStage, Split, StreamInfo
from event_streaming_bus.store.dead_letters import dead_letter
from event_streaming_bus.store.history_records import DEAD, EventError, Published, Run, to_event
from event_streaming_bus.store.log.base import Append, AppendResult, Journal
from event_streaming_bus.store.redeliveries import redelivery_of
from event_streaming_bus.store.storage import Storage

PARKED = "Parked"
"""The type of error of an event that was parked for a reason in words."""
_PLACE = ("stream_id", "stream", "lane", "partition", "offset")


class Parking:
    """Writes dead letters without waiting for them, each with what the history is told of it. An event is done once its letter is
    on disk; if it cannot be written, it is delivered again, and the next commit raises why. A letter has an id of its own
    place: parking an event twice writes one.

    The letter of an event that was redelivered tells where the event was read at first, of all attempts, and in
    ``redelivered_from`` of the letter before it.
    """

    def __init__(
        self,
        storage: Storage,
        group: Group,
        deliveries: Deliveries,
        streams: Mapping[str, StreamInfo],
        history: DeliveryHistory,
    ) -> None:
        self._storage = storage
        self._group = group
        self._deliveries = deliveries
        self._streams = streams
        self._history = history
        self._letters = storage.dead_letters(group.tenant_id)
        self._told_to = storage.history()
        self._under_way: set[Future[list[AppendResult]]] = set()
        self._failure: BaseException | None = None

    def park(self, event: Event, reader: SplitReader, offset: int, reason: BaseException | str, member_id: str | None) -> bool:
        """Write the letter of an event, if it is still in hand; whether it was."""
        event = reader.hands.get(offset, event)  # as it is stored: in what the user has, personal values are shown
        if not self._deliveries.park(reader, offset):
            return False
        split, error = reader.split, error_of(reason, PARKED)
        try:
            letter = self._letter(event, reader, offset, reason, member_id)
            stretch = Stretch(split, offset, 1, bytes([DEAD]), (error,), self._deliveries.started_us(reader, offset))
            journal = self._journal(letter, stretch)
            written = self._storage.log.submit([Append(self._letters.stream_id, [letter])], journal=journal)
        except BaseException:
            self._deliveries.not_parked(reader, offset)
            raise
        self._under_way.add(written)
        written.add_done_callback(partial(self._parked, reader, offset, error))
        return True

    def _letter(
        self, event: Event, reader: SplitReader, offset: int, reason: BaseException | str, member_id: str | None
    ) -> Event:
        split, group = reader.split, self._group
        place: dict[str, Any] = {"lane": split.lane.value, "partition": split.partition, "offset": offset}
        attempts, more = reader.retries(offset) + 1, {"group_id": group.group_id, "member_id": member_id}
        told = redelivery_of(event) if reader.is_redelivery else None
        if told is not None:
            metadata = {name: value for name, value in (event.metadata or {}).items() if name != "redelivery"}
            event = msgspec.structs.replace(event, metadata=metadata or None)
            place = {name: told[name] for name in _PLACE if name in told}
            attempts += int(told.get("attempts", 0))
            more["redelivered_from"] = told.get("dead_letter_id")
        return dead_letter(
            event,
            event_id=ids.derived_id(ids.EVENT, event.timestamp_ms, "parked", group.group_id, split, offset),
            stream=self._stream(split),
            step=f"consumer:{group.name}",
            error_type=PARKED if isinstance(reason, str) else type(reason).__name__,
            message=str(reason),
            failed_at_ms=time.time_ns() // 1_000_000,
            position=place,
            attempts=attempts,
            **more,
        )

    def _stream(self, split: Split) -> StreamInfo:
        """The stream of a split; that of redeliveries is none of those that the consumer was made with."""
        found = self._streams.get(split.stream_id)
        return found or self._storage.log.find_stream(self._group.tenant_id, split.stream_id)

    def _journal(self, letter: Event, stretch: Stretch) -> Journal:
        """What the history is told: that the letter was written, and that the group gave the event up."""
        started_us, attempts = time.time_ns() // 1000, (letter.metadata or {})["dead_letter"]["attempts"]

        def journal(results: Sequence[AppendResult]) -> Append | None:
            runs = [Run(s.stream_id, s.lane.value, s.partition, at, n) for result in results for s, at, n in result.written]
            if not runs:  # there was such a letter already
                return None
            now_us, output = time.time_ns() // 1000, {"dead_letter_id": letter.event_id, "attempts": attempts}
            published = Published(tenant_id=self._group.tenant_id, runs=runs, accepted_us=started_us, appended_us=now_us)
            dead = self._history.record(ProcessingStage.DEAD_LETTER, stretch, output)
            return Append(self._told_to.stream_id, [to_event(published), to_event(dead)], new_ids=True)

        return journal

    def _parked(self, reader: SplitReader, offset: int, error: EventError, written: "Future[list[AppendResult]]") -> None:
        failure = written.exception()
        if failure is None:
            self._deliveries.parked(reader, offset, error)
        else:
            self._failure = failure
            self._deliveries.not_parked(reader, offset)
        self._under_way.discard(written)

    async def finish(self) -> None:
        """Wait until the letters are on disk. Raises what kept one from being written."""
        await asyncio.gather(*map(asyncio.wrap_future, self._under_way), return_exceptions=True)
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise what kept a letter from being written since the last call."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
