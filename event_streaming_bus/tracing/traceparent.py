"""The W3C ``traceparent``: which trace an event belongs to, which span it comes from, and whether that trace is recorded."""

import re
from typing import Final, NamedTuple

SAMPLED: Final = 1
_FORM: Final = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class TraceParent(NamedTuple):
    """What a traceparent says. ``flags`` has ``SAMPLED`` set if the trace is recorded."""

    trace_id: int
    span_id: int
    flags: int

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"


def parsed(text: str | None) -> TraceParent | None:
    """The traceparent in ``text``; ``None`` if it is none that is valid. Of a version to come, what version 00 has."""
    found = None if text is None else _FORM.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "00" and more is not None:
        return None
    return TraceParent(int(trace_id, 16), int(span_id, 16), int(flags, 16))


def sampled(text: str | None) -> TraceParent | None:
    """As ``parsed``, but only that of a trace that is recorded."""
    found = parsed(text)
    return found if found is not None and found.flags & SAMPLED else None
