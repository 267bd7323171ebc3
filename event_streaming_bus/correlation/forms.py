"""The forms that a trace is told in: nested, as a list, as a picture (Mermaid), as lines of text."""

import re
from typing import Any, Final

import msgspec

from event_streaming_bus.correlation.model import Placed, Trace, TracedEvent

MAX_NESTED: Final = 200
"""So deep is what is nested; what lies below is only in the other forms."""
_MERMAID_CLASSES: Final = (
    "classDef event fill:#ffffff,stroke:#2f5fa8,color:#1b2536",
    "classDef dead fill:#fdeeee,stroke:#a83232,color:#1b2536",
    "classDef unknown fill:#f4f4f4,stroke:#8a8a8a,color:#1b2536,stroke-dasharray:4 3",
)
_MAX_LABEL: Final = 60
_DEAD_LETTERS: Final = "_dead_letters"


def nested(trace: Trace) -> dict[str, Any]:
    """``{"is_cut_off": ..., "trees": [...]}``: each event with those that it is the cause of under ``followed_by``."""
    trees: list[dict[str, Any]] = []
    path: list[dict[str, Any]] = []
    is_cut_off = trace.is_cut_off
    for placed in trace.placed():
        if placed.depth > MAX_NESTED:
            is_cut_off = True
            continue
        told = _told(placed.event) | {"followed_by": []}
        del path[placed.depth :]
        (path[-1]["followed_by"] if path else trees).append(told)
        path.append(told)
    return {"is_cut_off": is_cut_off, "trees": trees}


def listed(trace: Trace) -> dict[str, Any]:
    """``{"is_cut_off": ..., "events": [...], "edges": [{"cause": ID, "effect": ID}, ...]}``."""
    return {
        "is_cut_off": trace.is_cut_off,
        "events": [_told(event) for event in trace.events],
        "edges": [msgspec.structs.asdict(edge) for edge in trace.edges],
    }


def mermaid(trace: Trace) -> str:
    """The trace as a Mermaid flowchart. What events carry never becomes an id or syntax, whatever is in it."""
    numbers = {event.event_id: f"n{number}" for number, event in enumerate(trace.events)}
    lines = ["flowchart TD"]
    for event in trace.events:
        kind = "event" if event.stream != _DEAD_LETTERS else "dead"
        parts = [escaped(part) for part in _labels(event)]
        label = "<br/>".join([f"<b>{parts[0]}</b>", *parts[1:]])
        lines.append(f'    {numbers[event.event_id]}["{label}"]:::{kind if event.is_known else "unknown"}')
    lines += [f"    {numbers[edge.cause]} --> {numbers[edge.effect]}" for edge in trace.edges]
    if trace.is_cut_off:
        lines.append('    more["there is more"]:::unknown')
    return "\n".join([*lines, *(f"    {each}" for each in _MERMAID_CLASSES)]) + "\n"


def escaped(text: str) -> str:
    """The text for a quoted label of Mermaid, on one line: all but letters, digits and a few harmless signs as entity codes."""
    plain = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return re.sub(r"[^\w .,:/+@-]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda found: f"#{ord(found[0])};", _shortened(plain))


def drawn(trace: Trace) -> list[str]:
    """The trace as lines of text: an event each, under its cause. Control characters are in them as they are."""
    lines: list[str] = []
    placed = trace.placed()
    is_last = _last_of_their_cause(placed)
    bars: list[bool] = []  # for each depth above: whether more is to come there
    for here, last in zip(placed, is_last, strict=True):
        del bars[max(here.depth - 1, 0) :]
        indent = "".join("│  " if more else "   " for more in bars)
        branch = "" if here.depth == 0 else "└─ " if last else "├─ "
        if here.depth:
            bars.append(not last)
        lines.append(indent + branch + "  ".join(_labels(here.event)))
    if trace.is_cut_off:
        lines.append("... there is more")
    return lines


def _last_of_their_cause(placed: list[Placed]) -> list[bool]:
    """For each, whether no other effect of its cause follows."""
    told: list[bool] = []
    later: set[int] = set()  # depths at which something follows, before what is above them
    for here in reversed(placed):
        told.append(here.depth not in later)
        later = {depth for depth in later if depth <= here.depth} | {here.depth}
    return told[::-1]


def _labels(event: TracedEvent) -> list[str]:
    """What is told of an event: its type first, then its id, where it is, and when it was."""
    if not event.is_known:
        return [event.event_id, "not in the history"]
    where = event.stream or ""
    if event.aggregate_id is not None and event.stream != _DEAD_LETTERS:
        version = "" if event.version is None else f" v{event.version}"
        kind = f"{event.aggregate_type} " if event.aggregate_type else ""
        where = (
            f"{where}: {kind}{event.aggregate_id}{version}"
            if event.stream != event.aggregate_type
            else (f"{kind}{event.aggregate_id}{version}")
        )
    return [part for part in (event.event_type or "?", event.event_id, where, event.timestamp) if part]


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 1]}…"


def _told(event: TracedEvent) -> dict[str, Any]:
    """An event as plain data; one that is not known has nothing but its id."""
    if not event.is_known:
        return {"event_id": event.event_id, "is_known": False}
    return msgspec.structs.asdict(event)
