"""What a log can do beyond what every log does: named, so that callers and the contract suite can ask instead of guessing."""

from typing import Final

import msgspec

from event_streaming_bus.store.log.base import EventLog


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What of ``EventLog`` a log keeps to the letter. What is ``False`` differs as told there; the contract suite pins both."""

    dense_offsets: bool = True
    """Offsets count events. Otherwise some offsets hold none, ``RecordBatch.end_offset`` reaches over them, and differences of
    offsets are bounds of counts."""
    scheduling: bool = True
    """An ``Append`` may have a ``schedule``. Otherwise one with an event whose time is to come is refused."""
    conditions: bool = True
    """An append may have a ``Condition`` of a store in the log's own database. Otherwise it is refused, but for ``outbox``."""
    outbox: bool = False
    """An append may have a ``Condition`` of a store in the database beside the log. All events of such an append, or of one
    with an event whose time is to come, come into their streams a little later: their receipts have no offset."""
    codec_of_events: bool = True
    """An event's own ``compression_type`` goes before its stream's. Otherwise it is kept in the envelope, and no more."""
    stored_bytes: bool = True
    """The log knows the size of its streams. Otherwise ``stored_bytes`` is 0."""
    retention_by_size_at_once: bool = True
    """``enforce_retention`` drops what exceeds ``retention_bytes``. Otherwise the servers below do, in their own time."""
    shows_groups: bool = False
    """The servers below have tools of their own that show what groups have committed: flows commit how far they have come."""


EVERYTHING: Final = Capabilities()


def capabilities_of(log: EventLog) -> Capabilities:
    """What this log can do: its ``capabilities``, or everything where it names none."""
    found = getattr(log, "capabilities", EVERYTHING)
    assert isinstance(found, Capabilities)  # noqa: S101 - the name is ours
    return found
