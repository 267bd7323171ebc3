"""Marks: how far a step of a flow has written its output, and the counts that go with it.

A mark is set in the transaction that writes the output it stands for. So it tells a restarted worker what to leave out, and
its counts are exact, whatever happened to the process.
"""

from typing import Final, TypeVar

import msgspec
import xxhash

from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.models import Split
from event_streaming_bus.store.log.base import EventLog, Mark

STAGE: Final = "stage:"
"""Begins the owners of the marks of stages."""

_encoder: Final = msgspec.msgpack.Encoder()
_SEALED: Final = b"\xc1"
"""Begins a mark with a checksum; msgpack never uses this byte."""
_HEADER_BYTES: Final = 9


class Counts(msgspec.Struct, array_like=True):
    """What became of the events of one processor. ``events_in = passed + filtered + dead + skipped``; the ``passed`` events
    of one with state are in its state, or were (see ``WindowMark``). ``out``: what it gave out."""

    events_in: int = 0
    passed: int = 0
    filtered: int = 0
    dead: int = 0
    skipped: int = 0
    processing_ns: int = 0
    out: int = 0


class StageMark(msgspec.Struct, array_like=True):
    """Of a stage and a split: all events before ``offset`` are done with. ``counts`` by processor id."""

    offset: int = 0
    counts: dict[str, Counts] = {}
    updated_at_ms: int = 0
    watermark_ms: int | None = None


class Note(msgspec.Struct, frozen=True, array_like=True):
    """That some events of the chunk from ``begin`` to ``end`` of a split were late for a key group whose horizon was
    ``horizon_ms``: read again after a crash, they must be found late again."""

    split: str
    begin: int
    end: int
    horizon_ms: int


class WindowMark(msgspec.Struct, array_like=True):
    """Of a processor with state and a key group: every result that was due by ``horizon_ms`` has been written.

    ``cut`` has the position in each split at that moment: of the events before it all late ones have been written too.
    ``late``, ``released``, ``filtered``, ``dead``, ``skipped`` count events that have left the state, or never entered it;
    ``out`` counts results, ``refused`` those that the target's schema refused. ``counts`` are of those that read the results.
    ``closings`` are the horizons at which everything was closed because the streams had ended.
    """

    horizon_ms: int | None = None
    cut: dict[str, int] = {}
    late: int = 0
    released: int = 0
    filtered: int = 0
    dead: int = 0
    skipped: int = 0
    out: int = 0
    refused: int = 0
    counts: dict[str, Counts] = {}
    notes: list[Note] = []
    updated_at_ms: int = 0
    closings: list[int] = []


_MarkKind = TypeVar("_MarkKind", StageMark, WindowMark)


def add_counts(totals: dict[str, Counts], processor_id: str, counts: Counts) -> None:
    """Add ``counts`` to those of the processor."""
    total = totals.setdefault(processor_id, Counts())
    for name in Counts.__struct_fields__:
        setattr(total, name, getattr(total, name) + getattr(counts, name))


def stage_owner(tenant_id: str, flow: str, processor: str) -> str:
    """The owner of a stage's marks; a stage is named by its first processor."""
    return f"{STAGE}{tenant_id}/{flow}/{processor}"


def window_owner(tenant_id: str, flow: str, processor: str) -> str:
    """The owner of the marks of a processor with state."""
    return f"window:{tenant_id}/{flow}/{processor}"


def load_stage_marks(log: EventLog, owner: str) -> dict[str, tuple[bytes, StageMark]]:
    """``(bytes as stored, mark)`` by split."""
    return {key: (value, decoded(owner, key, value, StageMark)) for key, value in log.marks(owner).items()}


def load_window_marks(log: EventLog, owner: str) -> dict[str, tuple[bytes, WindowMark]]:
    """``(bytes as stored, mark)`` by key group."""
    return {key: (value, decoded(owner, key, value, WindowMark)) for key, value in log.marks(owner).items()}


def renewed(owner: str, key: str, stored: bytes | None, mark: StageMark | WindowMark) -> Mark:
    """The mark to write in place of what is ``stored``."""
    data = _encoder.encode(mark)
    return Mark(owner, key, stored, _SEALED + _digest(owner, key, data) + data)


def decoded(owner: str, key: str, value: bytes, kind: type[_MarkKind]) -> _MarkKind:
    """The mark that is stored, its checksum verified; marks from before they had one are as they say. Raises ``CorruptLogError``:
    going on from a wrong one would write output twice, or leave some out."""
    data = value[_HEADER_BYTES:] if value[:1] == _SEALED else value
    try:
        if data is not value and _digest(owner, key, data) != value[1:_HEADER_BYTES]:
            raise msgspec.DecodeError("its checksum does not fit its contents")
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptLogError(
            f"The mark of how far {owner} ({key}) has written its output is damaged: {error}. Restore the data folder from a "
            "backup, or begin the flow anew with esb run --from-start, which writes all of its output again.",
            owner=owner,
            key=key,
        ) from error


def _digest(owner: str, key: str, data: bytes) -> bytes:
    """XXH3 (64 bits) over a mark and its place, so that one that was moved is found as well."""
    return xxhash.xxh3_64_digest(data, seed=xxhash.xxh3_64_intdigest(f"{owner}\0{key}".encode()))


def cuts_of_split(
    split: Split, stages: dict[str, tuple[bytes, StageMark]], windows: list[dict[str, tuple[bytes, WindowMark]]]
) -> list[int]:
    """The offsets of a split at which some output was marked: a chunk must not reach across one, or it could be neither
    written nor left out as a whole."""
    name = str(split)
    cuts = {stages[name][1].offset} if name in stages else set()
    for marks in windows:
        for _, mark in marks.values():
            if name in mark.cut:
                cuts.add(mark.cut[name])
            cuts.update(at for note in mark.notes if note.split == name for at in (note.begin, note.end))
    return sorted(cuts)
