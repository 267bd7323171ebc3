"""A stage at work: chunks of events in, what sinks write and what key groups take out."""

import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final, TypeAlias

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.flows.aggregations import FieldPlan, field_plans, result, summarize
from event_streaming_bus.flows.codegen import Tree, compile_tree
from event_streaming_bus.flows.items import Chunk, KeyGroupMessage, LatePartial, Partial, SinkItem
from event_streaming_bus.flows.key_group import KEY_GROUPS, ClosedWindow, LateEvents, key_group_of
from event_streaming_bus.flows.marks import StageMark, WindowMark, add_counts, renewed
from event_streaming_bus.flows.outputs import Settled, Surroundings, dead_window, settle
from event_streaming_bus.flows.plan import Node, Stage
from event_streaming_bus.flows.processors.aggregate import AggregateLogic, group_key
from event_streaming_bus.flows.rows import ChunkRows, EventRows
from event_streaming_bus.models import Event, rfc3339
from event_streaming_bus.store.history_records import HistoryRecord, Late, Processed, Run

ToKeyGroup: TypeAlias = tuple[int, str, KeyGroupMessage]
"""``(the AGGREGATE's number, key group, message)``"""

KEY_GROUP_NAMES: Final = [f"{i:02d}" for i in range(KEY_GROUPS)]
_MAX_KNOWN_KEYS: Final = 100_000
_LONG_AGO: Final = -(1 << 62)


class StageLogic:
    """Turns the chunks of one stage into items, for one worker. ``marks`` is what the log says has been written, by split."""

    def __init__(
        self, stage: Stage, flow: str, owner: str, marks: dict[str, tuple[bytes, StageMark]], surroundings: Surroundings
    ) -> None:
        self._tree: Tree = compile_tree([stage.root])
        self._flow = flow
        self._owner = owner
        self._marks: dict[str, tuple[bytes | None, StageMark]] = dict(marks)
        self._surroundings = surroundings
        self._aggregates = [(i, Combiner(node)) for i, node in enumerate(self._tree.nodes) if node.is_aggregate]

    def __call__(self, chunks: list[Chunk]) -> list[SinkItem | ToKeyGroup]:
        items: list[SinkItem | ToKeyGroup] = []
        for chunk in chunks:
            if chunk.split is None:
                for _, combiner in self._aggregates:
                    items += combiner.messages(chunk, (), {})
            else:
                items += self._process(chunk)
        return items

    def _process(self, chunk: Chunk) -> list[SinkItem | ToKeyGroup]:
        assert chunk.split is not None  # noqa: S101 - the caller has looked
        started_ns = time.time_ns()
        rows = ChunkRows(chunk, chunk.split)
        payloads, undecoded = rows.decode(self._tree.decoder)
        columns = {name: rows.column(name) for name in self._tree.columns}
        outputs, failures = self._tree.run(payloads, columns)
        items: list[SinkItem | ToKeyGroup] = []
        for i, combiner in self._aggregates:
            items += combiner.messages(chunk, rows.column("timestamp_ms"), outputs[i])
        stored, mark = self._marks.get(str(chunk.split), (None, StageMark()))
        if chunk.end > mark.offset:  # else its output has been written before
            settled = settle(self._tree, rows, outputs, failures, undecoded, self._surroundings)
            items.insert(0, self._item(chunk, settled, stored, mark, started_ns))
        return items

    def _item(self, chunk: Chunk, settled: Settled, stored: bytes | None, mark: StageMark, started_ns: int) -> SinkItem:
        assert chunk.split is not None  # noqa: S101 - the caller has looked
        now_ns = time.time_ns()
        source = self._surroundings.source
        run = Run(source.stream_id, chunk.split.lane.value, chunk.split.partition, chunk.begin, chunk.end - chunk.begin)
        records: list[HistoryRecord] = []
        for outcome in settled.nodes:
            outcome.counts.processing_ns = (now_ns - started_ns) // len(settled.nodes)
            add_counts(mark.counts, outcome.node.processor_id, outcome.counts)
            same = outcome.outcomes.count(outcome.outcomes[0]) == len(outcome.outcomes)
            records.append(
                Processed(
                    tenant_id=source.tenant_id,
                    processor_id=outcome.node.processor_id,
                    processor_name=outcome.node.name,
                    stage="PROCESSING",
                    run=run,
                    started_us=started_ns // 1000,
                    completed_us=now_ns // 1000,
                    outcomes=bytes(outcome.outcomes[:1] if same else outcome.outcomes),
                    errors=outcome.errors,
                )
            )
        mark.offset = chunk.end
        mark.updated_at_ms = now_ns // 1_000_000
        newest = chunk.progress.newest
        if newest is not None:
            mark.watermark_ms = newest[0] if mark.watermark_ms is None else max(mark.watermark_ms, newest[0])
        new = renewed(self._owner, str(chunk.split), stored, mark)
        self._marks[str(chunk.split)] = (new.value, mark)
        return SinkItem(settled.events, (new,), tuple(records))


