"""A flow as a graph: its streams and processors, and how events go between them. Drawn as Mermaid text here, as SVG next door."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec
from event_streaming_bus.models import ErrorHandlingStrategy
from event_streaming_bus.store.history_records import DEAD_LETTER_STREAM

STREAM: Final = "STREAM"
"""The ``kind`` of a node that is a stream; any other kind is a processor's type."""
_KEEPS_DEAD_LETTERS: Final = (ErrorHandlingStrategy.DEAD_LETTER, ErrorHandlingStrategy.RETRY)
_UNITS_MS: Final = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000))
_MERMAID_CLASSES: Final = (
    "classDef stream fill:#eef2f8,stroke:#5b6b85,color:#1b2536",
    "classDef processor fill:#ffffff,stroke:#2f5fa8,color:#1b2536",
)


class EdgeKind(StrEnum):
    """What goes along an edge: a processor's or stream's events, its late events, its errors, or errors that nobody reads."""

    EVENTS = "events"
    LATE = "late"
    ERRORS = "errors"
    DEAD_LETTERS = "dead letters"


class Node(msgspec.Struct, frozen=True):
    """A stream or a processor. ``summary``: what a processor does, in a line; empty if there is little to say."""

    name: str
    kind: str
    summary: str = ""

    @property
    def is_stream(self) -> bool:
        return self.kind == STREAM


class Edge(msgspec.Struct, frozen=True):
    """Events go from ``source`` to ``target``, both names of nodes. ``side``: ``left`` or ``right`` where a JOIN is entered."""

    source: str
    target: str
    kind: EdgeKind = EdgeKind.EVENTS
    side: str = ""

    @property
    def label(self) -> str:
        """What is written on the edge: the port it leaves from, and the side it enters a JOIN on."""
        port = {EdgeKind.LATE: "late", EdgeKind.ERRORS: "errors"}.get(self.kind, "")
        return ", ".join(part for part in (port, self.side) if part)


class Graph(msgspec.Struct, frozen=True):
    """A flow's nodes and edges, in the order in which the flow names them. No node's name is there twice."""

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def graph_of(spec: FlowSpec) -> Graph:
    """The graph of a flow: every stream that it declares, reads or writes, and every processor.

    Errors that no processor reads go to the stream ``_dead_letters`` if the strategy keeps them (DEAD_LETTER and RETRY).
    """
    plain: Any = spec.to_data().get("processors", ())
    nodes = {stream.name: Node(stream.name, STREAM) for stream in spec.streams}
    edges: list[Edge] = []
    for processor, data in zip(spec.processors, plain, strict=True):
        sources = spec.sources_of(processor)
        for source, side in zip(sources, ("left", "right"), strict=False):
            if spec.processor(source.name) is None:
                nodes.setdefault(source.name, Node(source.name, STREAM))
            kind = EdgeKind(source.port) if source.port else EdgeKind.EVENTS
            edges.append(Edge(source.name, processor.processor_name, kind, side if len(sources) > 1 else ""))
        nodes[processor.processor_name] = Node(processor.processor_name, str(processor.processor_type), _summary(processor, data))
        if processor.target_stream_id is not None:
            nodes.setdefault(processor.target_stream_id, Node(processor.target_stream_id, STREAM))
            edges.append(Edge(processor.processor_name, processor.target_stream_id))
    read = {edge.source for edge in edges if edge.kind is EdgeKind.ERRORS}
    dying = [p for p in spec.processors if p.error_handling_strategy in _KEEPS_DEAD_LETTERS and p.processor_name not in read]
    if dying:
        nodes.setdefault(DEAD_LETTER_STREAM, Node(DEAD_LETTER_STREAM, STREAM))
        edges += [Edge(p.processor_name, DEAD_LETTER_STREAM, EdgeKind.DEAD_LETTERS) for p in dying]
    return Graph(spec.name, tuple(nodes.values()), tuple(edges))


# --- summaries ----------------------------------------------------------------------------------------------------------


