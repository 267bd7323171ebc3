"""WINDOW: gives out the windows themselves: their events, or marks that they have closed."""

from enum import StrEnum

import msgspec

from event_streaming_bus.flows.checker import FieldPath


class WindowOutput(StrEnum):
    """What a WINDOW writes when a window of a group closes.

    ``contents``: one event with the payloads of all its events under ``events``, and their number under ``count``. ``events``:
    each of its events again, with ``window_start`` and ``window_end`` added to the payload. ``marks``: one event with
    ``count`` alone.
    """

    CONTENTS = "contents"
    EVENTS = "events"
    MARKS = "marks"


class WindowLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of a WINDOW. Of a window's events the first ``max_events`` of each group are kept; ``count``
    counts all."""

    output: WindowOutput = WindowOutput.CONTENTS
    group_by: tuple[FieldPath, ...] = ()
    max_events: int = 10_000
