"""The plan built as a Bytewax dataflow. Step ids come from the processors' names, so that state survives a moved processor."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream

from event_streaming_bus.flows.items import Chunk, KeyGroupMessage, SinkItem
from event_streaming_bus.flows.key_group import KeyGroup
from event_streaming_bus.flows.marks import (
    WindowMark,
    cuts_of_split,
    load_stage_marks,
    load_window_marks,
    stage_owner,
    window_owner,
)
from event_streaming_bus.flows.outputs import Surroundings
from event_streaming_bus.flows.plan import Node, Plan, Stage
from event_streaming_bus.flows.sink import LogSink
from event_streaming_bus.flows.source import LogSource, SourceOptions
from event_streaming_bus.flows.stage import StageLogic, ToKeyGroup, WindowEmitter
from event_streaming_bus.models import Split, StreamInfo
from event_streaming_bus.registry.service import SchemaGuard, SchemaRegistryService
from event_streaming_bus.store.storage import Storage


def build(
    plan: Plan,
    storage: Storage,
    *,
    until: Mapping[str, Mapping[Split, int]] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Dataflow:
    """The dataflow of ``plan`` over the log of ``storage``.

    ``until``: by stream id the offsets at which to stop and close every window; ``None``: follow the streams for ever, until
    ``stopping`` is true, which closes nothing. Every worker process builds it anew; what has been written is read from the
    marks here, so no other process may be running the flow.
    """
    flow = Dataflow(plan.name)
    registry = SchemaRegistryService(storage)

    def guard(stream: StreamInfo) -> SchemaGuard | None:
        schema_id = stream.config.schema_id
        return None if schema_id is None else registry.guard(stream.tenant_id, schema_id)

    for stage in plan.stages:
        surroundings = Surroundings(stage.source, storage.dead_letters(plan.tenant_id), guard)
        _build_stage(flow, plan, stage, storage, surroundings, until, stopping)
    return flow


def _build_stage(
    flow: Dataflow,
    plan: Plan,
    stage: Stage,
    storage: Storage,
    surroundings: Surroundings,
    until: Mapping[str, Mapping[Split, int]] | None,
    stopping: Callable[[], bool],
) -> None:
    owner = stage_owner(plan.tenant_id, plan.name, stage.name)
    stage_marks = load_stage_marks(storage.log, owner)
    aggregates = stage.aggregates()
    window_owners = {node.number: window_owner(plan.tenant_id, plan.name, node.name) for node in aggregates}
    window_marks = {number: load_window_marks(storage.log, name) for number, name in window_owners.items()}
    options = SourceOptions(
        until=None if until is None else until[stage.source.stream_id],
        cuts=lambda split: cuts_of_split(split, stage_marks, list(window_marks.values())),
        idle_horizon_ms=max((_idle_horizon_ms(node) for node in aggregates), default=0),
        stopping=stopping,
    )
    chunks: Stream[Chunk] = op.input(f"{stage.name}:source", flow, LogSource(storage.log, stage.source, options))
    logic = StageLogic(stage, plan.name, owner, stage_marks, surroundings)
    items: Stream[Any] = op.flat_map_batch(f"{stage.name}:process", chunks, logic)
    written: Stream[SinkItem] = op.flat_map_batch(f"{stage.name}:written", items, _sink_items)
    op.output(f"{stage.name}:sink", written, LogSink(storage, plan.tenant_id))
    splits = [str(split) for split in stage.source.splits()]
    for node in aggregates:
        marks = window_marks[node.number]
        emitter = WindowEmitter(node, plan.name, window_owners[node.number], marks, surroundings)
        routed: Stream[tuple[str, KeyGroupMessage]] = op.flat_map_batch(f"{node.name}:route", items, _messages_for(node))
        builder = _key_group_builder(node, splits, emitter, {key: mark for key, (_, mark) in marks.items()})
        grouped = op.stateful_batch(f"{node.name}:window", routed, builder)
        closed: Stream[SinkItem] = op.flat_map_batch(f"{node.name}:closed", grouped, _values)
        op.output(f"{node.name}:window_sink", closed, LogSink(storage, plan.tenant_id))


def _idle_horizon_ms(node: Node) -> int:
    """How long after an event the clock may close a window of it."""
    window = node.spec.window
    if window is None or window.close_when_idle_ms is None:
        return 0
    return window.window_size_ms + window.grace_period_ms + window.close_when_idle_ms


def _sink_items(items: list[SinkItem | ToKeyGroup]) -> list[SinkItem]:
    return [item for item in items if isinstance(item, SinkItem)]


def _messages_for(node: Node) -> Callable[[list[Any]], list[tuple[str, KeyGroupMessage]]]:
    number = node.number

    def messages(items: list[Any]) -> list[tuple[str, KeyGroupMessage]]:
        return [(item[1], item[2]) for item in items if item.__class__ is tuple and item[0] == number]

    return messages


def _values(items: Iterable[tuple[str, SinkItem]]) -> list[SinkItem]:
    return [item for _, item in items]


def _key_group_builder(
    node: Node, splits: list[str], emitter: WindowEmitter, marks: dict[str, WindowMark]
) -> Callable[[bytes | None], KeyGroup]:
    window = node.spec.window
    assert window is not None  # noqa: S101 - the spec stage has seen to it
    return lambda resume: KeyGroup(window, splits, emitter.emit, marks, resume)
