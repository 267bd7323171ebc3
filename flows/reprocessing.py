"""Dead letters processed again: the part of a flow from the failed processor down, over single events, in this process.

Nothing is written here; what would be written is returned, so that the caller can write it together with what it notes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import InvalidStateError, ProcessorNotFoundError
from event_streaming_bus.flows.codegen import Tree, compile_tree
from event_streaming_bus.flows.outputs import NodeOutcome, Surroundings, settle
from event_streaming_bus.flows.plan import Node, Plan, Stage, make_plan
from event_streaming_bus.flows.rows import EventRows
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec, parse_flow
from event_streaming_bus.models import ErrorHandlingStrategy, Event, ProcessorType, StreamInfo
from event_streaming_bus.registry.service import SchemaGuard, SchemaRegistryService
from event_streaming_bus.store.history_records import PASSED, EventError
from event_streaming_bus.store.letters import Letter
from event_streaming_bus.store.storage import Storage

_STATELESS: Final = (ProcessorType.FILTER, ProcessorType.MAP)
_payload_decoder: Final = msgspec.json.Decoder(dict[str, Any])


class Outcome(msgspec.Struct, frozen=True):
    """What came of one letter: ``events`` to write, by stream id, or why it failed again; then there are no events.

    ``passed``: whether the processor that had failed passed the event on; if not, it filters it out now.
    """

    events: Mapping[str, Sequence[Event]] = {}
    error: EventError | None = None
    passed: bool = False


class _LetterRows(EventRows):
    """One letter's event as a stage sees it; further dead letters made of it name the same place."""

    def __init__(self, letter: Letter, event: Event, payload: dict[str, Any]) -> None:
        super().__init__([event], [payload])
        self._place = letter.place()

    def place(self, index: int) -> dict[str, Any]:
        return self._place


def plan_around(storage: Storage, tenant_id: str, processor_id: str) -> Plan:
    """The part of a flow that a processor of the catalog belongs to: those above it and those below, by their entries.

    Nothing is changed. Raises ``ProcessorNotFoundError``, and ``StreamNotFoundError`` for a stream that is no longer there.
    """
    record = storage.catalog.get_processor(tenant_id, processor_id)
    entries = {
        each.processor_name: (each.processor_id, msgspec.json.decode(each.config))
        for each in storage.catalog.list_processors(tenant_id)
        if each.flow == record.flow
    }
    top = record.processor_name
    seen = {top}
    while (above := entries[top][1]["source_stream_id"]) in entries and above not in seen:
        top = above
        seen.add(top)
    needed = [top]
    for name in needed:  # grows while it is walked
        needed += [below for below, (_, config) in entries.items() if config["source_stream_id"] == name and below not in needed]
    spec = parse_flow({"processors": [entries[name][1] for name in needed]}, name="flow")
    spec = msgspec.structs.replace(spec, name=record.flow, tenant_id=tenant_id)
    return make_plan(spec, _streams(spec, storage), {name: entries[name][0] for name in needed})


def _streams(spec: FlowSpec, storage: Storage) -> dict[str, StreamInfo]:
    names = {p.source_stream_id for p in spec.processors if spec.processor(p.source_stream_id) is None}
    names |= {p.target_stream_id for p in spec.processors if p.target_stream_id is not None}
    return {name: storage.log.find_stream(spec.tenant_id, name) for name in names}


