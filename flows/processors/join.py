"""JOIN: puts events of two sources together that have the same key.

Three ways: within a time interval of each other, within the same window, or a lookup of the latest event of the right side as of
the left event's time (the right side is then a table). The output is ``{"left": ..., "right": ...}``, or what ``fields`` says.
"""

from enum import StrEnum

import msgspec

from event_streaming_bus.expressions import Expression
from event_streaming_bus.flows.checker import FieldPath
from event_streaming_bus.flows.window_config import Timing


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