class Combiner:
    """Sums up what an AGGREGATE gathered of a chunk, one message for each key group."""

    def __init__(self, node: Node) -> None:
        logic = node.spec.processing_logic
        assert isinstance(logic, AggregateLogic)  # noqa: S101 - only AGGREGATEs are combined
        window = node.spec.window
        assert window is not None  # noqa: S101 - the spec stage has seen to it
        self._close_after_ms = window.window_size_ms + window.grace_period_ms
        self._number = node.number
        self._plans: tuple[FieldPlan, ...] = field_plans(logic.aggregations)
        self._known: dict[tuple[object, ...], tuple[int, bytes]] = {}

    def messages(
        self, chunk: Chunk, timestamps_ms: Sequence[int], gathered: dict[tuple[Any, ...], tuple[list[Any], ...]]
    ) -> list[ToKeyGroup]:
        """One message for every key group: those without events of the chunk are told of the progress."""
        partials: list[list[Partial]] = [[] for _ in range(KEY_GROUPS)]
        late: list[list[LatePartial]] = [[] for _ in range(KEY_GROUPS)]
        known, plans = self._known, self._plans
        newest_ms = chunk.progress.newest[0] if chunk.progress.newest is not None else _LONG_AGO
        watermark_ms = _LONG_AGO if chunk.watermark_ms is None else chunk.watermark_ms
        highest_ms = max(newest_ms, watermark_ms)
        before: list[int] | None = None
        for (start_ms, *values), (indexes, *fields) in gathered.items():
            group = tuple(values)
            place = known.get(group)
            if place is None:
                if len(known) >= _MAX_KNOWN_KEYS:
                    known.clear()
                key = group_key(group)
                place = known[group] = (key_group_of(key), key)
            if start_ms + self._close_after_ms <= highest_ms:
                if before is None:  # the split's watermark before each event
                    before = list(accumulate(timestamps_ms, max, initial=watermark_ms))
                closes_ms = start_ms + self._close_after_ms
                in_time = [n for n, i in enumerate(indexes) if before[i] < closes_ms]
                if len(in_time) < len(indexes):
                    tardy = [i for i in indexes if before[i] >= closes_ms]
                    late[place[0]].append(LatePartial(start_ms, tardy))
                    if not in_time:
                        continue
                    indexes = [indexes[n] for n in in_time]
                    fields = [[column[n] for n in in_time] for column in fields]
            summed = [summarize(plan, column) for plan, column in zip(plans, fields, strict=True)]
            partials[place[0]].append(Partial(start_ms, place[1], indexes, summed))
        progress, begin, end, number = chunk.progress, chunk.begin, chunk.end, self._number
        return [
            (number, name, KeyGroupMessage(name, progress, begin, end, of_group, late_of_group))
            for name, of_group, late_of_group in zip(KEY_GROUP_NAMES, partials, late, strict=True)
        ]


