"""What a flow's processors make of the types of their sources, and what in them does not fit these types."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.expressions import Expression, Scope
from event_streaming_bus.expressions.expression import ENVELOPE_NAMES
from event_streaming_bus.flows.aggregations import Aggregation
from event_streaming_bus.flows.checker import FieldPath, Path
from event_streaming_bus.flows.findings import Findings, Severity
from event_streaming_bus.flows.inference import assume, check_path, infer, truth
from event_streaming_bus.flows.processors.aggregate import AggregateLogic
from event_streaming_bus.flows.processors.custom import CustomLogic
from event_streaming_bus.flows.processors.deduplicate import DeduplicateLogic
from event_streaming_bus.flows.processors.filter import FilterLogic
from event_streaming_bus.flows.processors.join import JoinLogic, JoinType
from event_streaming_bus.flows.processors.map import MapLogic, MapMode
from event_streaming_bus.flows.processors.output_names import WINDOW_END, WINDOW_START, gives_updates
from event_streaming_bus.flows.processors.window import WindowLogic, WindowOutput
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec
from event_streaming_bus.flows.topology import ERRORS, LATE
from event_streaming_bus.flows.types import (
    ANY,
    INTEGER,
    NULL,
    NUMBER,
    NUMERIC,
    TEXT,
    Kind,
    Others,
    Type,
    field_of,
    list_of,
    not_null,
    object_of,
    of_values,
    or_null,
    stored,
    union,
    with_field,
    without_field,
)
from event_streaming_bus.flows.window_config import GlobalWindow
from event_streaming_bus.models import CompressionType, EventPriority, SerializationFormat

_AVERAGED: Final = frozenset({"avg", "stddev", "stddev_pop", "variance", "median"})
_OF_NUMBERS: Final = _AVERAGED | {"sum", "percentile"}
_ORDERED: Final = frozenset({"min", "max"})
_COUNTED: Final = frozenset({"count", "distinct", "approx_distinct"})
_LISTED: Final = frozenset({"top_k", "most_frequent", "collect"})
_AS_IS: Final = frozenset({"min", "max", "first", "last"})

_ENVELOPE: Final[Mapping[str, Type]] = {
    **dict.fromkeys(ENVELOPE_NAMES, or_null(TEXT)),
    **dict.fromkeys(("event_id", "event_type", "source_capability", "tenant_id"), TEXT),
    **dict.fromkeys(("timestamp", "max_retries"), INTEGER),
    **dict.fromkeys(("deliver_at", "expires_at"), or_null(INTEGER)),
    "metadata": or_null(Type(frozenset({Kind.OBJECT}))),
    "priority": of_values(item.value for item in EventPriority),
    "compression_type": or_null(of_values(item.value for item in CompressionType)),
    "serialization_format": of_values(item.value for item in SerializationFormat),
}


def envelope(payload: Type, event_type: Type = TEXT) -> Type:
    """The object of the names that an expression over an event uses."""
    return object_of({**_ENVELOPE, "payload": payload, "event_type": event_type})


class FlowTypes:
    """The types of a flow's streams and outputs. ``payloads``: the payload types that schemas give, by the stream's name.

    Every processor is looked at once; what is found in it is added to ``findings``.
    """

    def __init__(self, spec: FlowSpec, payloads: Mapping[str, Type], findings: Findings) -> None:
        self._spec = spec
        self._payloads = payloads
        self._findings = findings
        self._outputs: dict[str, Type | None] = {}
        self.unreachable: dict[str, str] = {}
        """The processors that no event comes to, and the FILTER that lets none through."""

    def check(self) -> None:
        """Look at every processor."""
        for processor in self._spec.processors:
            self.output(processor)

    def source(self, name: str) -> Type:
        """The events that a processor with this source reads, as the object of their names."""
        processor, port = self._spec.port_of(name)
        if processor is None:
            return self._stream(name)
        if port == ERRORS:
            return envelope(ANY)
        return self.source(processor.source_stream_id) if port == LATE else self.output(processor)

    def _stream(self, name: str) -> Type:
        if name in self._payloads:
            return envelope(self._payloads[name])
        writers = [processor for processor in self._spec.processors if processor.target_stream_id == name]
        if not writers:
            return envelope(ANY)
        written = union(*(field_of(self.output(writer), "payload") for writer in writers))
        # Others may publish to the stream too, so what its writers never write is only improbable.
        others = Others.UNLISTED if written.others is Others.CLOSED else written.others
        return envelope(msgspec.structs.replace(written, others=others))

    def output(self, processor: ProcessorSpec) -> Type:
        """The events that a processor gives out."""
        name = processor.processor_name
        if name not in self._outputs:
            self._outputs[name] = None  # a circle (which does not load) would find this
            source = self.source(processor.source_stream_id)
            above, port = self._spec.port_of(processor.source_stream_id)
            if above is not None and not port and above.processor_name in self.unreachable:
                self.unreachable[name] = self.unreachable[above.processor_name]
            number = self._spec.processors.index(processor)
            self._outputs[name] = self._made(processor, source, ("processors", number, "processing_logic"))
        return self._outputs[name] or envelope(ANY)

    def _made(self, processor: ProcessorSpec, source: Type, here: Path) -> Type:
        logic: Any = processor.processing_logic
        if isinstance(logic, FilterLogic):
            return self._filtered(processor, logic, source, here)
        if isinstance(logic, MapLogic):
            return self._mapped(logic, source, here)
        if isinstance(logic, AggregateLogic):
            return self._aggregated(processor, logic, source, here)
        if isinstance(logic, JoinLogic):
            return envelope(self._joined(logic, source, here))
        if isinstance(logic, WindowLogic):
            return self._windowed(logic, source, here)
        if isinstance(logic, DeduplicateLogic):
            self._keys(logic.deduplicate_by, field_of(source, "payload"), (*here, "deduplicate_by"))
            return source
        if isinstance(logic, CustomLogic):
            self._keys(logic.key, field_of(source, "payload"), (*here, "key"))
        return envelope(ANY)

    def _infer(self, expression: Expression, source: Type, here: Path) -> Type:
        root = source if expression.scope is Scope.ENVELOPE else field_of(source, "payload")
        return infer(expression, root, self._findings.at(*here))

    # --- FILTER and MAP -----------------------------------------------------------------------------------------------------

    def _filtered(self, processor: ProcessorSpec, logic: FilterLogic, source: Type, here: Path) -> Type:
        conditions: list[tuple[Path, Expression]] = [((*here, "filter_expression"), logic.filter_expression)]
        conditions += [((*here, "additional_checks", i), check) for i, check in enumerate(logic.additional_checks)]
        for place, condition in conditions:
            outcome = truth(self._infer(condition, source, place))
            if outcome is True:
                self._findings.add(Severity.WARNING, "always-true", place, "this always holds, so nothing is filtered out")
            elif outcome is False:
                self._findings.add(Severity.WARNING, "always-false", place, "this never holds, so no event comes through")
                self.unreachable.setdefault(processor.processor_name, processor.processor_name)
                continue  # nothing more is known of what is never there
            source = assume(condition, source)
        return source

    def _mapped(self, logic: MapLogic, source: Type, here: Path) -> Type:
        before = field_of(source, "payload")
        if logic.flatten is not None:
            return envelope(ANY)
        payload = object_of({}) if logic.mode is MapMode.REPLACE else before
        for key, paths in (("select", logic.select or ()), ("drop", logic.drop)):
            for i, path in enumerate(paths):
                check_path(before, path, self._findings.at(*here, key, i))
        if logic.select is not None:
            payload = object_of({})
            for path in logic.select:
                payload = with_field(payload, path, stored(before, path))
        for path in logic.drop:
            payload = without_field(payload, path)
        moved = []
        for old, new in logic.rename:
            check_path(before, old, self._findings.at(*here, "rename", ".".join(old)))
            moved.append((new, stored(payload, old)))
        for old, _ in logic.rename:
            payload = without_field(payload, old)
        for new, kind in moved:
            payload = with_field(payload, new, kind)
        for path, expression in logic.fields:
            payload = with_field(payload, path, self._infer(expression, source, (*here, "fields", ".".join(path))))
        if payload.kinds is None:
            payload = msgspec.structs.replace(payload, kinds=frozenset({Kind.OBJECT}))
        if logic.key is not None:
            kind = self._infer(logic.key, source, (*here, "key"))
            source = with_field(source, ("key",), kind if kind.is_only({Kind.TEXT}) else or_null(TEXT))
        if logic.event_type is not None:
            source = with_field(source, ("event_type",), of_values([logic.event_type]))
        return with_field(source, ("payload",), payload)

    # --- what has state -----------------------------------------------------------------------------------------------------

    def _aggregated(self, processor: ProcessorSpec, logic: AggregateLogic, source: Type, here: Path) -> Type:
        payload = field_of(source, "payload")
        kinds = self._keys(logic.group_by, payload, (*here, "group_by"))
        fields = dict(zip(logic.group_names, kinds, strict=True))
        fields[WINDOW_START] = fields[WINDOW_END] = TEXT
        if isinstance(processor.window, GlobalWindow):
            fields[WINDOW_START] = fields[WINDOW_END] = NULL
        for i, item in enumerate(logic.aggregations):
            key: Path = ("aggregation_field",) if len(logic.aggregations) == 1 else ("aggregations", i, "field")
            fields[item.name] = self._aggregation(item, payload, (*here, *key))
        others = Others.OPEN if gives_updates(processor.window) else Others.CLOSED
        made = envelope(object_of(fields, others))
        if logic.having is None:
            return made
        self._infer(logic.having, made, (*here, "having"))
        return with_field(made, ("payload",), assume(logic.having, field_of(made, "payload")))

    def _aggregation(self, item: Aggregation, payload: Type, here: Path) -> Type:
        function = str(item.function)
        report = self._findings.at(*here)
        kind = ANY if item.field is None else check_path(payload, item.field, report)
        told = ".".join(item.field or ())
        if function in _COUNTED:
            return INTEGER
        if function in _LISTED:
            return Type(frozenset({Kind.LIST}))
        accepted = NUMERIC if function in _OF_NUMBERS else NUMERIC | {Kind.TEXT} if function in _ORDERED else None
        if accepted is not None and kind.is_never(accepted):
            wanted = "a number" if function in _OF_NUMBERS else "a number or text"
            report(Severity.ERROR, "wrong-type", f"{told} is {not_null(kind).told()}, but {function} needs {wanted}")
        if function == "sum":
            return or_null(INTEGER if kind.is_only({Kind.INTEGER}) else NUMBER)
        if function in _AVERAGED:
            return or_null(NUMBER)
        return or_null(msgspec.structs.replace(kind, optional=False)) if function in _AS_IS else ANY

    def _keys(self, paths: Sequence[FieldPath], payload: Type, here: Path) -> list[Type]:
        kinds = []
        for i, path in enumerate(paths):
            report = self._findings.at(*here, i)
            kind = check_path(payload, path, report)
            told = ".".join(path)
            if kind.is_only({Kind.LIST, Kind.OBJECT}):
                message = f"{told} is {not_null(kind).told()}, but a key needs text, a number, true, false or null"
                report(Severity.ERROR, "bad-key", message)
            elif Kind.NUMBER in kind.solid:
                message = f"{told} may have a fraction, and nearly equal numbers are different keys; round it in a MAP first"
                report(Severity.WARNING, "float-key", message)
            kinds.append(kind)
        return kinds

    def _joined(self, logic: JoinLogic, source: Type, here: Path) -> Type:
        left, right = field_of(source, "payload"), field_of(self.source(logic.join_stream_id), "payload")
        for i, (left_path, right_path) in enumerate(logic.on):
            place = (*here, "on", i)
            kinds = [self._keys([path], side, place)[0] for side, path in ((left, left_path), (right, right_path))]
            if all(kind.solid for kind in kinds) and not _alike(*kinds):
                told = f"{'.'.join(left_path)} ({not_null(kinds[0]).told()}) of the left side never equals"
                message = f"{told} {'.'.join(right_path)} ({not_null(kinds[1]).told()}) of the right side"
                self._findings.add(Severity.ERROR, "never-equal", place, message)
        if logic.join_type is not JoinType.INNER:
            right = or_null(right)
        if logic.join_type is JoinType.OUTER:
            left = or_null(left)
        if not logic.fields:
            return object_of({"left": left, "right": right})
        times = {"left_timestamp": or_null(INTEGER), "right_timestamp": or_null(INTEGER)}
        root = object_of({"left": left, "right": right, **times}, Others.OPEN)
        payload = object_of({})
        for path, expression in logic.fields:
            place = (*here, "fields", ".".join(path))
            payload = with_field(payload, path, infer(expression, root, self._findings.at(*place)))
        return payload

    def _windowed(self, logic: WindowLogic, source: Type, here: Path) -> Type:
        payload = field_of(source, "payload")
        groups = self._keys(logic.group_by, payload, (*here, "group_by"))
        times = {WINDOW_START: TEXT, WINDOW_END: TEXT}
        if logic.output is WindowOutput.EVENTS:
            return with_field(source, ("payload",), msgspec.structs.replace(payload, fields={**payload.fields, **times}))
        fields = dict(zip(logic.group_names, groups, strict=True)) | times | {"count": INTEGER}
        if logic.output is WindowOutput.CONTENTS:
            fields["events"] = list_of(payload)
        return envelope(object_of(fields, Others.OPEN))


def _alike(a: Type, b: Type) -> bool:
    return any(a.solid & kinds and b.solid & kinds for kinds in (NUMERIC, *({kind} for kind in Kind)))
