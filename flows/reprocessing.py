"""Dead letters processed again: the part of a flow from the failed processor down, over single events, in this process.

Nothing is written here; what would be written is returned, so that the caller can write it together with what it notes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from event_streaming_bus.errors import InvalidStateError, ProcessorNotFoundError
from event_streaming_bus.flows.functions import load_functions
from event_streaming_bus.flows.outputs import NodeOutcome, Surroundings
from event_streaming_bus.flows.plan import Edge, Node, Plan, Stage, make_plan, walk
from event_streaming_bus.flows.processors import ends_tree
from event_streaming_bus.flows.rows import EventRows, Rows
from event_streaming_bus.flows.segments import Segments
from event_streaming_bus.flows.spec import FlowSpec, stored_processor
from event_streaming_bus.models import ErrorHandlingStrategy, Event, StreamInfo
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.registry.upcasting import Upcaster, upcaster_of
from event_streaming_bus.store.history_records import PASSED, EventError
from event_streaming_bus.store.letters import Letter
from event_streaming_bus.store.storage import Storage


class Outcome(msgspec.Struct, frozen=True):
    """What came of one letter: ``events`` to write, by stream id, or why it failed again; then there are no events.

    ``passed``: whether the processor that had failed passed the event on; if not, it filters it out now.
    """

    events: Mapping[str, Sequence[Event]] = {}
    error: EventError | None = None
    passed: bool = False


class _LetterRows(EventRows):
    """One letter's event as a processor sees it; further dead letters made of it name the same place."""

    def __init__(self, letter: Letter, upcast: Upcaster | None) -> None:
        event = letter.original()
        super().__init__([event if upcast is None else upcast.event(event)])
        self._place = letter.place()

    def place(self, index: int) -> dict[str, Any]:
        return self._place


def plan_around(storage: Storage, tenant_id: str, processor_id: str) -> Plan:
    """The part of a flow that is joined to a processor of the catalog, above it and below, by their entries.

    Nothing is changed. Raises ``ProcessorNotFoundError``, and ``StreamNotFoundError`` for a stream that is no longer there.
    """
    record = storage.catalog.get_processor(tenant_id, processor_id)
    entries = {
        each.processor_name: (each.processor_id, stored_processor(msgspec.json.decode(each.config)))
        for each in storage.catalog.list_processors(tenant_id)
        if each.flow == record.flow
    }
    whole = FlowSpec(name=record.flow, tenant_id=tenant_id, processors=tuple(spec for _, spec in entries.values()))
    sources = {spec.processor_name: {ref.name for ref in whole.sources_of(spec)} for spec in whole.processors}
    needed = [record.processor_name]
    for name in needed:  # grows while it is walked
        joined = [other for other in entries if other in sources[name] or name in sources[other]]
        needed += [other for other in joined if other not in needed]
    spec = msgspec.structs.replace(whole, processors=tuple(entries[name][1] for name in entries if name in needed))
    return make_plan(spec, _streams(spec, storage), {name: entries[name][0] for name in needed})


def _streams(spec: FlowSpec, storage: Storage) -> dict[str, StreamInfo]:
    return {name: storage.log.find_stream(spec.tenant_id, name) for name in spec.streams_used()}


def reprocess(storage: Storage, plan: Plan, processor_name: str, letters: Sequence[Letter]) -> list[Outcome]:
    """Run the events of ``letters`` again, one by one, through what leads to the processor, the processor, and all below it.

    Only what the processor and those below it make of an event is in its outcome: the others on the way have written theirs
    when it first came by. An event that fails at the processor, or on the way to it, has failed again; one that fails further
    down becomes a dead letter of that processor, as in the flow.

    Raises ``InvalidStateError`` if the processor or one below it holds state: its windows may have closed since, and
    only the flow itself can change them.
    """
    stage, way = _way_to(plan, processor_name)
    failed = way[-1].node
    stateful = next((node for node in walk(way[-1:], through_state=False) if node.has_state), None)
    if stateful is not None:
        raise InvalidStateError(
            f"The events of {failed.name} cannot be retried alone, for {stateful.name} ({stateful.spec.processor_type.value}) "
            "keeps state that only the running flow may change. Publish the event anew, corrected, or run the flow from the "
            "start (esb run --from-start).",
            processor_name=failed.name,
        )
    edge = _pruned(way)
    registry = SchemaRegistryService(storage)
    surroundings = Surroundings(
        stage.source,
        storage.dead_letters(plan.tenant_id),
        registry.guard_of,
        load_functions(walk([edge])),
        upcaster_of(registry, storage.log, stage.source),
    )
    segments = Segments(surroundings)
    ours = {each.node.number for each in way}
    return [_reprocessed(segments, edge, _LetterRows(letter, surroundings.upcast), failed, ours) for letter in letters]


def _way_to(plan: Plan, processor_name: str) -> tuple[Stage, list[Edge]]:
    """The stage that the events of the processor come from, and the way from where they come in down to it.

    That is the top of the stage, or right below what last made new events: a processor with state, one that makes several events
    of one, or a port.
    """

    def find(edges: Sequence[Edge]) -> list[Edge]:
        for edge in edges:
            node = edge.node
            if node.name == processor_name:
                return [edge]
            if way := find(node.children):
                return way if ends_tree(node.spec) else [edge, *way]
            if way := find((*node.error_children, *node.late_children)):
                return way
        return []

    for stage in plan.stages:
        if way := find(stage.roots):
            return stage, way
    raise ProcessorNotFoundError(f"The flow {plan.name} has no processor {processor_name}.", processor_name=processor_name)


def _pruned(way: Sequence[Edge]) -> Edge:
    """The tree of the nodes on the way, which write nothing, and of all that is below the last one. None of them stops the
    process, and none hands errors on: here an error is an answer."""
    last = _without_stop(way[-1])
    kept = msgspec.structs.replace(last, node=_answering(last.node))
    for edge in reversed(way[:-1]):
        node = msgspec.structs.replace(_answering(edge.node), target=None, children=(kept,))
        kept = msgspec.structs.replace(edge, node=node)
    return kept


def _answering(node: Node) -> Node:
    spec = msgspec.structs.replace(node.spec, error_handling_strategy=ErrorHandlingStrategy.DEAD_LETTER)
    return msgspec.structs.replace(node, spec=spec, error_children=())


def _without_stop(edge: Edge) -> Edge:
    node, spec = edge.node, edge.node.spec
    if spec.error_handling_strategy is ErrorHandlingStrategy.STOP:
        spec = msgspec.structs.replace(spec, error_handling_strategy=ErrorHandlingStrategy.DEAD_LETTER)
    children, errors = (tuple(map(_without_stop, edges)) for edges in (node.children, node.error_children))
    return msgspec.structs.replace(edge, node=msgspec.structs.replace(node, spec=spec, children=children, error_children=errors))


def _reprocessed(segments: Segments, edge: Edge, rows: Rows, failed: Node, ours: set[int]) -> Outcome:
    ran = segments.run([edge], rows)
    for outcome in ran.nodes:
        if outcome.errors and outcome.node.number in ours:
            return Outcome(error=_told(outcome, failed))
    passed = any(outcome.node.number == failed.number and outcome.outcomes[0] == PASSED for outcome in ran.nodes)
    return Outcome(events=ran.events.by_stream(), passed=passed)


def _told(outcome: NodeOutcome, failed: Node) -> EventError:
    error = outcome.errors[0]
    if outcome.node.number == failed.number:
        return error
    return msgspec.structs.replace(error, message=f"{outcome.node.name}, on the way to {failed.name}: {error.message}")
