"""A stream at the source and its twin at the target, and how far the one has been copied to the other."""

from typing import Final

import msgspec

from event_streaming_bus.models import DEFAULT_TENANT, Split, StreamInfo
from event_streaming_bus.store.log.base import EventLog


class Pair(msgspec.Struct, frozen=True):
    """A stream as it is at the source and at the target. ``source`` names the log that it comes from."""

    source: str
    before: StreamInfo
    after: StreamInfo

    @property
    def made_ms(self) -> tuple[int, int]:
        """When the two were made. One that was dropped and made anew is another: for it, nothing has been copied."""
        return self.before.created_at_ms, self.after.created_at_ms

    def twin(self, split: Split, partition: int) -> Split:
        """The split of the target with the lane of a split of the source."""
        return Split(self.after.stream_id, split.lane, partition)


def told(info: StreamInfo) -> str:
    """A stream's name, with its tenant where that is not the default."""
    return info.name if info.tenant_id == DEFAULT_TENANT else f"{info.name} of {info.tenant_id}"


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """How far a split of the source has been copied: every event before ``offset``; for streams made at these times."""

    source_made_ms: int
    target_made_ms: int
    offset: int


class Reached(msgspec.Struct, frozen=True):
    """How far a split has come, and the mark that says so as it is stored; ``None`` before the first run."""

    offset: int
    stored: bytes | None
    has_begun: bool


encode_progress: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Progress).decode


def owner_of(source: str) -> str:
    """The owner of the marks that say how far a migration from ``source`` has come."""
    return f"migration:{source}"


def reached(log: EventLog, pair: Pair) -> dict[Split, Reached]:
    """How far each split has come, from the marks of the target."""
    marks = log.marks(owner_of(pair.source))
    found: dict[Split, Reached] = {}
    for split in pair.before.splits():
        stored = marks.get(str(split))
        progress = None if stored is None else _decode(stored)
        if progress is not None and (progress.source_made_ms, progress.target_made_ms) == pair.made_ms:
            found[split] = Reached(progress.offset, stored, has_begun=True)
        else:
            found[split] = Reached(0, stored, has_begun=False)
    return found
