"""The emitter: what is written as a processor with state gives out results, and what reads on makes of them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import msgspec

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.combiner import Combiner
from event_streaming_bus.flows.items import Closed, LateEvents, Outputs, Progress, SinkItem, ToKeyGroup, ToSink
from event_streaming_bus.flows.marks import WindowMark, add_counts, renewed
from event_streaming_bus.flows.outputs import Surroundings, dead_event, guarded
from event_streaming_bus.flows.plan import Node, fed_by
from event_streaming_bus.flows.results import ResultMaker
from event_streaming_bus.flows.rows import EventRows
from event_streaming_bus.flows.segments import Ran, Segments
from event_streaming_bus.models import ErrorHandlingStrategy, Event, Split
from event_streaming_bus.store.history_records import HistoryRecord, Late

MAX_RESULTS: Final = 16_384

ReadEvents = Callable[[str, Sequence[int]], list[Event]]
"""The events of a split (by its text) at these offsets, as far as the log still has them."""


_Failed: TypeAlias = tuple[Event, Exception, int]
"""An event, why the processor failed on it, and after how many attempts."""


class Emitter:
    """Turns what the key groups of one processor give out into items, for one worker.

    What comes at once is written with the marks of its key groups: all that a key group gave out together, and at most about
    ``MAX_RESULTS`` of several. Where that makes several items, each is made as it is written, so that the first of very many
    results are in the log, and out of memory, before the last are made; but not if others take them up in step.
    """

    def __init__(
        self,
        node: Node,
        maker: ResultMaker,
        owner: str,
        stored: dict[str, tuple[bytes, WindowMark]],
        surroundings: Surroundings,
        read_events: ReadEvents,
    ) -> None:
        self._node = node
        self._maker = maker
        self._owner = owner
        self._stored: dict[str, bytes | None] = {key: value for key, (value, _) in stored.items()}
        self._surroundings = surroundings
        self._read_events = read_events
        self._segments = Segments(surroundings)
        self._combiners = [(each, Combiner(each)) for each in fed_by(node)]
        self._pending = 0
        """How many items have been given out that are still to be made."""

    def __call__(self, given: list[tuple[str, Closed]]) -> list[ToSink | ToKeyGroup]:
        closed = [each for _, each in given]
        parts = list(_parts([each for each in closed if each.mark is not None]))
        if not self._combiners and (len(parts) > 1 or self._pending):
            return [self._later(part) for part in parts]
        items: list[ToSink | ToKeyGroup] = []
        gathered = Ran(Outputs(), [], {})
        again = [result for each in closed for result in each.again]
        if again and self._combiners:
            events, _ = self._maker.events(again)
            gathered = self._segments.run(self._node.children, EventRows(events), gather_only=True)
        for part in parts:
            item, ran = self._written(part)
            items.append(item)
            gathered.gather(ran.gathered)
        if self._combiners:
            horizons: dict[str, int] = {}
            for each in closed:
                name = upstream_name(self._node, each.key_group)
                horizons[name] = max(each.horizon_ms, horizons.get(name, each.horizon_ms))
            progress = Progress(horizons=horizons)
            for node, combiner in self._combiners:
                items += combiner.messages(gathered.gathered.get(node.number, ()), progress)
        return items

    def _later(self, closed: list[Closed]) -> Callable[[], SinkItem]:
        """What makes an item when it is to be written. Its marks stand for what has been given out by now, for their key groups
        go on; only what is counted in the making is as it is then."""
        pairs = {each.key_group: (each.mark, _copied(each.mark)) for each in closed if each.mark is not None}
        held = [msgspec.structs.replace(each, mark=pairs[each.key_group][1]) for each in closed]
        self._pending += 1

        def make() -> SinkItem:
            for mark, copy in pairs.values():
                copy.out, copy.refused = mark.out, mark.refused
            item, _ = self._written(held)
            for mark, copy in pairs.values():
                mark.out, mark.refused = copy.out, copy.refused
            self._pending -= 1
            return item

        return make

    def _written(self, closed: list[Closed]) -> tuple[SinkItem, Ran]:
        """What is written of results and late events, and what was gathered for others on the way."""
        mark = closed[0].mark
        assert mark is not None  # noqa: S101 - the caller has looked
        events, failed = self._maker.events([result for each in closed for result in each.results])
        ran = self._segments.run(self._node.children, EventRows(events))
        if self._node.changelog is not None and events:
            ran.events.add(self._node.changelog.stream_id, self._maker.changes(events, self._node.changelog))
        if self._node.target is not None and events:
            kept, refused = guarded(self._surroundings, self._node.target, events)
            ran.events.add(self._node.target.stream_id, kept)
            failed += [(events[i], error) for i, error in refused]
            events = kept
        mark.out += len(events)
        mark.refused += len(failed)
        self._set_aside([*((event, error, 1) for event, error in failed), *_failures(closed)], ran)
        late = [item for each in closed for item in each.late]
        if late and self._node.late_children:
            ran.join(self._segments.run(self._node.late_children, EventRows(self._late_events(late))))
        for outcome in ran.nodes:
            add_counts(mark.counts, outcome.node.processor_id, outcome.counts)
        records = self._late_records(late, max(each.horizon_ms for each in closed))
        last = {each.key_group: each.mark for each in closed if each.mark is not None}
        marks = [renewed(self._owner, key_group, self._stored.get(key_group), each) for key_group, each in last.items()]
        self._stored.update({each.key: each.value for each in marks})
        return SinkItem(ran.events.by_stream(), tuple(marks), records), ran

    def _set_aside(self, failed: list[_Failed], ran: Ran) -> None:
        """Dead letters go to those that read the port ``errors``, or else to the stream of dead letters."""
        strategy = self._node.spec.error_handling_strategy
        if failed and strategy is ErrorHandlingStrategy.STOP:
            event, error, _ = failed[0]
            raise FlowError(
                f"{self._node.name} stopped the flow at {event.event_id}: {error}. Its error_handling_strategy is STOP.",
                event_id=event.event_id,
            )
        if not failed or strategy is ErrorHandlingStrategy.SKIP:
            return
        dead = [dead_event(self._node, event, error, str(error), self._surroundings, {}, tried) for event, error, tried in failed]
        if self._node.error_children:
            ran.join(self._segments.run(self._node.error_children, EventRows(dead)))
        else:
            ran.events.add(self._surroundings.dead_letters.stream_id, dead)

    def _late_events(self, late: list[LateEvents]) -> list[Event]:
        """The late events, each once, with the (last) window they missed in their metadata."""
        by_split: dict[str, dict[int, LateEvents]] = defaultdict(dict)
        for item in late:
            by_split[item.split].update(dict.fromkeys(item.offsets, item))
        events: list[Event] = []
        for split, items in by_split.items():
            offsets = sorted(items)
            events += [
                self._maker.late_event(event, items[offset])
                for offset, event in zip(offsets, self._read_events(split, offsets), strict=True)
            ]
        return events

    def _late_records(self, late: Sequence[LateEvents], horizon_ms: int) -> tuple[HistoryRecord, ...]:
        by_split: dict[str, list[LateEvents]] = {}
        for item in late:
            by_split.setdefault(item.split, []).append(item)
        records = []
        for name, items in by_split.items():
            split = Split.parse(name)
            records.append(
                Late(
                    tenant_id=self._surroundings.source.tenant_id,
                    processor_id=self._node.processor_id,
                    processor_name=self._node.name,
                    stream_id=split.stream_id,
                    lane=split.lane.value,
                    partition=split.partition,
                    offsets=[offset for item in items for offset in item.offsets],
                    window_start_ms=[item.window_start_ms for item in items for _ in item.offsets],
                    window_end_ms=[item.window_end_ms for item in items for _ in item.offsets],
                    watermark_ms=min(max(horizon_ms, 0), 1 << 53),
                    observed_us=time.time_ns() // 1000,
                )
            )
        return tuple(records)


def _parts(closed: Sequence[Closed]) -> Iterator[list[Closed]]:
    """What is written together. A mark stands for all that its key group has given out, so that is never parted."""
    if sum(len(each.results) for each in closed) <= MAX_RESULTS:
        if closed:
            yield list(closed)
        return
    by_group: dict[str, list[Closed]] = {}
    for each in closed:
        by_group.setdefault(each.key_group, []).append(each)
    part: list[Closed] = []
    for of_group in by_group.values():
        part += of_group
        if sum(len(each.results) for each in part) >= MAX_RESULTS:
            yield part
            part = []
    if part:
        yield part


def _copied(mark: WindowMark) -> WindowMark:
    """The mark as it is; what is counted by those that read the results stays common to both."""
    return msgspec.structs.replace(mark, notes=list(mark.notes), closings=list(mark.closings))


def upstream_name(node: Node, key_group: str) -> str:
    """What those that read the results of ``node`` call one of its key groups."""
    return f"{node.state_name}/{key_group}"


def _failures(closed: list[Closed]) -> list[_Failed]:
    """The events that the processor failed on."""
    return [(failure.entry[5], failure.error, failure.attempts) for each in closed for failure in each.tally.failures]
