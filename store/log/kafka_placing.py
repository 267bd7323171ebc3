"""Where the events of an append go on Kafka: before the transaction sends them, and once the brokers have placed them."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, repeat
from typing import TypeAlias

from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.models import LANES, Event, EventPriority, Position, Receipt, Split, StreamInfo
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.log.event_columns import column_of, selected
from event_streaming_bus.store.log.kafka_ids import OwnRun, StreamIds, id_hash
from event_streaming_bus.store.log.kafka_partitions import partition_of
from event_streaming_bus.store.log.kafka_producer import Delivery

Seen: TypeAlias = "dict[tuple[str, str], tuple[Placement, int]]"
"""By tenant and id: the placement that brings the event in this very transaction, and its index there."""


class Placement:
    """One ``Append`` in a transaction: which of its events are new, and where they go.

    ``known``: the receipts, by index, of events whose ids were used in earlier transactions.
    ``seen``: what this transaction has brought before.
    """

    def __init__(self, append: Append, info: StreamInfo, known: Mapping[int, Position], seen: Sequence[Seen]) -> None:
        self.append = append
        self.info = info
        self._known = known
        self._event_ids: Sequence[str] = column_of(append.events, "event_id")
        self._repeats: dict[int, tuple[Placement, int]] = {}
        self._sent: list[tuple[Delivery, int, EventPriority, Sequence[int]]] = []
        _refuse_delays(append)
        self._indexes = self._groups(seen)

    def _groups(self, seen: Sequence[Seen]) -> Mapping[tuple[EventPriority, int], Sequence[int]]:
        """The indexes of the new events by lane and partition, in the order given."""
        append, partitions, tenant_id = self.append, self.info.config.partitions, self.info.tenant_id
        keyless = append.partition if append.partition is not None else time.monotonic_ns() // 1_000_000
        if (only := append.only_lane(partitions)) is not None:
            return {(only, 0): range(len(append.events))}
        groups: dict[tuple[EventPriority, int], list[int]] = {}
        taken: dict[str, int] = {}
        rows = zip(self._event_ids, column_of(append.events, "key"), column_of(append.events, "priority"), strict=True)
        for i, (event_id, key, lane) in enumerate(rows):
            if not append.new_ids:
                if i in self._known:
                    continue
                if event_id in taken:
                    self._repeats[i] = self, taken[event_id]
                    continue
                before = next((each[tenant_id, event_id] for each in seen if (tenant_id, event_id) in each), None)
                if before is not None:
                    self._repeats[i] = before
                    continue
                taken[event_id] = i
            partition = keyless % partitions if key is None else partition_of(key, partitions)
            groups.setdefault((lane, partition), []).append(i)
        return groups

    def bring(self, seen: Seen) -> None:
        """Note the ids of the new events in ``seen``."""
        event_ids, tenant_id = self._event_ids, self.info.tenant_id
        for indexes in self._indexes.values():
            seen.update(((tenant_id, event_ids[i]), (self, i)) for i in indexes)

    def send(self, send: Callable[[EventPriority, int, Sequence[Event]], Delivery]) -> None:
        """Hand the new events to ``send(lane, partition, events)``."""
        events = self.append.events
        for (lane, partition), indexes in self._indexes.items():
            delivery = send(lane, partition, selected(events, indexes))
            self._sent.append((delivery, delivery.sent - len(indexes), lane, indexes))

    # --- once the records have their offsets --------------------------------------------------------------------------

    def _place(self, index: int) -> Position:
        """Where one of the new events is."""
        for delivery, rank, lane, indexes in self._sent:
            if index in indexes:
                offset = delivery.offsets[rank + indexes.index(index)]
                return Position(Split(self.info.stream_id, lane, delivery.part[1]), offset)
        raise KeyError(index)

    def result(self) -> AppendResult:
        event_ids = self._event_ids
        stream_id, known, repeats = self.info.stream_id, self._known, self._repeats
        placed = [
            (Split(stream_id, lane, delivery.part[1]), delivery.offsets[rank : rank + len(indexes)], indexes)
            for delivery, rank, lane, indexes in self._sent
        ]

        def receipts() -> list[Receipt]:
            if not known and not repeats and len(placed) == 1:
                split, offsets, _ = placed[0]
                return list(map(Receipt, event_ids, map(Position, repeat(split), offsets)))
            found = {i: Receipt(event_ids[i], position, duplicate=True) for i, position in known.items()}
            for split, offsets, indexes in placed:
                for offset, i in zip(offsets, indexes, strict=True):
                    found[i] = Receipt(event_ids[i], Position(split, offset))
            for i, (placement, index) in repeats.items():
                found[i] = Receipt(event_ids[i], placement._place(index), duplicate=True)
            return [found[i] for i in range(len(event_ids))]

        written = [(split, first, count) for split, offsets, _ in placed for first, count in _runs(offsets)]
        return AppendResult(stream_id, event_ids, written, len(known) + len(repeats), receipts)

    def ids(self) -> StreamIds | None:
        """What the topic of ids is told of it; ``None`` if it wrote nothing."""
        if not self._sent:
            return None
        event_ids, tenant_id = self._event_ids, self.info.tenant_id
        runs: list[OwnRun] = []
        brought: list[tuple[bytes, int, int, int]] = []
        for delivery, rank, lane, indexes in self._sent:
            lane_no, partition = LANES.index(lane), delivery.part[1]
            offsets = delivery.offsets[rank : rank + len(indexes)]
            if self.append.new_ids:
                own = [event_ids[i] for i in indexes]
                runs.append(OwnRun(lane_no, partition, offsets[0], offsets[-1] - offsets[0] + 1, min(own), max(own)))
            else:
                for i, offset in zip(indexes, offsets, strict=True):
                    brought.append((id_hash(tenant_id, event_ids[i]), lane_no, partition, offset))
        return StreamIds(tenant_id, self.info.stream_id, runs, brought)


def _runs(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """``(first, count)`` of each run of neighbours: records of other producers may lie between ours."""
    if offsets[-1] - offsets[0] + 1 == len(offsets):
        return [(offsets[0], len(offsets))]
    cuts = [0, *(i for i, (before, after) in enumerate(pairwise(offsets), 1) if after != before + 1), len(offsets)]
    return [(offsets[begin], end - begin) for begin, end in pairwise(cuts)]


def _refuse_delays(append: Append) -> None:
    if append.schedule is None:
        return
    now_ms = time.time_ns() // 1_000_000
    times = zip(column_of(append.events, "event_id"), column_of(append.events, "deliver_at_ms"), strict=True)
    late = next((event_id for event_id, deliver_at_ms in times if (deliver_at_ms or 0) > now_ms), None)
    if late is not None:
        raise InvalidStateError(
            f"The event {late!r} is to be delivered later, and the log on Kafka cannot keep events aside. Publish it when it is "
            "due, or keep this stream in an embedded log.",
            event_id=late,
        )
