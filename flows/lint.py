"""Looks over a flow that loads: what in it cannot work, and what probably is not meant.

Types come from JSON Schemas, those of the file and, where a data folder is given, those of its registry; nothing is run, and
nothing is made or changed. See docs/checking-flows.md for every code.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Final

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.checker import Path, format_path
from event_streaming_bus.flows.disorder import measure
from event_streaming_bus.flows.findings import Finding, Findings, Severity
from event_streaming_bus.flows.fit import check_fit
from event_streaming_bus.flows.flow_file import read_flow_file
from event_streaming_bus.flows.graph import duration
from event_streaming_bus.flows.known import Known
from event_streaming_bus.flows.processor_types import FlowTypes
from event_streaming_bus.flows.processors import has_state, key_of, timing_of
from event_streaming_bus.flows.processors.custom import CustomForm, CustomLogic
from event_streaming_bus.flows.processors.deduplicate import DeduplicateLogic
from event_streaming_bus.flows.processors.join import JoinLogic
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec, load_flow
from event_streaming_bus.flows.types import field_of
from event_streaming_bus.flows.window_config import GlobalWindow, Timing
from event_streaming_bus.models import ErrorHandlingStrategy
from event_streaming_bus.store.storage import Storage

_INTERNAL: Final = "_"
_HOUR_MS: Final = 3_600_000
_LONGEST_HOURS: Final = {"hour": 1, "day": 25, "week": 169, "month": 745, "quarter": 2209, "year": 8785}
"""How many hours a calendar's units have at most: those of a leap year, and the one by which clocks are put back."""


class Located(Finding, frozen=True):
    """A finding with its ``line`` in the file, where that is known."""

    line: int | None = None

    @property
    def where(self) -> str:
        """The path as text."""
        return format_path(self.path)


def check_file(file: FilePath, storage: Storage | None = None) -> list[Located]:
    """What is wrong with a flow file, or may be, in the order of its lines; what keeps it from loading is told alone.

    ``storage``: a data folder to look up streams, schemas and events in.
    """
    try:
        spec = load_flow(file)
    except FlowError as error:
        return list(_load_errors(error))
    document = read_flow_file(file)
    found = []
    for finding in lint(spec, storage):
        path = _as_written(finding.path, document.data)
        line = document.problems.line(path)
        found.append(Located(finding.severity, finding.code, path, finding.message, line))
    return sorted(found, key=lambda each: each.line or 0)


def _load_errors(error: FlowError) -> Iterator[Located]:
    errors: Sequence[Mapping[str, Any]] = error.details["errors"]
    for each in errors:
        yield Located(Severity.ERROR, "does-not-load", (each["path"],) if each["path"] else (), each["message"], each["line"])
    if (more := error.details["count"] - len(errors)) > 0:
        yield Located(Severity.ERROR, "does-not-load", (), f"and {more} more")


def _as_written(path: Path, data: Any) -> Path:
    """The path as the file has it: an only aggregation can be written in two ways, which the flow no longer tells apart."""
    if path and path[-1] == "aggregation_field":
        logic = data["processors"][path[1]]["processing_logic"]
        return (*path[:-1], "aggregations", 0, "field") if "aggregations" in logic else path
    return path


def lint(spec: FlowSpec, storage: Storage | None = None) -> list[Finding]:
    """What is wrong with a flow, or may be."""
    findings = Findings()
    known = Known(spec, storage, findings)
    types = FlowTypes(spec, known.payloads, findings)
    types.check()
    _check_targets(spec, known, types, findings)
    _check_reachability(types, spec, findings)
    _check_use(spec, findings)
    _check_streams_exist(spec, storage, known, findings)
    for number, processor in enumerate(spec.processors):
        here: Path = ("processors", number)
        _check_time(processor, here, spec, known, storage, findings)
        _check_state(processor, here, findings)
        _check_errors(processor, here, spec, findings)
    return findings.all()


# --- how the flow hangs together ----------------------------------------------------------------------------------------


def _check_targets(spec: FlowSpec, known: Known, types: FlowTypes, findings: Findings) -> None:
    for number, processor in enumerate(spec.processors):
        target = processor.target_stream_id
        if target in known.payloads and processor.processor_name not in types.unreachable:
            output = field_of(types.output(processor), "payload")
            report = findings.at("processors", number, "target_stream_id")
            check_fit(output, known.payloads[target], target, report)


def _check_reachability(types: FlowTypes, spec: FlowSpec, findings: Findings) -> None:
    for number, processor in enumerate(spec.processors):
        name = processor.processor_name
        if name in types.unreachable and types.unreachable[name] != name:
            message = f"no event comes here: the filter of {types.unreachable[name]} never holds"
            findings.add(Severity.WARNING, "unreachable", ("processors", number, "source_stream_id"), message)


def _check_use(spec: FlowSpec, findings: Findings) -> None:
    used = {name for processor in spec.processors for name in processor.sources.values()}
    used |= {processor.target_stream_id for processor in spec.processors if processor.target_stream_id is not None}
    used |= {
        store.changelog_topic
        for processor in spec.processors
        if (store := processor.state_store_config) is not None and store.changelog_topic is not None
    }
    for i, stream in enumerate(spec.streams):
        if stream.name not in used:
            message = f"no processor reads or writes the stream {stream.name}"
            findings.add(Severity.WARNING, "unused-stream", ("streams", i, "name"), message)
    referred = {stream.schema.partition("@")[0] for stream in spec.streams if stream.schema is not None}
    for i, schema in enumerate(spec.schemas):
        if schema["schema_name"] not in referred:
            message = f"no stream of this file has the schema {schema['schema_name']}"
            findings.add(Severity.INFO, "unused-schema", ("schemas", i, "schema_name"), message)


