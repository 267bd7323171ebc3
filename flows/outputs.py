"""What a tree of processors made of some events, settled: output events, dead letters, outcomes and counts."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.codegen import Failure, Tree
from event_streaming_bus.flows.custom_calls import Calls, Failed
from event_streaming_bus.flows.explaining import explain
from event_streaming_bus.flows.items import Outputs
from event_streaming_bus.flows.marks import Counts
from event_streaming_bus.flows.plan import Edge, Node
from event_streaming_bus.flows.processors import flattens
from event_streaming_bus.flows.processors.map import MapLogic
from event_streaming_bus.flows.rows import EventRows, Rows, select_columns, select_events
from event_streaming_bus.models import ErrorHandlingStrategy, Event, ProcessorType, SerializationFormat, StreamInfo
from event_streaming_bus.registry.deliveries import delivered, for_schema, told_of_refused
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.upcasting import Upcaster
from event_streaming_bus.store.dead_letters import dead_letter
from event_streaming_bus.store.history_records import ACCEPTED, DEAD, FILTERED, PASSED, SKIPPED, EventError
from event_streaming_bus.store.log.event_columns import Column, EventColumns, Same, different, picked

_encode: Final = msgspec.json.Encoder().encode
_JSON: Final = SerializationFormat.JSON
_FLAGS: Final = bytes([FILTERED, PASSED]) + bytes(254)
_MAKES_SOME: Final = (ProcessorType.FILTER, ProcessorType.CUSTOM)


class Surroundings(msgspec.Struct, frozen=True):
    """What settling needs beside the events: the stream they come from, where dead letters go, the schemas that guard target
    streams, the functions of CUSTOM processors by their number, and what brings events to the version of their stream's
    schema."""

    source: StreamInfo
    dead_letters: StreamInfo
    guard: Callable[[StreamInfo], SchemaGuard | None]
    functions: Mapping[int, Calls] = {}
    upcast: Upcaster | None = None


class _Made(msgspec.Struct, frozen=True):
    """Values that a MAP made, in step with the indexes of the events they are for."""

    indexes: Sequence[int]
    values: Sequence[Any]

    def at(self, indexes: Sequence[int]) -> Sequence[Any]:
        """The values for these events."""
        if indexes is self.indexes:
            return self.values
        found = dict(zip(self.indexes, self.values, strict=True))
        return [found[i] for i in indexes]


class Mapped(msgspec.Struct, frozen=True):
    """What MAPs have made of events so far: payloads (JSON, or what becomes JSON), keys (``None``: unchanged) and the event
    type (likewise)."""

    payloads: _Made
    keys: _Made | None
    event_type: str | None


class NodeOutcome(msgspec.Struct):
    """What became of the events that one processor saw: one byte for each event (0: not seen), and the errors."""

    node: Node
    outcomes: bytearray
    errors: list[EventError]
    counts: Counts
    rows: Rows


class Settled(msgspec.Struct):
    """``events`` by stream id, ready to append, what became of the events in each processor, and what is to be read on from
    there: ``followers`` of events that were made or set aside."""

    events: Outputs
    nodes: list[NodeOutcome]
    followers: list[tuple[tuple[Edge, ...], EventRows]]


class _Making(msgspec.Struct):
    """What one node passes on: the indexes, and where it makes events of its own, these, each with the index it comes from and
    its ``order_id`` (see ``Rows.column``)."""

    passed: Sequence[int]
    events: list[Event] | None = None
    origins: Sequence[int] = ()
    order_ids: Sequence[str] = ()
    failed: list[tuple[int, Exception]] = []
    attempts: dict[int, int] = {}
    flags: bytearray | None = None
    """Of a FILTER: 1 for each event that passes."""


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
    for position, index, error in failures:
        failed[tree.nodes[position].number].append((index, error))
    settled = Settled(Outputs(), [], [])
    seen: dict[int, list[Sequence[int]]] = {number: [range(rows.count)] * ways for number, ways in tree.roots.items()}
    mapped: dict[int, Mapped | None] = {}
    flagged: dict[int, bytearray] = {}  # of those that read a FILTER: which events they see
    for node, collected in zip(tree.nodes, outputs, strict=True):
        trouble = failed[node.number]
        saw = seen.get(node.number, [])
        if node.number in tree.roots:
            trouble.extend(undecoded)
        above = mapped.get(node.number)
        making = _make(node, rows, collected, above, surroundings)
        trouble.extend(making.failed)
        made_of = _mapped(node, collected, above)
        for edge in () if making.events is not None else node.children:
            seen.setdefault(edge.node.number, []).append(making.passed)
            if making.flags is not None:
                flagged[edge.node.number] = making.flags
            mapped[edge.node.number] = made_of
        if node.target is not None and making.passed:
            made, refused = _write(node, node.target, rows, made_of, making, surroundings)
            trouble.extend(refused)
            settled.events.add(node.target.stream_id, made)
        if making.events and node.children:
            roots = [rows.roots[i] for i in making.origins]
            settled.followers.append((node.children, EventRows(making.events, roots, making.order_ids)))
        settled.nodes.append(_outcome(node, rows, saw, flagged.get(node.number), making, trouble, settled, surroundings))
    return settled


def _make(node: Node, rows: Rows, collected: Any, mapped: Mapped | None, surroundings: Surroundings) -> _Making:
    if node.has_state:
        return _Making(())
    kind = node.spec.processor_type
    if kind is ProcessorType.FILTER:
        return _Making(list(compress(range(rows.count), collected)), flags=collected)
    if kind is ProcessorType.CUSTOM:
        return _call(node, rows, collected, surroundings)
    if not flattens(node.spec):
        return _Making(collected[0])
    logic = node.spec.processing_logic
    assert isinstance(logic, MapLogic)  # noqa: S101 - only MAPs flatten
    origins = [index for index, _, _ in collected]
    replaced: dict[str, Column] = {
        "data": [msgspec.json.encode(payload) for _, payload, _ in collected],
        "serialization_format": Same(_JSON),
    }
    if logic.key is not None:
        replaced["key"] = [key for _, _, key in collected]
    elif mapped is not None and mapped.keys is not None:
        replaced["key"] = mapped.keys.at(origins)
    event_type = logic.event_type or (mapped.event_type if mapped else None)
    if event_type is not None:
        replaced["event_type"] = Same(event_type)
    return _derived(node, rows, origins, select_events(rows, origins, replaced))


def _call(node: Node, rows: Rows, collected: Any, surroundings: Surroundings) -> _Making:
    """Call the user's function of a CUSTOM."""
    indexes = [index for index, _ in collected]
    events = select_events(rows, indexes, {})
    if collected and collected[0][1] is not None:
        events = [with_parts(event, parts) for event, (_, parts) in zip(events, collected, strict=True)]
    origins: list[int] = []
    made: list[Event] = []
    failed: list[tuple[int, Exception]] = []
    attempts: dict[int, int] = {}
    for index, output in zip(indexes, surroundings.functions[node.number](events) if events else (), strict=True):
        if isinstance(output, Failed):
            failed.append((index, output.error))
            attempts[index] = output.attempts
        else:
            made += output
            origins += [index] * len(output)
    making = _derived(node, rows, origins, made)
    making.failed, making.attempts = failed, attempts
    return making


