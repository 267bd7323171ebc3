"""The one config model of flow files and REST bodies: plain data in, frozen structs out.

Every problem of a flow is reported in one ``FlowError``: its message has a line for each, with the path and what would
be accepted; ``details['errors']`` holds them as data (``path``, ``line``, ``message``). Nothing is looked up outside of
the flow: whether a stream exists is checked when the flow runs.
"""

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.checker import (
    BAD,
    Field,
    Path,
    Problems,
    Table,
    boolean,
    duration_ms,
    integer,
    list_of,
    member,
    read_table,
    required,
    text,
)
from event_streaming_bus.flows.flow_file import read_flow_file
from event_streaming_bus.flows.flow_tests import MAX_TESTS, FlowTest, check_tests, read_test
from event_streaming_bus.flows.processors import PROCESSOR_TYPES, ProcessingLogic, ProcessorKind, keeps_state
from event_streaming_bus.flows.processors.join import JoinLogic
from event_streaming_bus.flows.retry_policy import RetryPolicy, read_retry_policy
from event_streaming_bus.flows.topology import KEEPS_NO_ERRORS, SourceRef, check_alone, check_topology, source_ref
from event_streaming_bus.flows.window_config import CalendarWindow, TumblingWindow, Window, given_timing, read_window
from event_streaming_bus.models import (
    DEFAULT_TENANT,
    MAX_PARTITIONS,
    CompressionType,
    ErrorHandlingStrategy,
    InvalidEventPolicy,
    ProcessorType,
)

MAX_PROCESSORS: Final = 200
MAX_PARALLELISM: Final = 64


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that is made when the flow runs, if it is missing. ``schema``: a schema's name, or ``name@version``."""

    name: str
    partitions: int = 1
    compression_type: CompressionType = CompressionType.LZ4
    retention_ms: int | None = None
    retention_bytes: int | None = None
    schema: str | None = None
    on_invalid: InvalidEventPolicy = InvalidEventPolicy.REFUSE
    description: str = ""

    def to_data(self) -> dict[str, object]:
        return _plain_fields(self)


class StateStoreSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a processor's ``state_store_config`` says. It is kept as given; state is always held by the runner."""

    store_type: str | None = None
    changelog_topic: str | None = None

    def to_data(self) -> dict[str, object]:
        return _plain_fields(self)


class ProcessorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One processor. ``processing_logic`` is of the struct of its type; ``window`` is there for windowed types only.

    ``source_stream_id`` is a stream's name or id, or another processor of the flow, whose output is then read directly.
    ``renamed_from`` is the name under which it was first run; it stays for as long as its state is to be kept.
    """

    processor_name: str
    processor_type: ProcessorType
    source_stream_id: str
    target_stream_id: str | None = None
    processing_logic: ProcessingLogic
    window: Window | None = None
    processor_description: str = ""
    state_store_config: StateStoreSpec | None = None
    parallelism: int = 1
    error_handling_strategy: ErrorHandlingStrategy = ErrorHandlingStrategy.DEAD_LETTER
    retry: RetryPolicy | None = None
    dead_letters: bool = True
    renamed_from: str | None = None

    @property
    def sources(self) -> dict[Path, str]:
        """What it reads, by the key that says so: for a JOIN the left side first."""
        sources: dict[Path, str] = {("source_stream_id",): self.source_stream_id}
        if isinstance(self.processing_logic, JoinLogic):
            sources["processing_logic", "join_stream_id"] = self.processing_logic.join_stream_id
        return sources

    @property
    def state_name(self) -> str:
        """The name that its state, its marks and the ids of its output go by. No two processors of a flow share one."""
        return self.renamed_from or self.processor_name

    @property
    def retry_policy(self) -> RetryPolicy | None:
        """How what fails is tried again; None if it is not."""
        return (self.retry or RetryPolicy()) if self.error_handling_strategy is ErrorHandlingStrategy.RETRY else None

    def to_data(self) -> dict[str, object]:
        data = _plain_fields(self)
        if self.dead_letters:
            del data["dead_letters"]
        window = data.pop("window", None)
        return data if window is None else data | {"window_config": window}


class FlowSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A whole flow. ``schemas`` are kept as given, for the registry to read. ``tests`` run with ``esb test``.

    Processor names are unique, every output is written or read, and no event can run in a circle.
    """

    name: str
    description: str = ""
    tenant_id: str = DEFAULT_TENANT
    streams: tuple[StreamSpec, ...] = ()
    schemas: tuple[dict[str, Any], ...] = ()
    processors: tuple[ProcessorSpec, ...]
    tests: tuple[FlowTest, ...] = ()

    def source(self, name: str) -> SourceRef:
        """What the name of a source stands for."""
        return source_ref(name, {item.processor_name for item in self.processors})

    def sources_of(self, processor: ProcessorSpec) -> tuple[SourceRef, ...]:
        """What the processor reads, the left side of a JOIN first."""
        return tuple(map(self.source, processor.sources.values()))

    def port_of(self, source: str) -> tuple[ProcessorSpec | None, str]:
        """The processor that gives out what the source stands for, and by which port; None for a stream."""
        ref = self.source(source)
        return self.processor(ref.name), ref.port

    def streams_read(self) -> list[str]:
        """The names (or ids) of the streams that processors read, each once."""
        refs = (ref for processor in self.processors for ref in self.sources_of(processor))
        return list(dict.fromkeys(ref.name for ref in refs if self.processor(ref.name) is None))

    def streams_used(self) -> list[str]:
        """The names (or ids) of the streams that processors read or write, each once; those for changes of state left out."""
        targets = (processor.target_stream_id for processor in self.processors)
        return list(dict.fromkeys([*self.streams_read(), *(name for name in targets if name is not None)]))

    def processor(self, name: str) -> ProcessorSpec | None:
        """The processor of this name; None if ``name`` is not one of the flow's processors."""
        return next((item for item in self.processors if item.processor_name == name), None)

    def to_data(self) -> dict[str, object]:
        return _plain_fields(self)


