"""What consumers tell the history: which events their group was delivered, which it gave back, and which it set aside."""

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future, wait
from threading import Lock
from typing import Final

import msgspec

from event_streaming_bus.consumers.model import Group
from event_streaming_bus.consumers.split_ledger import Stretch
from event_streaming_bus.errors import BusError, ClosedError
from event_streaming_bus.models import ProcessingStage, Split
from event_streaming_bus.store.history_records import DEAD, EventError, Processed, Run, to_event
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.storage import Storage

TOLD_EVERY_S: Final = 0.1
"""How long deliveries that are committed wait at the most to be told together with later ones, while the consumer polls."""
MAX_MESSAGE: Final = 2000
"""How many characters of a message of error the history is told."""
_FINISHED_S: Final = 10.0
_log: Final = logging.getLogger(__name__)


def error_of(reason: BaseException | str, kind: str) -> EventError:
    """What is told of what went wrong with an event; ``kind`` is the type of an error that is only words."""
    return EventError(0, kind if isinstance(reason, str) else type(reason).__name__, str(reason)[:MAX_MESSAGE])


class DeliveryHistory:
    """Tells the history of one consumer's deliveries, without waiting for it: they stand, whatever becomes of what is told.

    Deliveries of neighbouring events are told together, at most ten times a second, so that frequent commits do not make a
    transaction of the log each. Safe to use from any thread.
    """

    def __init__(self, storage: Storage, group: Group) -> None:
        self._log = storage.log
        self._group = group
        self._stream_id = storage.history().stream_id
        self._lock = Lock()
        self._untold: list[Stretch] = []
        self._last: dict[Split, int] = {}  # where the last stretch of each split is in the list
        self._told_s = 0.0
        self._under_way: set[Future[list[AppendResult]]] = set()

    def record(self, stage: ProcessingStage, stretch: Stretch, output: object = None) -> Processed:
        """The record of something that the group did with these events."""
        split, group = stretch.split, self._group
        return Processed(
            tenant_id=group.tenant_id,
            processor_id=group.group_id,
            processor_name=f"consumer:{group.name}",
            stage=stage.value,
            run=Run(split.stream_id, split.lane.value, split.partition, stretch.offset, stretch.size),
            started_us=stretch.started_us or time.time_ns() // 1000,
            completed_us=time.time_ns() // 1000,
            outcomes=stretch.outcomes,
            errors=list(stretch.errors),
            output=None if output is None else msgspec.json.encode(output).decode(),
        )

    def delivered(self, stretches: Iterable[Stretch]) -> None:
        """These events were delivered, and that is committed. Told soon."""
        with self._lock:
            for each in stretches:
                place = self._last.get(each.split)
                before = None if place is None else self._untold[place]
                if place is not None and before is not None and _is_one(before, each):
                    self._untold[place] = before._replace(size=before.size + each.size)
                else:
                    self._last[each.split] = len(self._untold)
                    self._untold.append(each)
        self.tell()

    def tell(self, *, now: bool = False) -> None:
        """Tell what waits to be told, if that is due, or ``now``."""
        now_s = time.monotonic()
        if not self._untold or not (now or now_s - self._told_s >= TOLD_EVERY_S):
            return
        with self._lock:
            told, self._untold, self._told_s = self._untold, [], now_s
            self._last.clear()
        self._submit([self.record(ProcessingStage.DELIVERY, each) for each in told])

    def given_back(self, split: Split, offset: int, error: EventError, retry: int, started_us: int) -> None:
        """An event could not be processed, and is to be delivered again: for the ``retry``\\ th time."""
        stretch = Stretch(split, offset, 1, bytes([DEAD]), (error,), started_us)
        self._submit([self.record(ProcessingStage.RETRY, stretch, {"retry": retry})])

    def _submit(self, records: list[Processed]) -> None:
        if not records:
            return
        try:
            written = self._log.submit([Append(self._stream_id, list(map(to_event, records)), new_ids=True)])
        except BusError as error:
            self._failed(error)
            return
        self._under_way.add(written)
        written.add_done_callback(self._written)

    def _written(self, written: "Future[list[AppendResult]]") -> None:
        self._under_way.discard(written)
        error = written.exception()
        if error is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, ClosedError):
            _log.warning("the history does not tell of deliveries to consumer group %s: %s", self._group.name, error)

    def finish(self) -> None:
        """Tell all that waits, and wait until it is on disk. Blocks."""
        self.tell(now=True)
        wait(list(self._under_way), timeout=_FINISHED_S)


def _is_one(before: Stretch, after: Stretch) -> bool:
    """Whether two stretches can be told as one."""
    is_alike = len(before.outcomes) == 1 and before.outcomes == after.outcomes and not before.errors and not after.errors
    return is_alike and before.end_offset == after.offset
