"""DEDUPLICATE: passes on the first event of each key within a time span, and drops the others."""

import msgspec

from event_streaming_bus.flows.checker import FieldPath
from event_streaming_bus.flows.window_config import Timing


class DeduplicateLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of a DEDUPLICATE: an event is dropped if one with equal ``deduplicate_by`` fields was passed on
    at most ``within_ms`` before it."""

    deduplicate_by: tuple[FieldPath, ...]
    within_ms: int
    timing: Timing = Timing()