def with_parts(event: Event, parts: tuple[Any, str | None, str]) -> Event:
    """The event with the payload, key and type that MAPs gave it."""
    payload, key, event_type = parts
    data = msgspec.json.encode(payload)
    return msgspec.structs.replace(event, data=data, serialization_format=_JSON, key=key, event_type=event_type)


def _derived(node: Node, rows: Rows, origins: list[int], events: list[Event]) -> _Making:
    """Events that a node made, several of one perhaps: with ids of their own."""
    sources, order = rows.column("event_id"), rows.column("order_id")
    made: list[Event] = []
    order_ids: list[str] = []
    before, number = -1, 0
    for index, event in zip(origins, events, strict=True):
        number = number + 1 if index == before else 0
        before = index
        event_id = ids.derived_id(ids.EVENT, event.timestamp_ms, node.origin, sources[index], number)
        made.append(msgspec.structs.replace(event, event_id=event_id, causation_id=sources[index], compression_type=None))
        order_ids.append(f"{order[index]}/{number:06}")
    return _Making(list(dict.fromkeys(origins)), made, origins, order_ids)


def _mapped(node: Node, collected: Any, before: Mapped | None) -> Mapped | None:
    """What MAPs have made of the events that ``node`` passes on: a MAP goes before those above it."""
    logic = node.spec.processing_logic
    if not isinstance(logic, MapLogic) or flattens(node.spec):
        return before
    indexes, payloads, new_keys = collected
    keys = _Made(indexes, new_keys) if logic.key is not None else before.keys if before else None
    event_type = logic.event_type or (before.event_type if before else None)
    return Mapped(_Made(indexes, payloads), keys, event_type)


