"""What the folds of JOIN have in common: the pair that they give out, and which events are given out alone."""

from operator import attrgetter
from typing import Any, Final

import msgspec

from event_streaming_bus.flows.folds.base import LEFT, Result
from event_streaming_bus.flows.processors.join import JoinType


class JoinedPair(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The ``value`` of a JOIN's result: the payloads of a left and a right event, as JSON. One of the two may be missing.

    As held by the folds, which do not look at it, each may be a tuple that begins with the payload (see ``joined_envelopes``).
    """

    left: Any
    right: Any
    left_timestamp_ms: int | None
    right_timestamp_ms: int | None


ORDER: Final = attrgetter("at_ms", "key", "identity")
"""The order of results, which does not depend on how they were found."""


def kept_alone(join_type: JoinType) -> tuple[bool, bool]:
    """Whether the events of the left and of the right side are given out when they have no partner."""
    return join_type is not JoinType.INNER, join_type is JoinType.OUTER


def payload_of(value: Any) -> bytes | None:
    """The payload of an event as a fold holds it."""
    found: bytes | None = value[0] if value.__class__ is tuple else value
    return found


def has_null(key: bytes) -> bool:
    """Whether a part of the key (a JSON array) is null: as in SQL, such a key equals none, not even itself."""
    return b"null" in key and None in msgspec.json.decode(key)


def alone(side: int, key: bytes, event_id: str, sent_ms: int, value: Any, at_ms: int, timestamp_ms: int, *more: Any) -> Result:
    """The result of an event without a partner: the event's side, key, id, time and payload, and when the result is due and
    its time. Its identity is ``(left event id, right event id, *more)``, the missing one empty."""
    if side == LEFT:
        return Result(at_ms, timestamp_ms, key, (event_id, "", *more), JoinedPair(value, None, sent_ms, None))
    return Result(at_ms, timestamp_ms, key, ("", event_id, *more), JoinedPair(None, value, None, sent_ms))
