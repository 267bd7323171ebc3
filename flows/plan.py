"""The plan: a flow's processors joined into stages, with every stream found. The flow file says what, the plan says how.

A *stage* reads one stream and holds the processors that read it, those that read their output, and so on down to the first with
state. That part runs as generated functions over chunks of events. Each processor with state runs in key groups, and what reads
its output runs on the results as they come out, down to the next with state, which is fed from there.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from event_streaming_bus.errors import FlowError, StreamNotFoundError
from event_streaming_bus.flows.folds.base import LEFT, RIGHT
from event_streaming_bus.flows.processors import has_state
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec
from event_streaming_bus.flows.topology import ERRORS, LATE, OUTPUT
from event_streaming_bus.models import StreamInfo

SIDES: Final = (LEFT, RIGHT)


class Edge(msgspec.Struct, frozen=True):
    """A processor as a reader: ``side`` says which of a JOIN's two sources this is."""

    node: "Node"
    side: int = LEFT


class Node(msgspec.Struct, frozen=True):
    """One processor. ``children`` read its output, ``error_children`` its port ``errors``, ``late_children`` its port ``late``;
    ``target`` is the stream its output is written to, ``changelog`` the one for its changes of state, if any.

    ``origin`` names the processor by tenant, flow and name: the ids of its output are derived from that, so that they are the
    same wherever the flow is run over the same events. ``state_name`` names its state in snapshots and marks.
    """

    number: int
    processor_id: str
    origin: str
    spec: ProcessorSpec
    target: StreamInfo | None = None
    changelog: StreamInfo | None = None
    children: tuple[Edge, ...] = ()
    error_children: tuple[Edge, ...] = ()
    late_children: tuple[Edge, ...] = ()

    @property
    def name(self) -> str:
        return self.spec.processor_name

    @property
    def state_name(self) -> str:
        return self.spec.state_name

    @property
    def has_state(self) -> bool:
        return has_state(self.spec)

    def readers(self) -> Iterator[Edge]:
        """Those that read any of its ports."""
        yield from self.children
        yield from self.error_children
        yield from self.late_children


def walk(edges: Sequence[Edge], *, through_state: bool = True) -> Iterator[Node]:
    """The processors behind ``edges`` and all that read on from them, each once, parents first.

    Without ``through_state`` those with state are the last.
    """
    seen: set[int] = set()

    def visit(edges: Iterator[Edge] | Sequence[Edge]) -> Iterator[Node]:
        for edge in edges:
            node = edge.node
            if node.number in seen:
                continue
            seen.add(node.number)
            yield node
            if through_state:
                yield from visit(node.readers())
            elif not node.has_state:
                yield from visit((*node.children, *node.error_children))
            else:
                yield from visit(node.error_children)

    yield from visit(edges)


def stage_name(state_name: str, side: int) -> str:
    """The name of the stage whose first processor is named so and reads the stream on this side."""
    return f"{state_name}:right" if side == RIGHT else state_name


class Stage(msgspec.Struct, frozen=True):
    """A stream, and the processors that read it: ``roots`` and what follows. It is named by its first processor, and where
    that is a JOIN by its side."""

    source: StreamInfo
    roots: tuple[Edge, ...]

    @property
    def name(self) -> str:
        return stage_name(self.roots[0].node.state_name, self.roots[0].side)

    def nodes(self) -> list[Node]:
        """Its processors, down to the first with state on each way."""
        return list(walk(self.roots, through_state=False))

    def fed(self) -> list[Node]:
        """The processors with state that it feeds."""
        return [node for node in self.nodes() if node.has_state]


class Plan(msgspec.Struct, frozen=True):
    """All stages of a flow, in the order of the flow file."""

    name: str
    tenant_id: str
    stages: tuple[Stage, ...]
    parallelism: int

    def nodes(self) -> list[Node]:
        """Every processor of the flow, in the order of the flow file."""
        found = {node.number: node for stage in self.stages for node in walk(stage.roots)}
        return [found[number] for number in sorted(found)]

    def with_state(self) -> list[Node]:
        """The processors with state, each after all those that feed it."""
        ordered: list[Node] = []
        done: set[int] = set()

        def visit(node: Node) -> None:
            if node.number in done:
                return
            done.add(node.number)
            for follower in fed_by(node):
                visit(follower)
            ordered.append(node)

        for stage in self.stages:
            for node in stage.fed():
                visit(node)
        return ordered[::-1]