def _write(
    node: Node, target: StreamInfo, rows: Rows, mapped: Mapped | None, making: _Making, surroundings: Surroundings
) -> tuple[Sequence[Event], list[tuple[int, Exception]]]:
    """``(events for the target, those that its schema refuses)``."""
    schema_id = target.config.schema_id
    made: Sequence[Event]
    if making.events is not None:
        made, origins = [for_schema(event, schema_id) for event in making.events], making.origins
    else:
        made, origins = _copies(node, rows, mapped, making.passed, schema_id), making.passed
        if _is_json(rows, mapped) and surroundings.guard(target) is None:
            return made, []
    kept, refused = guarded(surroundings, target, made)
    return kept, [(origins[i], error) for i, error in refused]


def guarded(
    surroundings: Surroundings, target: StreamInfo, events: Sequence[Event]
) -> tuple[Sequence[Event], list[tuple[int, Exception]]]:
    """``(the events as the target keeps them, the indexes of those that its schema refuses, each with the reason)``."""
    guard = surroundings.guard(target)
    if guard is None and isinstance(events, EventColumns) and different(events, "serialization_format") == {_JSON}:
        return events, []
    made, invalid = delivered(guard, events, moves=True)
    if not invalid:
        return made, []
    aside = set(invalid)
    kept = [event for i, event in enumerate(made) if i not in aside]
    return kept, [(i, refusal(guard, events[i], target)) for i in invalid]


def refusal(guard: SchemaGuard | None, event: Event, target: StreamInfo) -> Exception:
    """Why the target refuses an event."""
    try:
        told = "" if guard is None else told_of_refused(guard, event, moves=True)
        if guard is None:
            event.payload  # noqa: B018 - without a schema nothing else is refused
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return ValueError(f"the payload cannot be read: {error}")
    assert guard is not None  # noqa: S101 - as above
    broken = f"schema {guard.schema_name} {guard.schema_version} of stream {target.name}"
    return ValueError(f"the output breaks {broken}: {told}")


def _copies(node: Node, rows: Rows, mapped: Mapped | None, passed: Sequence[int], schema_id: str | None) -> Sequence[Event]:
    """The events at ``passed`` as outputs of the node, with what MAPs changed."""
    replaced: dict[str, Column] = {
        "event_id": rows.output_ids(node.origin, passed),
        "causation_id": picked(rows.column("event_id"), passed),
        "compression_type": Same(None),
    }
    if mapped is not None:
        payloads = mapped.payloads.at(passed)
        replaced["data"] = payloads if isinstance(payloads[0], bytes) else list(map(_encode, payloads))
        replaced["serialization_format"] = Same(_JSON)
        if mapped.keys is not None:
            replaced["key"] = mapped.keys.at(passed)
        if mapped.event_type is not None:
            replaced["event_type"] = Same(mapped.event_type)
    if _is_json(rows, mapped):
        replaced["schema_id"] = Same(schema_id)
        return select_columns(rows, passed, replaced)
    return [for_schema(event, schema_id) for event in select_events(rows, passed, replaced)]