def _plain_fields(spec: msgspec.Struct) -> dict[str, object]:
    """A spec's fields as plain data; what is not set (None, or an empty tuple or text) is left out."""
    data = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return {name: _plain(value) for name, value in data.items() if value is not None and value not in ("", ())}


def _plain(value: Any) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return value.to_data()  # type: ignore[attr-defined]
    return msgspec.to_builtins(value)


# --- tables -----------------------------------------------------------------------------------------------------------

_DESCRIPTION: Final = text()
_TENANT: Final = text(r"\S(.{0,98}\S)?", "a tenant id of 1 to 100 characters")
_FLOW_NAME: Final = text(r"[A-Za-z0-9._-]{1,100}", "1 to 100 of the characters A-Z a-z 0-9 . _ -")
_PROCESSOR_NAME: Final = text(r"[A-Za-z_][A-Za-z0-9_-]{0,99}", "a letter or _, then up to 99 of the characters A-Z a-z 0-9 _ -")
_NEW_STREAM: Final = text(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", "a letter or digit, then up to 199 of the characters A-Z a-z 0-9 . _ -"
)
_STREAM: Final = text(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", "a stream's name or id, or a processor's name")
_SCHEMA_REFERENCE: Final = text(r"[^@\s]+(@[^@\s]+)?", "a schema's name, or name@version")

_STREAM_TABLE: Final[Table] = {
    "name": required(_NEW_STREAM),
    "partitions": Field(integer(1, MAX_PARTITIONS), default=1),
    "compression_type": Field(member(CompressionType), default=CompressionType.LZ4),
    "retention_ms": Field(duration_ms(1)),
    "retention_bytes": Field(integer(1, 2**63 - 1)),
    "schema": Field(_SCHEMA_REFERENCE),
    "on_invalid": Field(member(InvalidEventPolicy), default=InvalidEventPolicy.REFUSE),
    "description": Field(_DESCRIPTION, default=""),
}

_STATE_STORE: Final[Table] = {"store_type": Field(text()), "changelog_topic": Field(_NEW_STREAM)}


def _anything(value: object, path: Path, problems: Problems) -> Any:
    return value


def _mapping(value: object, path: Path, problems: Problems) -> Any:
    return value if isinstance(value, Mapping) else problems.reject(path, "a mapping", value)


# The registry reads schemas in full; here their keys are checked, so that a slip is told with its line.
_SCHEMA_TABLE: Final[Table] = {
    "schema_name": required(text(r"[^@\s]+", "a name without spaces or @", 200)),
    "schema_version": Field(text(r"[^@\s]+", "a version such as '1.0'", 100)),
    "json_schema": Field(_anything),
    "avro_schema": Field(_anything),
    "references": Field(_anything),
    "event_type": Field(text()),
    "compatibility_level": Field(text()),
    "evolution_strategy": Field(text()),
    "validation_rules": Field(_mapping),
    "migration": Field(_mapping),
    "metadata": Field(_mapping),
    "refuse_producers_after": Field(_anything),
    "is_active": Field(_anything),
}

_PROCESSOR_TABLE: Final[Table] = {
    "processor_name": required(_PROCESSOR_NAME),
    "processor_description": Field(_DESCRIPTION, default=""),
    "processor_type": required(member(ProcessorType)),
    "source_stream_id": required(_STREAM),
    "target_stream_id": Field(_NEW_STREAM),
    "processing_logic": required(_mapping),
    "window_config": Field(_mapping),
    "state_store_config": Field(_mapping),
    "parallelism": Field(integer(1, MAX_PARALLELISM), default=1),
    "error_handling_strategy": Field(member(ErrorHandlingStrategy), default=ErrorHandlingStrategy.DEAD_LETTER),
    "retry": Field(read_retry_policy),
    "dead_letters": Field(boolean, default=True),
    "renamed_from": Field(_PROCESSOR_NAME),
}


def _read_stream(value: object, path: Path, problems: Problems) -> Any:
    values = read_table(value, path, _STREAM_TABLE, problems)
    return BAD if values is None else StreamSpec(**values)


def _read_schema(value: object, path: Path, problems: Problems) -> Any:
    read = read_table(value, path, _SCHEMA_TABLE, problems)
    if read is None or not isinstance(value, Mapping):
        return BAD
    if (read["json_schema"] is None) == (read["avro_schema"] is None):
        told = "required, but missing (or avro_schema)" if read["json_schema"] is None else "a schema is one of JSON or of Avro"
        return problems.add((*path, "json_schema"), told)
    return dict(value)


def _read_state_store(value: object, path: Path, problems: Problems) -> Any:
    values = read_table(value, path, _STATE_STORE, problems)
    return BAD if values is None else StateStoreSpec(**values)


def _read_processor(value: object, path: Path, problems: Problems) -> Any:
    values = read_table(value, path, _PROCESSOR_TABLE, problems)
    if not isinstance(value, Mapping):
        return BAD
    nested = _read_nested(value, path, problems)
    if values is None or any(part is BAD for part in nested.values()):
        return BAD
    del values["window_config"]
    return ProcessorSpec(**(values | nested))


def _read_nested(data: Mapping[str, object], path: Path, problems: Problems) -> dict[str, Any]:
    """The parts of a processor that depend on its type; read even when other fields are bad, to report all problems."""
    nested: dict[str, Any] = {}
    store, window = data.get("state_store_config"), data.get("window_config")
    if isinstance(store, Mapping):
        nested["state_store_config"] = _read_state_store(store, (*path, "state_store_config"), problems)
    kind = next((each for name, each in PROCESSOR_TYPES.items() if name == data.get("processor_type")), None)
    if kind is None:
        return nested
    if isinstance(logic := data.get("processing_logic"), Mapping):
        nested["processing_logic"] = kind.read_logic(logic, (*path, "processing_logic"), problems)
    window_at = (*path, "window_config")
    _check_errors(data, nested, path, problems)
    if kind.windowed is None:
        _read_join_window(data, nested, path, problems)
    elif kind.windowed and window is None:
        nested["window"] = problems.add(window_at, f"required, but missing: {data['processor_type']} needs a window")
    elif not kind.windowed and window is not None:
        windowed = ", ".join(name for name, each in PROCESSOR_TYPES.items() if each.windowed)
        nested["window"] = problems.add(window_at, f"only {windowed} and some JOINs have a window; leave it out")
    elif isinstance(window, Mapping):
        nested["window"] = read_window(window, window_at, problems)
    _check_together(kind, data, nested, path, problems)
    return nested


def _check_errors(data: Mapping[str, object], nested: dict[str, Any], path: Path, problems: Problems) -> None:
    """What is said of errors must have an effect."""
    strategy = data.get("error_handling_strategy")
    at = (*path, "retry")
    if data.get("retry") is not None:
        if data.get("processor_type") != ProcessorType.CUSTOM:
            told = "only CUSTOM is tried again, for whatever else fails would fail again; leave it out"
            nested["retry"] = problems.add(at, told)
        elif strategy != ErrorHandlingStrategy.RETRY:
            nested["retry"] = problems.add(at, "only the error_handling_strategy RETRY tries again; leave it out")
    if data.get("dead_letters") is False and strategy in KEEPS_NO_ERRORS:
        told = f"the error_handling_strategy {strategy} writes no dead letters anyway; leave it out"
        nested["dead_letters"] = problems.add((*path, "dead_letters"), told)


def _check_together(
    kind: ProcessorKind, data: Mapping[str, object], nested: dict[str, Any], path: Path, problems: Problems
) -> None:
    """What was read of the logic must go with the window and the state store."""
    logic, window, store = (nested.get(name) for name in ("processing_logic", "window", "state_store_config"))
    if not isinstance(logic, msgspec.Struct):
        return
    at = (*path, "processing_logic")
    if window is not BAD and not kind.check_window(logic, window, data["processing_logic"], at, problems):
        nested["processing_logic"] = BAD
    if isinstance(store, StateStoreSpec) and store.changelog_topic is not None and not keeps_state(logic):
        told = "only a processor with state has changes to write; leave it out"
        nested["state_store_config"] = problems.add((*path, "state_store_config", "changelog_topic"), told)


def _read_join_window(data: Mapping[str, object], nested: dict[str, Any], path: Path, problems: Problems) -> None:
    """A JOIN has a window, an interval or a lookup."""
    logic, window = data.get("processing_logic"), data.get("window_config")
    at = (*path, "window_config")
    apart = [key for key in ("within_ms", "within", "lookup") if isinstance(logic, Mapping) and logic.get(key) is not None]
    if window is None:
        if not apart and isinstance(nested.get("processing_logic"), JoinLogic):
            told = "a JOIN needs within_ms, within or lookup in its processing_logic, or a window_config"
            nested["processing_logic"] = problems.add((*path, "processing_logic"), told)
        return
    if apart:
        nested["window"] = problems.add(at, f"a JOIN has either a window or {apart[0]}; leave one of them out")
        return
    for key in given_timing(logic):
        nested["window"] = problems.add((*path, "processing_logic", key), "stands in the window_config of a JOIN with a window")
    read = read_window(window, at, problems)
    if read is not BAD and not isinstance(read, (TumblingWindow, CalendarWindow)):
        read = problems.add((*at, "window_type"), "a JOIN has a tumbling or calendar window; for others use within_ms")
    if read is not BAD and read.updates is not None:
        read = problems.add((*at, "emit"), "a JOIN gives out its results when the window closes; leave it out")
    nested.setdefault("window", read)


_FLOW_TABLE: Final[Table] = {
    "name": Field(_FLOW_NAME),
    "description": Field(_DESCRIPTION, default=""),
    "tenant_id": Field(_TENANT, default=DEFAULT_TENANT),
    "streams": Field(list_of(_read_stream), default=()),
    "schemas": Field(list_of(_read_schema), default=()),
    "processors": required(list_of(_read_processor, least=1, most=MAX_PROCESSORS)),
    "tests": Field(list_of(read_test, most=MAX_TESTS), default=()),
}


# --- the way in and the way out ---------------------------------------------------------------------------------------


def parse_flow(data: object, *, name: str, source: str | None = None) -> FlowSpec:
    """The flow that plain data (of a REST body, say) describes; ``name`` is for a flow that does not name itself.

    Raises ``FlowError`` with all problems; ``source`` is put in front of each as the file's name.
    """
    return _parse_flow(data, name, Problems(source))


def load_flow(path: FilePath | str) -> FlowSpec:
    """The flow of a YAML, JSON or TOML file; a flow that does not name itself has the name of its file.

    Raises ``FlowError`` with all problems, each with the file and (for YAML and nearly all JSON) the line.
    """
    file = FilePath(path)
    document = read_flow_file(file)
    return _parse_flow(document.data, file.stem, document.problems)


def _parse_flow(data: object, name: str, problems: Problems) -> FlowSpec:
    values = read_table(data, (), _FLOW_TABLE, problems)
    if isinstance(data, Mapping):
        if data.get("name") is None and _FLOW_NAME(name, (), Problems()) is BAD:
            problems.add(("name",), f"required, for the default {name!r} is no flow name")
        check_topology(data, problems)
        check_tests(data, values["tests"] if values is not None else (), problems)
    problems.raise_if_any()
    if values is None:  # a problem was found, so raise_if_any has raised
        raise FlowError
    return FlowSpec(**(values | {"name": values["name"] or name}))


def parse_processor(data: object, *, path: str = "processor") -> ProcessorSpec:
    """The one processor that plain data (a REST body) describes. Raises ``FlowError``; paths start with ``path``.

    On its own a processor reads a stream and writes another one.
    """
    problems = Problems()
    spec = _read_processor(data, (path,), problems)
    if isinstance(data, Mapping):
        if data.get("target_stream_id") is None:
            problems.add((path, "target_stream_id"), "required, but missing: on its own a processor writes to a stream")
        check_alone(data, (path,), problems)
    return _whole(spec, problems)


def stored_processor(data: object) -> ProcessorSpec:
    """The processor whose ``to_data`` was kept in the catalog. Raises ``FlowError`` if another version kept what this one
    cannot read."""
    problems = Problems()
    return _whole(_read_processor(data, ("processor",), problems), problems)


def _whole(spec: object, problems: Problems) -> ProcessorSpec:
    problems.raise_if_any()
    if not isinstance(spec, ProcessorSpec):  # a problem was found, so raise_if_any has raised
        raise FlowError
    return spec


def to_data(spec: ProcessorSpec | FlowSpec) -> dict[str, object]:
    """The spec as plain data that can be written as JSON. Parsing it again gives an equal spec."""
    return spec.to_data()
