"""Deliveries that are traced: a span from when events are handed out until they are settled."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from event_streaming_bus.consumers.deliveries import Deliveries, splits_of
from event_streaming_bus.consumers.model import Group, OffsetReset, Partition
from event_streaming_bus.consumers.split_reader import SplitReader
from event_streaming_bus.models import Event, Split, StreamInfo
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.redeliveries import retry_stream_name
from event_streaming_bus.tracing.spans import begin, messaging
from event_streaming_bus.tracing.traceparent import sampled
from event_streaming_bus.tracing.tracer import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

DELIVER: Final = "deliver"
DONE: Final = "done"
AGAIN: Final = "to be delivered again"
PARKED: Final = "parked"
GIVEN_UP: Final = "given up"


class _Delivery:
    """A span, and how many of its events are in the user's hands."""

    __slots__ = ("left", "span")

    def __init__(self, span: "Span") -> None:
        self.span = span
        self.left = 0


class TracedDeliveries(Deliveries):
    """``Deliveries`` with spans, of the kind CONSUMER, for events whose traces are recorded.

    A span begins when a call hands events of a trace out, and ends when the last of them is settled: done, to be delivered again,
    parked, or given up with its partition. ``esb.outcome`` says which; of several events, what became of the last.
    """

    def __init__(
        self,
        log: EventLog,
        window: int,
        counts: Counter[str],
        tracer: "Tracer",
        group: Group,
        streams: Mapping[str, StreamInfo],
    ) -> None:
        super().__init__(log, group.config.auto_offset_reset, window, counts)
        self._tracer = tracer
        self._group = group
        self._streams = streams
        self._open: dict[tuple[Split, int], _Delivery] = {}

    def take(self, most: int) -> list[Event]:
        with self._lock:
            events = super().take(most)
            traced = [event for event in events if event.traceparent is not None and sampled(event.traceparent) is not None]
            if traced:
                self._begin(traced)
        return events

    def _begin(self, events: Sequence[Event]) -> None:
        places: dict[str, list[tuple[tuple[Split, int], str | None]]] = {}
        for event in events:
            found = self.find(event)
            if found is not None:
                reader, offset = found
                places.setdefault(reader.split.stream_id, []).append(((reader.split, offset), event.traceparent))
        for stream_id, of_stream in places.items():
            stream = self._streams.get(stream_id)
            name = retry_stream_name(self._group.group_id) if stream is None else stream.name
            attributes = messaging(DELIVER, "process", name, self._group.tenant_id)
            attributes["messaging.consumer.group.name"] = self._group.name
            spans = begin(self._tracer, DELIVER, name, [carried for _, carried in of_stream], attributes, kind="CONSUMER")
            deliveries: dict[int, _Delivery] = {}
            for place, carried in of_stream:
                span = None if spans is None else spans.of(carried)
                if span is not None:
                    delivery = deliveries.setdefault(id(span), _Delivery(span))
                    delivery.left += 1
                    self._open[place] = delivery

    def _settled(self, places: Iterable[tuple[Split, int]], outcome: str) -> None:
        for place in places:
            delivery = self._open.pop(place, None)
            if delivery is not None:
                delivery.left -= 1
                if not delivery.left:
                    delivery.span.set_attribute("esb.outcome", outcome)
                    delivery.span.end()

    def ack(self, event: Event) -> bool:
        with self._lock:
            found = self.find(event) if self._open else None
            is_done = super().ack(event)
            if found is not None:
                self._settled([(found[0].split, found[1])], DONE)
        return is_done

    def nack(self, reader: SplitReader, offset: int, due_s: float) -> bool:
        with self._lock:
            self._settled([(reader.split, offset)], AGAIN)
            return super().nack(reader, offset, due_s)

    def park(self, reader: SplitReader, offset: int) -> bool:
        with self._lock:
            self._settled([(reader.split, offset)], PARKED)
            return super().park(reader, offset)

    def settle(self) -> None:
        with self._lock:
            self._settled(list(self._open), DONE)
            super().settle()

    def put_back(self) -> None:
        with self._lock:
            self._settled(list(self._open), AGAIN)
            super().put_back()

    def drop(self, partitions: Iterable[Partition]) -> dict[Split, SplitReader]:
        with self._lock:
            dropped = list(partitions)
            splits = {split for partition in dropped for split in splits_of(partition)}
            self._settled([place for place in self._open if place[0] in splits], GIVEN_UP)
            return super().drop(dropped)

    def seek(self, split: Split, offset: int) -> None:
        with self._lock:
            self._settled([place for place in self._open if place[0] == split], GIVEN_UP)
            super().seek(split, offset)


def deliveries(log: EventLog, window: int, counts: Counter[str], group: Group, streams: Mapping[str, StreamInfo]) -> Deliveries:
    """What a new consumer of the group hands out from: with spans, if tracing is on."""
    using = tracer()
    reset: OffsetReset = group.config.auto_offset_reset
    return (
        Deliveries(log, reset, window, counts) if using is None else TracedDeliveries(log, window, counts, using, group, streams)
    )
