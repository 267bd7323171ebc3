"""Marks: how far a step of a flow has written its output, and the counts that go with it.

A mark is set in the transaction that writes the output it stands for. So it tells a restarted worker what to leave out, and
its counts are exact, whatever happened to the process.
"""

from typing import Final

import msgspec

from event_streaming_bus.models import Split
from event_streaming_bus.store.log.base import EventLog, Mark

_encoder: Final = msgspec.msgpack.Encoder()


class Counts(msgspec.Struct, array_like=True):
    """What became of the events of one processor. ``events_in = passed + filtered + dead + skipped`` for stateless ones;
    an AGGREGATE's ``passed`` events are in windows: late, emitted, or held in state (see ``WindowMark``)."""

    events_in: int = 0
    passed: int = 0
    filtered: int = 0
    dead: int = 0
    skipped: int = 0
    processing_ns: int = 0


class StageMark(msgspec.Struct, array_like=True):
    """Of a stage and a split: all events before ``offset`` are done with. ``counts`` by processor id."""

    offset: int = 0
    counts: dict[str, Counts] = {}
    updated_at_ms: int = 0
    watermark_ms: int | None = None


class WindowMark(msgspec.Struct, array_like=True):
    """Of an AGGREGATE and a key group: every window whose close time is not after ``closed_through_ms`` has been written.

    ``cut`` has the position in each split at that moment: of the events before it all late ones have been written too.
    """

    closed_through_ms: int | None = None
    cut: dict[str, int] = {}
    late: int = 0
    emitted: int = 0
    windows: int = 0
    dead: int = 0
    counts: dict[str, Counts] = {}
    updated_at_ms: int = 0


def add_counts(totals: dict[str, Counts], processor_id: str, counts: Counts) -> None:
    """Add ``counts`` to those of the processor."""
    total = totals.setdefault(processor_id, Counts())
    for name in Counts.__struct_fields__:
        setattr(total, name, getattr(total, name) + getattr(counts, name))


def stage_owner(tenant_id: str, flow: str, processor: str) -> str:
    """The owner of a stage's marks; a stage is named by its first processor."""
    return f"stage:{tenant_id}/{flow}/{processor}"


def window_owner(tenant_id: str, flow: str, processor: str) -> str:
    """The owner of an AGGREGATE's marks."""
    return f"window:{tenant_id}/{flow}/{processor}"


def load_stage_marks(log: EventLog, owner: str) -> dict[str, tuple[bytes, StageMark]]:
    """``(bytes as stored, mark)`` by split."""
    return {key: (value, msgspec.msgpack.decode(value, type=StageMark)) for key, value in log.marks(owner).items()}


def load_window_marks(log: EventLog, owner: str) -> dict[str, tuple[bytes, WindowMark]]:
    """``(bytes as stored, mark)`` by key group."""
    return {key: (value, msgspec.msgpack.decode(value, type=WindowMark)) for key, value in log.marks(owner).items()}


def renewed(owner: str, key: str, stored: bytes | None, mark: StageMark | WindowMark) -> Mark:
    """The mark to write in place of what is ``stored``."""
    return Mark(owner, key, stored, _encoder.encode(mark))


def cuts_of_split(
    split: Split, stages: dict[str, tuple[bytes, StageMark]], windows: list[dict[str, tuple[bytes, WindowMark]]]
) -> list[int]:
    """The offsets of a split at which some output was marked: a chunk must not reach across one, or it could be neither
    written nor left out as a whole."""
    name = str(split)
    cuts = {stages[name][1].offset} if name in stages else set()
    for marks in windows:
        cuts.update(mark.cut[name] for _, mark in marks.values() if name in mark.cut)
    return sorted(cuts)