def reprocess(storage: Storage, plan: Plan, processor_name: str, letters: Sequence[Letter]) -> list[Outcome]:
    """Run the events of ``letters`` again, one by one, through what leads to the processor, the processor, and all below it.

    Only what the processor and those below it make of an event is in its outcome: the others on the way have written theirs
    when it first came by. An event that fails at the processor, or on the way to it, has failed again; one that fails further
    down becomes a dead letter of that processor, as in the flow.

    Raises ``InvalidStateError`` if the processor or one below it holds state: its windows may have closed since, and
    only the flow itself can change them.
    """
    stage, way = _way_to(plan, processor_name)
    failed = way[-1]
    stateful = next((node for node in failed.walk() if node.spec.processor_type not in _STATELESS), None)
    if stateful is not None:
        raise InvalidStateError(
            f"The events of {failed.name} cannot be retried alone, for {stateful.name} ({stateful.spec.processor_type.value}) "
            "keeps state that only the running flow may change. Publish the event anew, corrected, or run the flow from the "
            "start (esb run --from-start).",
            processor_name=failed.name,
        )
    tree = compile_tree([_pruned(way)], decoded=True)
    ours = {node.number for node in way}
    surroundings = Surroundings(stage.source, storage.dead_letters(plan.tenant_id), _guards(storage))
    return [_reprocessed(tree, letter, failed, ours, surroundings) for letter in letters]


def _way_to(plan: Plan, processor_name: str) -> tuple[Stage, list[Node]]:
    """The stage of the processor, and the nodes from where its events come in down to it.

    That is the top of the stage, or right below the closest processor with state, whose results are the events.
    """

    def find(node: Node) -> list[Node]:
        if node.name == processor_name:
            return [node]
        for child in node.children:
            if way := find(child):
                return [node, *way] if node.spec.processor_type in _STATELESS else way
        return []

    for stage in plan.stages:
        if way := find(stage.root):
            return stage, way
    raise ProcessorNotFoundError(f"The flow {plan.name} has no processor {processor_name}.", processor_name=processor_name)


def _pruned(way: Sequence[Node]) -> Node:
    """The tree of the nodes on the way, which write nothing, and of all that is below the last one. None of them stops the
    process: here an error is an answer."""
    kept = _without_stop(way[-1])
    kept = msgspec.structs.replace(kept, spec=_with_strategy(way[-1], ErrorHandlingStrategy.DEAD_LETTER))
    for node in reversed(way[:-1]):
        spec = _with_strategy(node, ErrorHandlingStrategy.DEAD_LETTER)
        kept = msgspec.structs.replace(node, spec=spec, target=None, children=(kept,))
    return kept


def _without_stop(node: Node) -> Node:
    stops = node.spec.error_handling_strategy is ErrorHandlingStrategy.STOP
    spec = _with_strategy(node, ErrorHandlingStrategy.DEAD_LETTER) if stops else node.spec
    return msgspec.structs.replace(node, spec=spec, children=tuple(map(_without_stop, node.children)))


def _with_strategy(node: Node, strategy: ErrorHandlingStrategy) -> ProcessorSpec:
    return msgspec.structs.replace(node.spec, error_handling_strategy=strategy)


def _reprocessed(tree: Tree, letter: Letter, failed: Node, ours: set[int], surroundings: Surroundings) -> Outcome:
    event = letter.original()
    try:
        payload = _payload_decoder.decode(event.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Outcome(error=EventError(0, "ValueError", f"the payload is no JSON object: {error}"))
    rows = _LetterRows(letter, event, payload)
    outputs, failures = tree.run([(0, payload)], {name: rows.column(name) for name in tree.columns})
    settled = settle(tree, rows, outputs, failures, (), surroundings)
    for outcome in settled.nodes:
        if outcome.errors and outcome.node.number in ours:
            return Outcome(error=_told(outcome, failed))
    passed = any(outcome.node.number == failed.number and outcome.outcomes[0] == PASSED for outcome in settled.nodes)
    return Outcome(events=settled.events, passed=passed)


def _told(outcome: NodeOutcome, failed: Node) -> EventError:
    error = outcome.errors[0]
    if outcome.node.number == failed.number:
        return error
    return msgspec.structs.replace(error, message=f"{outcome.node.name}, on the way to {failed.name}: {error.message}")


def _guards(storage: Storage) -> Callable[[StreamInfo], SchemaGuard | None]:
    registry = SchemaRegistryService(storage)

    def guard(stream: StreamInfo) -> SchemaGuard | None:
        schema_id = stream.config.schema_id
        return None if schema_id is None else registry.guard(stream.tenant_id, schema_id)

    return guard
