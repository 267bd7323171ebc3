"""What the results of a JOIN tell of the events that they were made of: what caused them, what they belong to, and their trace.

A JOIN holds the payloads of events. One that has a ``correlation_id`` or a ``traceparent`` is held as a tuple of all three.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from event_streaming_bus.flows.folds.base import Result
from event_streaming_bus.flows.folds.joins import JoinedPair, payload_of
from event_streaming_bus.flows.rows import Rows

_NONE: Final = (True, None)
_NOTHING: Final = (None, None, None)
_MADE: Final = re.compile(r"/\d{6}$")
"""How the id ends by which one of several events that were made of one is held: its own is not known."""


def carrying(rows: Rows, by_group: list[list[Any]]) -> list[list[Any]]:
    """Entries for a JOIN, gathered from ``rows``, with what is to be told of their events."""
    if rows.constant("correlation_id") == _NONE and rows.constant("traceparent") == _NONE:
        return by_group
    correlations, traces = rows.column("correlation_id"), rows.column("traceparent")
    return [
        [
            entry
            if correlations[entry[6]] is None and traces[entry[6]] is None
            else (*entry[:5], (entry[5], correlations[entry[6]], traces[entry[6]]), entry[6])
            for entry in entries
        ]
        for entries in by_group
    ]


def bare(pairs: Sequence[JoinedPair]) -> list[JoinedPair]:
    """The pairs with nothing but payloads."""
    return [
        JoinedPair(payload_of(pair.left), payload_of(pair.right), pair.left_timestamp_ms, pair.right_timestamp_ms)
        if pair.left.__class__ is tuple or pair.right.__class__ is tuple
        else pair
        for pair in pairs
    ]


def envelopes(results: Sequence[Result], *, is_lookup: bool) -> dict[str, Sequence[Any]]:
    """``causation_id``, ``correlation_id`` and ``traceparent`` of the events made of results.

    The cause is the newest event of the pair: the one that the JOIN took last, of equal times the right one, in a lookup the
    left. None is told where the event had no id of its own, being one of several that were made of one in the same flow. The
    ``correlation_id`` is that of all events of the pair, if they have the same. The ``traceparent`` is that of the newest event
    that has one.
    """
    pairs: list[JoinedPair] = [each.value for each in results]
    lefts = [True] * len(pairs) if is_lookup else list(map(_is_left_newer, pairs))
    causes = [each.identity[0 if is_left else 1] for each, is_left in zip(results, lefts, strict=True)]
    told: dict[str, Sequence[Any]] = {
        "causation_id": [None if "/" in cause and _MADE.search(cause) else cause for cause in causes]
    }
    if not any(pair.left.__class__ is tuple or pair.right.__class__ is tuple for pair in pairs):
        return told
    correlations: list[str | None] = []
    traces: list[str | None] = []
    for pair, is_left in zip(pairs, lefts, strict=True):
        newest, other = (pair.left, pair.right) if is_left else (pair.right, pair.left)
        _, correlation, trace = newest if newest.__class__ is tuple else _NOTHING
        if other is not None:
            _, correlation_of_other, trace_of_other = other if other.__class__ is tuple else _NOTHING
            correlation = correlation if correlation == correlation_of_other else None
            trace = trace or trace_of_other
        correlations.append(correlation)
        traces.append(trace)
    return told | {"correlation_id": correlations, "traceparent": traces}


def _is_left_newer(pair: JoinedPair) -> bool:
    left_ms, right_ms = pair.left_timestamp_ms, pair.right_timestamp_ms
    return right_ms is None or (left_ms is not None and left_ms > right_ms)
