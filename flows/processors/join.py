"""JOIN: puts events of two sources together that have the same key.

Three ways: within a time interval of each other, within the same window, or a lookup of the latest event of the right side as of
the left event's time (the right side is then a table). The output is ``{"left": ..., "right": ...}``, or what ``fields`` says.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.expressions import Expression, Scope
from event_streaming_bus.flows.checker import (
    BAD,
    MAX_KEY_FIELDS,
    Field,
    FieldPath,
    Path,
    Problems,
    Reader,
    Table,
    dotted_path,
    duration_ms,
    expression_in,
    list_of,
    mapping_of,
    member,
    paths_apart,
    read_table,
    required,
    text,
)
from event_streaming_bus.flows.window_config import TIMING, Timing, take_timing

if TYPE_CHECKING:
    from event_streaming_bus.flows.codegen import Code, Reading
    from event_streaming_bus.flows.plan import Node
    from event_streaming_bus.flows.spec import ProcessorSpec


class JoinType(StrEnum):
    """Which events without a partner are given out: none, those of the left side, or those of both."""

    INNER = "inner"
    LEFT = "left"
    OUTER = "outer"


class Within(msgspec.Struct, frozen=True, kw_only=True):
    """A left event at ``t`` meets the right ones at ``t - before_ms`` to ``t + after_ms``, both included."""

    before_ms: int
    after_ms: int


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """The right side is a table: its latest event of a key is the key's row, for ``ttl_ms`` (None: for ever)."""

    ttl_ms: int | None = None


class JoinLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of a JOIN. ``on`` pairs a field of the left payload with one of the right payload.

    One of ``within`` and ``lookup`` is set, or the processor has a (tumbling) window. ``fields`` are expressions over ``left``
    and ``right`` (the payloads; null where there is no partner), ``left_timestamp`` and ``right_timestamp``.
    """

    join_stream_id: str
    join_type: JoinType = JoinType.INNER
    on: tuple[tuple[FieldPath, FieldPath], ...]
    within: Within | None = None
    lookup: Lookup | None = None
    fields: tuple[tuple[FieldPath, Expression], ...] = ()
    timing: Timing = Timing()

    def to_data(self) -> dict[str, object]:
        same = all(left == right for left, right in self.on)
        data: dict[str, object] = {
            "join_stream_id": self.join_stream_id,
            "join_type": self.join_type.value,
            "on": [".".join(left) for left, _ in self.on] if same else {".".join(a): ".".join(b) for a, b in self.on},
        }
        if self.within is not None:
            data["within"] = {"before_ms": self.within.before_ms, "after_ms": self.within.after_ms}
        if self.lookup is not None:
            data["lookup"] = {} if self.lookup.ttl_ms is None else {"ttl_ms": self.lookup.ttl_ms}
        if self.fields:
            data["fields"] = {".".join(path): value.text for path, value in self.fields}
        return data | self.timing.timing_data() if self.within or self.lookup else data


def _on(value: object, path: Path, problems: Problems) -> Any:
    if isinstance(value, Mapping):
        return mapping_of(dotted_path, dotted_path, most=MAX_KEY_FIELDS)(value, path, problems)
    if not isinstance(value, (list, tuple)):
        return problems.reject(path, "a list, or a mapping of left path to right path", value)
    fields = list_of(dotted_path, least=1, most=MAX_KEY_FIELDS)(value, path, problems)
    return BAD if fields is BAD else tuple((field, field) for field in fields)


_WITHIN: Final[Table] = {"before_ms": Field(duration_ms(0)), "after_ms": Field(duration_ms(0))}
_LOOKUP: Final[Table] = {"ttl_ms": Field(duration_ms(1))}


def _within(value: object, path: Path, problems: Problems) -> Any:
    values = read_table(value, path, _WITHIN, problems)
    if values is None:
        return BAD
    if values == {"before_ms": None, "after_ms": None}:
        return problems.add(path, "expected at least one of before_ms, after_ms")
    return Within(before_ms=values["before_ms"] or 0, after_ms=values["after_ms"] or 0)


def _lookup(value: object, path: Path, problems: Problems) -> Any:
    if value is True:
        return Lookup()
    if not isinstance(value, Mapping):
        return problems.reject(path, "true, or a mapping with ttl_ms", value)
    values = read_table(value, path, _LOOKUP, problems)
    return BAD if values is None else Lookup(**values)


_FIELDS: Final[Reader] = mapping_of(dotted_path, expression_in(Scope.JOIN))
_LOGIC: Final[Table] = {
    "join_stream_id": required(text(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", "a stream's name or id, or a processor's name")),
    "join_type": Field(member(JoinType), default=JoinType.INNER),
    "on": required(_on),
    "within_ms": Field(duration_ms(0)),
    "within": Field(_within),
    "lookup": Field(_lookup),
    "fields": Field(_FIELDS, default=()),
    **TIMING,
}


def read_logic(value: object, path: Path, problems: Problems) -> Any:
    """The ``JoinLogic`` of a ``processing_logic``."""
    values = read_table(value, path, _LOGIC, problems)
    if values is None:
        return BAD
    both_ways_ms = values.pop("within_ms")
    if both_ways_ms is not None:
        if values["within"] is not None:
            return problems.add(path, "expected either within_ms or within, got both")
        values["within"] = Within(before_ms=both_ways_ms, after_ms=both_ways_ms)
    if values["within"] is not None and values["lookup"] is not None:
        return problems.add(path, "expected either within or lookup, got both")
    if values["lookup"] is not None and values["join_type"] is JoinType.OUTER:
        return problems.add((*path, "join_type"), "a lookup is inner or left: rows of a table are no events without a partner")
    written = [("fields", name) for name, _ in values["fields"]]
    return JoinLogic(**take_timing(values)) if paths_apart(written, "write", path, problems) else BAD


def payload_paths(spec: "ProcessorSpec", side: int = 0) -> Iterator[FieldPath]:
    """The payload paths that are read on a side; what is joined is kept as bytes."""
    yield from (pair[side] for pair in _logic(spec).on)


def generate(node: "Node", number: str, code: "Code", reading: "Reading", below: "Callable[[Reading], None]", side: int) -> None:
    """Write the lines of one side of a JOIN: events are gathered by key group."""
    from event_streaming_bus.flows.gathering import gather_entries, raw_payload

    logic = _logic(node.spec)
    # The row of a table, on the right side, is there before the events of the same time that look it up.
    rank = side if logic.lookup is None else 1 - side
    key = [pair[side] for pair in logic.on]
    gather_entries(number, key, code, reading, lambda: raw_payload(code, reading), side=side, rank=rank)


def collection_of(spec: "ProcessorSpec") -> str:
    """The code of what events are gathered in."""
    from event_streaming_bus.flows.gathering import BY_KEY_GROUP

    return BY_KEY_GROUP


def _logic(spec: "ProcessorSpec") -> JoinLogic:
    assert isinstance(spec.processing_logic, JoinLogic)  # noqa: S101 - the spec stage has seen to it
    return spec.processing_logic