def _summary(processor: ProcessorSpec, data: Mapping[str, Any]) -> str:
    """What a processor does, in one line, as far as its plain data tells at a glance."""
    logic: Mapping[str, Any] = data.get("processing_logic") or {}
    match str(processor.processor_type):
        case "FILTER":
            checks = len(logic.get("additional_checks") or ())
            more = f" and {checks} more" if checks else ""
            parts = [f"{logic.get('filter_expression', '')}{more}"]
        case "MAP":
            parts = [f"{word} {_listed(logic.get(word))}" for word in ("flatten", "select", "drop", "rename") if logic.get(word)]
            parts += [f"set {_listed(logic['fields'])}"] if logic.get("fields") else []
        case "JOIN":
            keys = _listed(logic.get("on"))
            parts = [f"{logic.get('join_type', 'inner')}{' on ' + keys if keys else ''}".lower(), _join_time(logic)]
        case "CUSTOM":
            parts = [str(logic.get("function", "")), _by(logic.get("key"))]
        case "DEDUPLICATE":
            parts = [_by(logic.get("deduplicate_by")), _within(logic.get("within_ms"))]
        case _:
            parts = [_functions(logic), _by(logic.get("group_by"))]
    return ", ".join(part for part in (*parts, _window(data.get("window_config") or {})) if part)


def _functions(logic: Mapping[str, Any]) -> str:
    several = logic.get("aggregations") or ()
    return _listed(list(dict.fromkeys(each["function"] for each in several)) or logic.get("aggregation_function"))


def _by(keys: Any) -> str:
    return f"by {_listed(keys)}" if keys else ""


def _within(within_ms: int | None) -> str:
    return "" if within_ms is None else f"within {duration(within_ms)}"


def _join_time(logic: Mapping[str, Any]) -> str:
    if "lookup" in logic:
        return "latest"
    within = logic.get("within")
    if not within:
        return ""
    before_ms, after_ms = within["before_ms"], within["after_ms"]
    if before_ms == after_ms:
        return _within(before_ms)
    return f"from {duration(before_ms)} before to {duration(after_ms)} after"


def _window(window: Mapping[str, Any]) -> str:
    kind = str(window.get("window_type") or "").lower()
    if not kind:
        return ""
    size = window.get("window_size_ms", window.get("gap_ms"))
    told = [duration(size)] if isinstance(size, int) else []
    if window.get("advance_ms") is not None:
        told.append(f"every {duration(window['advance_ms'])}")
    told += [str(window[key]) for key in ("window_size_events", "calendar_unit", "time_zone") if window.get(key) is not None]
    return " ".join([kind, *told])


def _listed(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else ", ".join(str(each) for each in value)


def duration(span_ms: int) -> str:
    """A span of time in the largest unit that tells it whole: ``90 s``, ``1 h``, ``250 ms``."""
    for unit, unit_ms in _UNITS_MS:
        if span_ms and span_ms % unit_ms == 0:
            return f"{span_ms // unit_ms} {unit}"
    return f"{span_ms} ms"


# --- Mermaid ------------------------------------------------------------------------------------------------------------


def mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart. Names never become ids or syntax: a stream may be called ``end`` or hold brackets."""
    ids = {node.name: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR", f"    accTitle: Flow {_one_line(graph.name)}"]
    for node in graph.nodes:
        if node.is_stream:
            lines.append(f'    {ids[node.name]}[("{_escaped(node.name)}")]:::stream')
        else:
            told = [f"<b>{_escaped(node.name)}</b>", _escaped(node.kind), _escaped(shortened(node.summary, 60))]
            lines.append(f'    {ids[node.name]}("{"<br/>".join(part for part in told if part)}"):::processor')
    for edge in graph.edges:
        arrow = "-->" if edge.kind is EdgeKind.EVENTS else "-.->"
        label = f'|"{_escaped(edge.label)}"|' if edge.label else ""
        lines.append(f"    {ids[edge.source]} {arrow}{label} {ids[edge.target]}")
    dotted = [str(number) for number, edge in enumerate(graph.edges) if edge.kind is EdgeKind.DEAD_LETTERS]
    if dotted:
        lines.append(f"    linkStyle {','.join(dotted)} stroke-dasharray:1 4")
    lines += [f"    {each}" for each in _MERMAID_CLASSES]
    return "\n".join(lines) + "\n"


def shortened(text: str, most: int) -> str:
    """The text with its middle left out if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 3
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    """The text for a quoted label: what Mermaid, Markdown or HTML could take for syntax as entity codes, on one line."""
    plain = _one_line("".join(each if each.isprintable() else " " for each in text))
    return re.sub(r"[\"#&<>`*~\\$|;{}\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda found: f"#{ord(found[0])};", plain)
