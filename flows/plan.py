"""The plan: a flow's processors joined into stages, with every stream found. The flow file says what, the plan says how.

A *stage* reads one stream and holds a tree of processors: the one that reads the stream, those that read its output, and so
on. The stateless part of a tree runs as one generated function over a chunk of events; each AGGREGATE in it keeps its state in
key groups, and what reads its output runs where its windows close.
"""

from collections.abc import Iterator

import msgspec

from event_streaming_bus.errors import FlowError, StreamNotFoundError
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec
from event_streaming_bus.models import ProcessorType, StreamInfo


class Node(msgspec.Struct, frozen=True):
    """One processor in a stage. ``children`` read its output; ``target`` is the stream it is written to, if any.

    ``origin`` names the processor by tenant, flow and name: the ids of its output are derived from that, so that they are the
    same wherever the flow is run over the same events.
    """

    number: int
    processor_id: str
    origin: str
    spec: ProcessorSpec
    target: StreamInfo | None
    children: tuple["Node", ...]

    @property
    def name(self) -> str:
        return self.spec.processor_name

    @property
    def is_aggregate(self) -> bool:
        return self.spec.processor_type is ProcessorType.AGGREGATE

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def walk_stateless(self) -> Iterator["Node"]:
        """This node and those below it down to the AGGREGATEs, which are the last that see single events."""
        yield self
        if not self.is_aggregate:
            for child in self.children:
                yield from child.walk_stateless()


class Stage(msgspec.Struct, frozen=True):
    """A stream and the tree of processors that reads it. It is named by the first processor of the tree."""

    source: StreamInfo
    root: Node

    @property
    def name(self) -> str:
        return self.root.name

    def aggregates(self) -> list[Node]:
        """The AGGREGATEs of the tree."""
        return [node for node in self.root.walk() if node.is_aggregate]


class Plan(msgspec.Struct, frozen=True):
    """All stages of a flow, in the order of the flow file."""

    name: str
    tenant_id: str
    stages: tuple[Stage, ...]
    parallelism: int

    def nodes(self) -> list[Node]:
        """Every processor of the flow, stage by stage."""
        return [node for stage in self.stages for node in stage.root.walk()]


def make_plan(spec: FlowSpec, streams: dict[str, StreamInfo], processor_ids: dict[str, str]) -> Plan:
    """The plan of a flow, given its streams by the names that the flow uses, and its processors' ids by name.

    Raises ``FlowError`` if two names turn out to be one stream, so that a processor would read what it writes.
    """
    by_source: dict[str, list[tuple[int, ProcessorSpec]]] = {}
    for number, processor in enumerate(spec.processors):
        by_source.setdefault(processor.source_stream_id, []).append((number, processor))

    def node(number: int, processor: ProcessorSpec) -> Node:
        target = streams[processor.target_stream_id] if processor.target_stream_id is not None else None
        children = tuple(node(n, p) for n, p in by_source.get(processor.processor_name, ()))
        origin = f"{spec.tenant_id}/{spec.name}/{processor.processor_name}"
        return Node(number, processor_ids[processor.processor_name], origin, processor, target, children)

    stages = []
    for number, processor in enumerate(spec.processors):
        if spec.processor(processor.source_stream_id) is not None:
            continue
        stage = Stage(streams[processor.source_stream_id], node(number, processor))
        for member in stage.root.walk():
            if member.target is not None and member.target.stream_id == stage.source.stream_id:
                raise FlowError(
                    f"processors[{member.number}].target_stream_id: {member.target.name} is the stream that "
                    f"{stage.name} reads, and each event would run in a circle"
                )
        stages.append(stage)
    return Plan(spec.name, spec.tenant_id, tuple(stages), max(p.parallelism for p in spec.processors))


def missing_stream(spec: FlowSpec, number: int, key: str, error: StreamNotFoundError) -> StreamNotFoundError:
    """The error for a stream that a processor names but that does not exist."""
    return StreamNotFoundError(
        f"processors[{number}].{key}: {error.message} A flow can also declare it under 'streams'.",
        **error.details,
        path=f"processors[{number}].{key}",
        flow=spec.name,
    )
