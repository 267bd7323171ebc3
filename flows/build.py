"""The plan built as a Bytewax dataflow. Step ids come from the processors' names, so that state survives a moved processor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream

from event_streaming_bus.flows.emitter import Emitter, upstream_name
from event_streaming_bus.flows.functions import keyed_fold, load_functions
from event_streaming_bus.flows.growth import GrowthWatch
from event_streaming_bus.flows.items import Chunk, KeyGroupMessage, ToKeyGroup, ToSink
from event_streaming_bus.flows.key_group import KeyGroup, KeyGroupSettings
from event_streaming_bus.flows.key_groups import KEY_GROUP_NAMES
from event_streaming_bus.flows.marks import (
    StageMark,
    cuts_of_split,
    load_stage_marks,
    load_window_marks,
    stage_owner,
    window_owner,
)
from event_streaming_bus.flows.outputs import Surroundings
from event_streaming_bus.flows.plan import Node, Plan, Stage, fed_by
from event_streaming_bus.flows.processors import timing_of
from event_streaming_bus.flows.processors.custom import CustomLogic
from event_streaming_bus.flows.rest import Rest
from event_streaming_bus.flows.results import ResultMaker
from event_streaming_bus.flows.sink import LogSink
from event_streaming_bus.flows.source import LogSource, SourceOptions, read_events
from event_streaming_bus.flows.source_groups import resumed
from event_streaming_bus.flows.stage import StageLogic
from event_streaming_bus.flows.state_factory import lag_of, live_ms_of, state_factory
from event_streaming_bus.models import Split, StreamInfo
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.registry.upcasting import upcaster_of
from event_streaming_bus.store.storage import Storage


def build(
    plan: Plan,
    storage: Storage,
    *,
    until: Mapping[str, Mapping[Split, int]] | None = None,
    stopping: Callable[[], bool] = lambda: False,
    is_traced: bool = True,
    is_alone: bool = False,
) -> Dataflow:
    """The dataflow of ``plan`` over the log of ``storage``.

    ``until``: by stream id the offsets at which to stop and close every window; ``None``: follow the streams for ever, until
    ``stopping`` is true or a stream has more partitions than the plan reads, which closes nothing. ``is_traced``: whether it
    makes spans where tracing is on. ``is_alone``: whether one worker does all the work, which lets it rest for longer (see
    ``Rest``). Every worker process builds it anew; what has been written is read from the marks here, so no other process may be
    running the flow.
    """
    return _Builder(plan, storage, until, stopping, is_traced, is_alone).build()


class _Builder:
    """Builds the dataflow of one plan: first the stages, then the processors with state, each after those that feed it."""

    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        until: Mapping[str, Mapping[Split, int]] | None,
        stopping: Callable[[], bool],
        is_traced: bool,
        is_alone: bool,
    ) -> None:
        self._plan = plan
        self._storage = storage
        self._until = until
        self._stopping = stopping
        self._ending = GrowthWatch(plan, storage.log, stopping) if until is None else stopping
        self._rest = Rest(storage.log, self._ending, is_alone=is_alone)
        self._is_traced = is_traced
        self._flow = Dataflow(plan.name)
        self._registry = SchemaRegistryService(storage)
        self._functions = load_functions(plan.nodes(), stopping)
        self._with_state = plan.with_state()
        self._owners = {node.number: window_owner(plan.tenant_id, plan.name, node.state_name) for node in self._with_state}
        self._marks = {number: load_window_marks(storage.log, owner) for number, owner in self._owners.items()}
        self._streams: dict[int, list[Stream[Any]]] = {node.number: [] for node in self._with_state}
        self._splits: dict[int, list[str]] = {node.number: [] for node in self._with_state}
        self._upstream: dict[int, list[str]] = {node.number: [] for node in self._with_state}
        self._sources: dict[int, StreamInfo] = {}

    def build(self) -> Dataflow:
        for stage in self._plan.stages:
            self._build_stage(stage)
        for node in self._with_state:
            self._build_key_groups(node)
        return self._flow

    def _surroundings(self, source: StreamInfo) -> Surroundings:
        return Surroundings(
            source,
            self._storage.dead_letters(self._plan.tenant_id),
            self._registry.guard_of,
            self._functions,
            upcaster_of(self._registry, self._storage.log, source),
        )

    def _build_stage(self, stage: Stage) -> None:
        fed = stage.fed()
        owner = stage_owner(self._plan.tenant_id, self._plan.name, stage.name)
        marks = load_stage_marks(self._storage.log, owner)
        resumed(self._storage.log, owner, {split: mark.offset for split, (_, mark) in marks.items()})
        options = SourceOptions(
            until=None if self._until is None else self._until[stage.source.stream_id],
            cuts=self._cuts(marks, fed),
            idle_horizon_ms=max((_idle_horizon_ms(node) for node in self._below(fed)), default=0),
            max_future_ms=min((f for node in fed if (f := timing_of(node.spec).max_future_ms) is not None), default=None),
            stopping=self._ending,
            rest=self._rest,
        )
        source = LogSource(self._storage.log, stage.source, options)
        chunks: Stream[Chunk] = op.input(f"{stage.name}:source", self._flow, source)
        logic = StageLogic(stage, owner, marks, self._surroundings(stage.source), self._plan.name if self._is_traced else None)
        items: Stream[Any] = op.flat_map_batch(f"{stage.name}:process", chunks, logic)
        self._sink(f"{stage.name}", items)
        for node in fed:
            self._sources.setdefault(node.number, stage.source)
            self._splits[node.number] += [str(split) for split in stage.source.splits()]
            self._streams[node.number].append(self._route(f"{node.state_name}:route:stage:{stage.name}", items, node))

    def _cuts(self, marks: dict[str, tuple[bytes, StageMark]], fed: list[Node]) -> Callable[[Split], Sequence[int]]:
        window_marks = [self._marks[node.number] for node in fed]
        return lambda split: cuts_of_split(split, marks, window_marks)

    def _below(self, nodes: list[Node]) -> list[Node]:
        """These processors with state and all that their results are handed to."""
        return [each for node in nodes for each in (node, *self._below(fed_by(node)))]

    def _build_key_groups(self, node: Node) -> None:
        marks = self._marks[node.number]
        timing = timing_of(node.spec)
        settings = KeyGroupSettings(
            grace_period_ms=timing.grace_period_ms,
            close_when_idle_ms=timing.close_when_idle_ms,
            live_ms=live_ms_of(node.spec),
            splits=self._splits[node.number],
            upstream=self._upstream[node.number],
            marks={key: mark for key, (_, mark) in marks.items()},
            feeds=bool(fed_by(node)),
            lag_ms=lag_of(node.spec),
        )
        streams = self._streams[node.number]
        routed = streams[0] if len(streams) == 1 else op.merge(f"{node.state_name}:merge", *streams)
        grouped = op.stateful_batch(f"{node.state_name}:window", routed, self._key_group_builder(node, settings))
        source = self._sources[node.number]
        emitter = Emitter(
            node,
            ResultMaker(node, self._plan.name, self._plan.tenant_id),
            self._owners[node.number],
            marks,
            self._surroundings(source),
            read_events(self._storage.log),
        )
        items: Stream[Any] = op.flat_map_batch(f"{node.state_name}:closed", grouped, emitter)
        self._sink(f"{node.state_name}:window", items)
        for follower in fed_by(node):
            self._sources.setdefault(follower.number, source)
            self._upstream[follower.number] += [upstream_name(node, name) for name in KEY_GROUP_NAMES]
            self._streams[follower.number].append(self._route(f"{follower.state_name}:route:{node.state_name}", items, follower))

    def _key_group_builder(self, node: Node, settings: KeyGroupSettings) -> Callable[[bytes | None], KeyGroup]:
        is_custom = isinstance(node.spec.processing_logic, CustomLogic)
        make_state = state_factory(node.spec, keyed_fold(node, self._stopping) if is_custom else None)
        return lambda resume: KeyGroup(settings, make_state(), resume)

    def _sink(self, name: str, items: Stream[Any]) -> None:
        written: Stream[ToSink] = op.flat_map_batch(f"{name}:written", items, _to_sink)
        op.output(f"{name}:sink", written, LogSink(self._storage, self._plan.tenant_id))

    @staticmethod
    def _route(name: str, items: Stream[Any], node: Node) -> Stream[tuple[str, KeyGroupMessage]]:
        return op.flat_map_batch(name, items, _messages_for(node))


def _idle_horizon_ms(node: Node) -> int:
    """How long after an event the clock may close a window of it."""
    timing = timing_of(node.spec)
    if timing.close_when_idle_ms is None:
        return 0
    return live_ms_of(node.spec) + timing.grace_period_ms + timing.close_when_idle_ms


def _to_sink(items: list[ToSink | ToKeyGroup]) -> list[ToSink]:
    return [item for item in items if not isinstance(item, tuple)]


def _messages_for(node: Node) -> Callable[[list[Any]], list[tuple[str, KeyGroupMessage]]]:
    number = node.number

    def messages(items: list[Any]) -> list[tuple[str, KeyGroupMessage]]:
        return [(item[1], item[2]) for item in items if item.__class__ is tuple and item[0] == number]

    return messages