class WindowEmitter:
    """Makes what is written when windows of an AGGREGATE close: its output, and what its readers in the stage make of it."""

    def __init__(
        self, node: Node, flow: str, owner: str, stored: dict[str, tuple[bytes, WindowMark]], surroundings: Surroundings
    ) -> None:
        logic = node.spec.processing_logic
        assert isinstance(logic, AggregateLogic)  # noqa: S101 - only AGGREGATEs have windows
        self._node = node
        self._logic = logic
        self._flow = flow
        self._owner = owner
        self._stored: dict[str, bytes | None] = {key: value for key, (value, _) in stored.items()}
        self._surroundings = surroundings
        self._tree = compile_tree(node.children, decoded=True) if node.children else None
        positions = {plan.field: i for i, plan in enumerate(field_plans(logic.aggregations))}
        self._fields = [(item, positions[item.field] if item.field is not None else None) for item in logic.aggregations]

    def emit(self, key_group: str, closed: list[ClosedWindow], late: list[LateEvents], mark: WindowMark) -> SinkItem:
        """What is written of one key group's closed windows and late events, and with them the new mark."""
        written: dict[str, list[Event]] = {}
        payloads = [self._payload(window) for window in closed]
        events = [self._event(window, payload) for window, payload in zip(closed, payloads, strict=True)]
        if self._node.target is not None and events:
            kept, dead = self._guarded(events)
            written[self._node.target.stream_id] = kept
            mark.dead += len(dead)
            if dead:
                written[self._surroundings.dead_letters.stream_id] = dead
        if self._tree is not None and events:
            rows = EventRows(events, payloads)
            columns = {name: rows.column(name) for name in self._tree.columns}
            outputs, failures = self._tree.run(enumerate(payloads), columns)
            settled = settle(self._tree, rows, outputs, failures, (), self._surroundings)
            for stream_id, made in settled.events.items():
                written.setdefault(stream_id, []).extend(made)
            for outcome in settled.nodes:
                add_counts(mark.counts, outcome.node.processor_id, outcome.counts)
        new = renewed(self._owner, key_group, self._stored.get(key_group), mark)
        self._stored[key_group] = new.value
        return SinkItem(written, (new,), self._late_records(late, mark))

    def _payload(self, window: ClosedWindow) -> dict[str, Any]:
        payload: dict[str, Any] = dict(zip(self._logic.group_names, msgspec.json.decode(window.key), strict=True))
        payload["window_start"] = rfc3339(window.start_ms)
        payload["window_end"] = rfc3339(window.end_ms)
        for item, position in self._fields:
            payload[item.name] = window.state.count if position is None else result(item, window.state.fields[position])
        return payload

    def _event(self, window: ClosedWindow, payload: dict[str, Any]) -> Event:
        node, target = self._node, self._node.target
        values = msgspec.json.decode(window.key)
        key = values[0] if len(values) == 1 and isinstance(values[0], str) else window.key.decode()
        return Event(
            event_id=ids.derived_id(ids.EVENT, window.end_ms, node.origin, window.start_ms, window.key),
            event_type=node.name,
            timestamp_ms=window.end_ms,
            data=msgspec.json.encode(payload),
            key=key,
            source_capability=self._flow,
            tenant_id=self._surroundings.source.tenant_id,
            schema_id=target.config.schema_id if target is not None else None,
        )

    def _guarded(self, events: list[Event]) -> tuple[list[Event], list[Event]]:
        """``(events that the target's schema accepts, dead letters of the others)``."""
        assert self._node.target is not None  # noqa: S101 - the caller has looked
        guard = self._surroundings.guard(self._node.target)
        if guard is None:
            return events, []
        invalid = set(guard.check_many([event.payload for event in events]))
        dead = [dead_window(self._node, events[i], guard, self._surroundings) for i in sorted(invalid)]
        return [event for i, event in enumerate(events) if i not in invalid], dead

    def _late_records(self, late: Sequence[LateEvents], mark: WindowMark) -> tuple[HistoryRecord, ...]:
        if not late:
            return ()
        by_split: dict[str, list[LateEvents]] = {}
        for item in late:
            by_split.setdefault(item.split, []).append(item)
        records = []
        for split, items in by_split.items():
            stream_id, partition, lane = split.rsplit("/", 2)
            records.append(
                Late(
                    tenant_id=self._surroundings.source.tenant_id,
                    processor_id=self._node.processor_id,
                    processor_name=self._node.name,
                    stream_id=stream_id,
                    lane=lane.upper(),
                    partition=int(partition),
                    offsets=[offset for item in items for offset in item.offsets],
                    window_start_ms=[item.window_start_ms for item in items for _ in item.offsets],
                    window_end_ms=[item.window_end_ms for item in items for _ in item.offsets],
                    watermark_ms=mark.closed_through_ms or 0,
                    observed_us=time.time_ns() // 1000,
                )
            )
        return tuple(records)