def _check_streams_exist(spec: FlowSpec, storage: Storage | None, known: Known, findings: Findings) -> None:
    if storage is None:
        return
    declared = {stream.name for stream in spec.streams}
    for number, processor in enumerate(spec.processors):
        names = dict(processor.sources)
        if processor.target_stream_id is not None:
            names["target_stream_id",] = processor.target_stream_id
        for key, name in names.items():
            outside = spec.port_of(name)[0] is None and name not in declared and not name.startswith(_INTERNAL)
            if outside and known.stream(name) is None:
                message = f"there is no stream {name} yet, and 'streams' declares none{known.near(name)}"
                findings.add(Severity.WARNING, "no-stream", ("processors", number, *key), message)


# --- time and state -----------------------------------------------------------------------------------------------------


def _timing(processor: ProcessorSpec) -> tuple[Timing | None, Path]:
    """How a processor with state deals with time, and where it says so."""
    if not has_state(processor):
        return None, ()
    return timing_of(processor), ("processing_logic" if processor.window is None else "window_config",)


def _streams_read(processor: ProcessorSpec, spec: FlowSpec) -> set[str]:
    """The streams whose events come to the processor in the order in which they are there."""
    streams = set()
    for source in processor.sources.values():
        above, port = spec.port_of(source)
        while above is not None and not port and _timing(above)[0] is None:
            source = above.source_stream_id
            above, port = spec.port_of(source)
        if above is None:
            streams.add(source)
    return streams


def _check_time(
    processor: ProcessorSpec, here: Path, spec: FlowSpec, known: Known, storage: Storage | None, findings: Findings
) -> None:
    timing, place = _timing(processor)
    if timing is None:
        return
    grace_at = (*here, *place, "grace_period_ms")
    for name in sorted(_streams_read(processor, spec)):
        info = known.stream(name)
        if info is not None and storage is not None:
            disorder = measure(storage.log, info)
            if disorder.most_ms > timing.grace_period_ms:
                message = (
                    f"of the newest {disorder.events:,} events of {name}, {disorder.behind:,} came after a later one, by up to "
                    f"{duration(disorder.most_ms)}; a grace_period_ms of {disorder.most_ms} would have waited for them all"
                )
                findings.add(Severity.WARNING, "short-grace", grace_at, message)
    span_ms = _span_ms(processor)
    for name in sorted(_streams_read(processor, spec)):
        retention_ms = known.retention_ms(name)
        if retention_ms is not None and span_ms is not None and span_ms + timing.grace_period_ms > retention_ms:
            message = (
                f"{duration(span_ms + timing.grace_period_ms)} of events are needed at a time, and {name} keeps them for"
                f" {duration(retention_ms)} only: what is dropped before it is read, or read again, is missing"
            )
            findings.add(Severity.WARNING, "beyond-retention", (*here, *place), message)


def _span_ms(processor: ProcessorSpec) -> int | None:
    """Over how much time the processor needs events at a time; None if that depends on them."""
    logic: Any = processor.processing_logic
    window: Any = processor.window
    if window is not None:
        unit = getattr(window, "calendar_unit", None)
        if unit is not None:
            return _LONGEST_HOURS[str(unit)] * _HOUR_MS
        span_ms: int | None = getattr(window, "window_size_ms", getattr(window, "gap_ms", None))
        return span_ms
    if isinstance(logic, DeduplicateLogic):
        return logic.within_ms
    within = getattr(logic, "within", None)
    return None if within is None else int(within.before_ms + within.after_ms)


def _check_state(processor: ProcessorSpec, here: Path, findings: Findings) -> None:
    logic: Any = processor.processing_logic
    at = (*here, "processing_logic")
    if isinstance(logic, DeduplicateLogic) and logic.within_ms == 0:
        message = "only events of the very same time are duplicates within 0 ms"
        findings.add(Severity.WARNING, "no-span", (*at, "within_ms"), message)
    if isinstance(logic, JoinLogic) and logic.lookup is not None and logic.lookup.ttl_ms is None:
        message = "the latest event of every key is kept for ever; a ttl_ms bounds the state"
        findings.add(Severity.INFO, "unbounded-state", (*at, "lookup"), message)
    if isinstance(logic, CustomLogic) and logic.form is CustomForm.KEYED and logic.state_ttl_ms is None:
        message = "the state of every key is kept for ever; a state_ttl_ms bounds it"
        findings.add(Severity.INFO, "unbounded-state", at, message)
    if isinstance(processor.window, GlobalWindow) and key_of(processor):
        message = "a global window never closes, so the state of every group is kept for ever"
        findings.add(Severity.INFO, "unbounded-state", (*here, "window_config"), message)


def _check_errors(processor: ProcessorSpec, here: Path, spec: FlowSpec, findings: Findings) -> None:
    if processor.error_handling_strategy is ErrorHandlingStrategy.STOP and len(spec.processors) > 1:
        others = len(spec.processors) - 1
        message = f"an event that fails here stops the whole flow, with its {others} other processor{'s' if others > 1 else ''}"
        findings.add(Severity.INFO, "stops-all", (*here, "error_handling_strategy"), message)
