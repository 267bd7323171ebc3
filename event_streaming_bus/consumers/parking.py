"""Events that a consumer sets aside: as dead letters, with where they come from."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial

from event_streaming_bus import ids
from event_streaming_bus.consumers.deliveries import Deliveries
from event_streaming_bus.consumers.model import Group
from event_streaming_bus.consumers.split_reader import SplitReader
from event_streaming_bus.models import Event, StreamInfo
from event_streaming_bus.store.dead_letters import dead_letter
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.storage import Storage

PARKED = "Parked"
"""The type of error of an event that was parked for a reason in words."""


class Parking:
    """Writes dead letters without waiting for them. An event is done once its letter is on disk; if it cannot be written, it is
    delivered again, and the next commit raises why. A letter has an id of its own place: parking an event twice writes one."""

    def __init__(self, storage: Storage, group: Group, deliveries: Deliveries, streams: Mapping[str, StreamInfo]) -> None:
        self._storage = storage
        self._group = group
        self._deliveries = deliveries
        self._streams = streams
        self._letters = storage.dead_letters(group.tenant_id)
        self._under_way: set[Future[list[AppendResult]]] = set()
        self._failure: BaseException | None = None

    def park(self, event: Event, reader: SplitReader, offset: int, reason: BaseException | str, member_id: str | None) -> bool:
        """Write the letter of an event, if it is still in hand; whether it was."""
        if not self._deliveries.park(reader, offset):
            return False
        split, group = reader.split, self._group
        letter = dead_letter(
            event,
            event_id=ids.derived_id(ids.EVENT, event.timestamp_ms, "parked", group.group_id, split, offset),
            stream=self._streams[split.stream_id],
            step=f"consumer:{group.name}",
            error_type=PARKED if isinstance(reason, str) else type(reason).__name__,
            message=str(reason),
            failed_at_ms=time.time_ns() // 1_000_000,
            position={"lane": split.lane.value, "partition": split.partition, "offset": offset},
            attempts=reader.retries(offset) + 1,
            group_id=group.group_id,
            member_id=member_id,
        )
        try:
            written = self._storage.log.submit([Append(self._letters.stream_id, [letter])])
        except BaseException:
            self._deliveries.parked(reader, offset, failed=True)
            raise
        self._under_way.add(written)
        written.add_done_callback(partial(self._parked, reader, offset))
        return True

    def _parked(self, reader: SplitReader, offset: int, written: "Future[list[AppendResult]]") -> None:
        self._failure = written.exception() or self._failure
        self._deliveries.parked(reader, offset, failed=written.exception() is not None)
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