def _is_json(rows: Rows, mapped: Mapped | None) -> bool:
    """Whether the payloads are known to be JSON: those that MAPs made are."""
    return mapped is not None or rows.constant("serialization_format") == (True, _JSON)


def _outcome(
    node: Node,
    rows: Rows,
    saw: Sequence[Sequence[int]],
    flags: bytearray | None,
    making: _Making,
    failed: list[tuple[int, Exception]],
    settled: Settled,
    surroundings: Surroundings,
) -> NodeOutcome:
    selects = node.spec.processor_type in _MAKES_SOME or flattens(node.spec)
    kind = ACCEPTED if node.has_state else FILTERED if selects else PASSED
    all_seen = any(len(indexes) == rows.count for indexes in saw)
    if all_seen:
        outcomes = bytearray([kind]) * rows.count
    elif flags is not None and len(saw) == 1:
        outcomes = flags.translate(bytes([0, kind]) + bytes(254))
    else:
        outcomes = bytearray(rows.count)
        for indexes in saw:
            for i in indexes:
                outcomes[i] = kind
    if kind is FILTERED and len(making.passed) == rows.count:
        outcomes = bytearray([PASSED]) * rows.count
    elif making.flags is not None and all_seen:
        outcomes = making.flags.translate(_FLAGS)
    elif kind is FILTERED:
        for i in making.passed:
            outcomes[i] = PASSED
    skip = node.spec.error_handling_strategy is ErrorHandlingStrategy.SKIP
    first_errors = dict(reversed(failed))  # an event may fail for several of its outputs; the first is told
    bad = sorted(first_errors)
    errors = []
    dead = []
    for i, event in zip(bad, select_events(rows, bad, {}), strict=True):
        outcomes[i] = SKIPPED if skip else DEAD
        error = first_errors[i]
        message = explain(node, error, event)
        errors.append(EventError(i, type(error).__name__, message))
        if node.spec.error_handling_strategy is ErrorHandlingStrategy.STOP:
            raise FlowError(
                f"{node.name} stopped the flow at event {event.event_id} ({rows.place(i)} of {surroundings.source.name}): "
                f"{message}. Its error_handling_strategy is STOP.",
                event_id=event.event_id,
            )
        if not skip:
            dead.append(dead_event(node, event, error, message, surroundings, rows.place(i), making.attempts.get(i, 1)))
    if dead and node.error_children:
        roots = [rows.roots[i] for i in bad]
        order = rows.column("order_id")
        settled.followers.append((node.error_children, EventRows(dead, roots, [order[i] for i in bad])))
    elif dead:
        settled.events.add(surroundings.dead_letters.stream_id, dead)
    # A JOIN may see an event on both its sides: what it takes is counted by side.
    seen = sum(map(len, saw))
    lost = len(failed) if node.has_state else len(bad)
    passed = seen - lost if node.has_state else outcomes.count(PASSED)
    counts = Counts(
        events_in=seen,
        passed=passed,
        filtered=seen - passed - lost,
        dead=0 if skip else lost,
        skipped=lost if skip else 0,
        out=passed if making.events is None else len(making.events),
    )
    return NodeOutcome(node, outcomes, errors, counts, rows)


def dead_event(
    node: Node,
    event: Event,
    error: Exception,
    message: str,
    surroundings: Surroundings,
    position: Mapping[str, Any],
    attempts: int = 1,
) -> Event:
    """The dead letter of an event that ``node`` failed on."""
    return dead_letter(
        event,
        event_id=ids.derived_id(ids.EVENT, event.timestamp_ms, "dead", node.origin, event.event_id),
        stream=surroundings.source,
        step=node.name,
        error_type=type(error).__name__,
        message=message,
        failed_at_ms=time.time_ns() // 1_000_000,
        position=position,
        attempts=attempts,
        processor_id=node.processor_id,
        processor_name=node.name,
    )