def fed_by(node: Node) -> list[Node]:
    """The processors with state that the results of one with state are handed to."""
    return [each for each in walk(tuple(node.readers()), through_state=False) if each.has_state]


def make_plan(
    spec: FlowSpec, streams: dict[str, StreamInfo], processor_ids: dict[str, str], changelogs: dict[str, StreamInfo] | None = None
) -> Plan:
    """The plan of a flow, given its streams by the names that the flow uses, and its processors' ids by name.

    Raises ``FlowError`` if two names turn out to be one stream, so that a processor would read what it writes.
    """
    readers: dict[tuple[str, str], list[tuple[int, int]]] = {}
    roots: list[tuple[str, int, int]] = []
    for number, processor in enumerate(spec.processors):
        for side, source in zip(SIDES, spec.sources_of(processor), strict=False):
            if spec.processor(source.name) is None:
                roots.append((source.name, number, side))
            else:
                readers.setdefault((source.name, source.port), []).append((number, side))
    made: dict[int, Node] = {}

    def node(number: int) -> Node:
        if number not in made:
            processor = spec.processors[number]
            name = processor.processor_name

            def edges(port: str) -> tuple[Edge, ...]:
                return tuple(Edge(node(n), side) for n, side in readers.get((name, port), ()))

            made[number] = Node(
                number=number,
                processor_id=processor_ids[name],
                origin=f"{spec.tenant_id}/{spec.name}/{processor.state_name}",
                spec=processor,
                target=streams[processor.target_stream_id] if processor.target_stream_id is not None else None,
                changelog=(changelogs or {}).get(name),
                children=edges(OUTPUT),
                error_children=edges(ERRORS),
                late_children=edges(LATE),
            )
        return made[number]

    stages = _stages([(streams[name], Edge(node(number), side)) for name, number, side in roots])
    for stage in stages:
        for member in walk(stage.roots):
            if member.target is not None and member.target.name.startswith("_"):
                raise FlowError(f"processors[{member.number}].target_stream_id: {member.target.name} is the bus's own")
            if member.target is not None and member.target.stream_id == stage.source.stream_id:
                raise FlowError(
                    f"processors[{member.number}].target_stream_id: {member.target.name} is the stream that "
                    f"{stage.roots[0].node.name} reads, and each event would run in a circle"
                )
    return Plan(spec.name, spec.tenant_id, stages, max(p.parallelism for p in spec.processors))


def _stages(roots: list[tuple[StreamInfo, Edge]]) -> tuple[Stage, ...]:
    """One stage for each root, but for those that read one stream and meet in one processor: these share a stage, so that each
    event reaches it once, with both its sides."""
    stages: list[Stage] = []
    for stream, edge in roots:
        below = {node.number for node in walk([edge], through_state=False)}
        joined = [
            stage
            for stage in stages
            if stage.source.stream_id == stream.stream_id and below & {each.number for each in stage.nodes()}
        ]
        together = (*(root for stage in joined for root in stage.roots), edge)
        if joined:
            stages[stages.index(joined[0])] = Stage(stream, together)
            stages = [stage for stage in stages if stage not in joined[1:]]
        else:
            stages.append(Stage(stream, together))
    return tuple(stages)


def missing_stream(spec: FlowSpec, number: int, key: str, error: StreamNotFoundError) -> StreamNotFoundError:
    """The error for a stream that a processor names but that does not exist."""
    return StreamNotFoundError(
        f"processors[{number}].{key}: {error.message} A flow can also declare it under 'streams'.",
        **error.details,
        path=f"processors[{number}].{key}",
        flow=spec.name,
    )
