"""What a tree of processors made of some events, settled: output events, dead letters, outcomes and counts."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import FlowError
from event_streaming_bus.expressions import Expression
from event_streaming_bus.flows.codegen import Failure, Tree
from event_streaming_bus.flows.marks import Counts
from event_streaming_bus.flows.plan import Node
from event_streaming_bus.flows.processors import PROCESSOR_TYPES
from event_streaming_bus.flows.processors.map import MapLogic
from event_streaming_bus.flows.rows import EventRows, Rows, select_events
from event_streaming_bus.models import ErrorHandlingStrategy, Event, ProcessorType, StreamInfo
from event_streaming_bus.registry.service import SchemaGuard
from event_streaming_bus.store.dead_letters import dead_letter
from event_streaming_bus.store.history_records import ACCEPTED, DEAD, FILTERED, PASSED, SKIPPED, EventError

_OUTCOME_OF_SEEN: Final = {
    ProcessorType.FILTER: FILTERED,
    ProcessorType.MAP: PASSED,
    ProcessorType.AGGREGATE: ACCEPTED,
}


class Surroundings(msgspec.Struct, frozen=True):
    """What settling needs beside the events: where dead letters go, and the schemas that guard target streams."""

    source: StreamInfo
    dead_letters: StreamInfo
    guard: Callable[[StreamInfo], SchemaGuard | None]


class Mapped(msgspec.Struct, frozen=True):
    """What MAPs have made of events so far, by index: payloads, keys (``None``: unchanged) and the event type (likewise)."""

    payloads: dict[int, dict[str, Any]]
    keys: dict[int, str | None] | None
    event_type: str | None


class NodeOutcome(msgspec.Struct):
    """What became of the events that one processor saw: one byte for each event (0: not seen), and the errors."""

    node: Node
    outcomes: bytearray
    errors: list[EventError]
    counts: Counts


class Settled(msgspec.Struct):
    """``events`` by stream id, ready to append, and what became of the events in each processor."""

    events: dict[str, list[Event]]
    nodes: list[NodeOutcome]


def settle(
    tree: Tree,
    rows: Rows,
    outputs: Sequence[Any],
    failures: Sequence[Failure],
    undecoded: Sequence[tuple[int, Exception]],
    surroundings: Surroundings,
) -> Settled:
    """Make events of what ``tree.run`` collected. Raises ``FlowError`` for a failure where the strategy is STOP."""
    failed: dict[int, list[tuple[int, Exception]]] = defaultdict(list)
    for number, index, error in failures:
        failed[number].append((index, error))
    events: dict[str, list[Event]] = defaultdict(list)
    seen: dict[int, Sequence[int]] = {}
    mapped: dict[int, Mapped | None] = {}
    roots = {node.number for node in tree.nodes} - {c.number for node in tree.nodes for c in node.children}
    nodes = []
    for number, (node, collected) in enumerate(zip(tree.nodes, outputs, strict=True)):
        if node.number in roots:
            saw: Sequence[int] = range(rows.count)
            failed[number].extend(undecoded)
            mapped[node.number] = None
        else:
            saw = seen[node.number]
        passed = _passed(node, collected)
        made_of = _mapped(node, collected, mapped[node.number])
        for child in node.children:
            seen[child.number], mapped[child.number] = passed, made_of
        if node.target is not None and passed and not node.is_aggregate:
            made, refused = _make(node, node.target, rows, made_of, passed, surroundings)
            failed[number].extend(refused)
            events[node.target.stream_id].extend(made)
        nodes.append(_outcome(node, rows, saw, passed, failed[number], events, surroundings))
    return Settled({stream_id: made for stream_id, made in events.items() if made}, nodes)


def _passed(node: Node, collected: Any) -> Sequence[int]:
    if node.is_aggregate:
        return ()
    if node.spec.processor_type is ProcessorType.FILTER:
        indexes: Sequence[int] = collected
        return indexes
    return [index for index, _, _ in collected]


def _mapped(node: Node, collected: Any, before: Mapped | None) -> Mapped | None:
    """What MAPs have made of the events that ``node`` passes on: a MAP goes before those above it."""
    logic = node.spec.processing_logic
    if not isinstance(logic, MapLogic):
        return before
    keys = {i: key for i, _, key in collected} if logic.key is not None else before.keys if before else None
    event_type = logic.event_type or (before.event_type if before else None)
    return Mapped({i: payload for i, payload, _ in collected}, keys, event_type)


def _make(
    node: Node, target: StreamInfo, rows: Rows, mapped: Mapped | None, passed: Sequence[int], surroundings: Surroundings
) -> tuple[list[Event], list[tuple[int, Exception]]]:
    """``(events for the target, those that its schema refuses)``."""
    replaced: dict[str, Iterable[Any]] = {
        "event_id": rows.output_ids(node.origin, passed),
        "causation_id": _picked(rows, "event_id", passed),
        "schema_id": repeat(target.config.schema_id, len(passed)),
        "compression_type": repeat(None, len(passed)),
    }
    if mapped is not None:
        replaced["data"] = [msgspec.json.encode(mapped.payloads[i]) for i in passed]
        if mapped.keys is not None:
            replaced["key"] = [mapped.keys[i] for i in passed]
        if mapped.event_type is not None:
            replaced["event_type"] = repeat(mapped.event_type, len(passed))
    made = select_events(rows, passed, replaced)
    guard = surroundings.guard(target)
    if guard is None:
        return made, []
    invalid = guard.check_many([event.payload for event in made])
    refused: list[tuple[int, Exception]] = []
    for i in invalid:
        told = "; ".join(f"{v.path or '(the payload itself)'}: {v.message}" for v in guard.check(made[i].payload)[:5])
        reason = f"the output breaks schema {guard.schema_name} {guard.schema_version} of stream {target.name}: {told}"
        refused.append((passed[i], ValueError(reason)))
    aside = set(invalid)
    return [event for i, event in enumerate(made) if i not in aside], refused


def _picked(rows: Rows, name: str, indexes: Sequence[int]) -> Sequence[Any]:
    values = rows.column(name)
    return values if len(indexes) == rows.count else [values[i] for i in indexes]


def _outcome(
    node: Node,
    rows: Rows,
    saw: Sequence[int],
    passed: Sequence[int],
    failed: list[tuple[int, Exception]],
    events: dict[str, list[Event]],
    surroundings: Surroundings,
) -> NodeOutcome:
    kind = _OUTCOME_OF_SEEN[node.spec.processor_type]
    if len(saw) == rows.count:
        outcomes = bytearray([kind]) * rows.count
    else:
        outcomes = bytearray(rows.count)
        for i in saw:
            outcomes[i] = kind
    if kind is FILTERED:
        for i in passed:
            outcomes[i] = PASSED
    skip = node.spec.error_handling_strategy is ErrorHandlingStrategy.SKIP
    errors = []
    failed = sorted(failed, key=lambda item: item[0])
    failed_events = select_events(rows, [i for i, _ in failed], {})
    for (i, error), event in zip(failed, failed_events, strict=True):
        outcomes[i] = SKIPPED if skip else DEAD
        message = explain(node, error, event)
        errors.append(EventError(i, type(error).__name__, message))
        if node.spec.error_handling_strategy is ErrorHandlingStrategy.STOP:
            raise FlowError(
                f"{node.name} stopped the flow at event {event.event_id} ({rows.place(i)} of {surroundings.source.name}): "
                f"{message}. Its error_handling_strategy is STOP.",
                event_id=event.event_id,
            )
        if not skip:
            events[surroundings.dead_letters.stream_id].append(_dead(node, rows, i, event, error, message, surroundings))
    count = len(saw)
    lost = len(failed)
    passed_count = outcomes.count(PASSED) + outcomes.count(ACCEPTED)
    counts = Counts(
        events_in=count,
        passed=passed_count,
        filtered=count - passed_count - lost,
        dead=0 if skip else lost,
        skipped=lost if skip else 0,
    )
    return NodeOutcome(node, outcomes, errors, counts)


def _dead(node: Node, rows: Rows, index: int, event: Event, error: Exception, message: str, surroundings: Surroundings) -> Event:
    return dead_letter(
        event,
        event_id=ids.derived_id(ids.EVENT, event.timestamp_ms, "dead", node.origin, event.event_id),
        stream=surroundings.source,
        step=node.name,
        error_type=type(error).__name__,
        message=message,
        failed_at_ms=time.time_ns() // 1_000_000,
        position=rows.place(index),
        processor_id=node.processor_id,
        processor_name=node.name,
    )


def explain(node: Node, error: Exception, event: Event) -> str:
    """A sentence on why the processor failed on the event: for an expression, which field was null or of a wrong type."""
    for expression in PROCESSOR_TYPES[node.spec.processor_type].expressions(node.spec.processing_logic):
        told = _explain_expression(expression, error, event)
        if told is not None:
            return told
    return str(error)


def _explain_expression(expression: Expression, error: Exception, event: Event) -> str | None:
    try:
        expression.compile()(event)
    except Exception as again:
        if type(again) is type(error):
            return f"{expression.text}: {expression.explain(again, event)}"
    return None


def dead_window(node: Node, event: Event, guard: SchemaGuard, surroundings: Surroundings) -> Event:
    """The dead letter of a window's result that the schema of its target refuses."""
    told = "; ".join(f"{v.path or '(the payload itself)'}: {v.message}" for v in guard.check(event.payload)[:5])
    error = ValueError(f"the output breaks schema {guard.schema_name} {guard.schema_version}: {told}")
    rows = EventRows([event], [event.payload])
    return _dead(node, rows, 0, event, error, str(error), surroundings)
