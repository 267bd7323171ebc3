"""The dead letters of a tenant: listed, found, and what became of each since.

A letter is an event on the stream ``_dead_letters`` and never changes. What became of it, OPEN, RETRIED or DROPPED, is a mark of
the log, set in the transaction that writes what a retry makes of it: so a letter is retried once, whoever tries, and whatever
happens to the process. A letter without a mark is OPEN.

The marks are kept by blocks of neighbouring letters, one owner each. Listing looks at a block's marks first, and reads
the letters of a block only if one of them can be wanted.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from event_streaming_bus.errors import DeadLetterNotFoundError, FencedError, InUseError, InvalidInputError
from event_streaming_bus.models import LANES, Event, EventPriority, Position, Split, StreamInfo
from event_streaming_bus.store.dead_letters import original, told_of
from event_streaming_bus.store.log.base import EventLog, Mark
from event_streaming_bus.store.log.reading import batches_between
from event_streaming_bus.store.log.record_batch import RecordBatch

BLOCK_LETTERS: Final = 4096
"""How many letters share an owner of marks. It is part of the format: with another number the marks are not found."""
MAX_LOOKED_AT: Final = 100_000
"""After so many letters, and the rest of their block, a page ends, however few of them were wanted."""
MAX_PAGE_LETTERS: Final = 1000
_SKIPPED_FASTER: Final = 8
_SCANNED_PER_LOOKUP: Final = 1500  # so many ids are read in the time that looking up a single one takes
_CONSUMER: Final = "consumer:"
_MAX_TRIES: Final = 100

T = TypeVar("T")

_encoder: Final = msgspec.msgpack.Encoder()


class LetterStatus(StrEnum):
    """What became of a dead letter."""

    OPEN = "OPEN"
    RETRIED = "RETRIED"
    DROPPED = "DROPPED"


class LetterState(msgspec.Struct, frozen=True, array_like=True):
    """What became of a letter, how often it was retried, and with what error the last retry failed, if it did."""

    status: LetterStatus = LetterStatus.OPEN
    retries: int = 0
    last_error: str | None = None
    changed_at_ms: int | None = None


_Marked: TypeAlias = tuple[LetterState, bytes | None]
"""A state, and the mark that says so as the log has it."""
_UNMARKED: Final[_Marked] = (LetterState(), None)
_state_decoder: Final = msgspec.msgpack.Decoder(LetterState)


class Letter(msgspec.Struct, frozen=True):
    """A dead letter. ``why`` is what it tells of its death; ``stored`` is its mark as the log has it."""

    event: Event
    position: Position
    state: LetterState
    stored: bytes | None

    @property
    def letter_id(self) -> str:
        return self.event.event_id

    @property
    def why(self) -> dict[str, Any]:
        return told_of(self.event.metadata)

    def original(self) -> Event:
        """The event that could not be processed, as it was."""
        return original(self.event)

    def place(self) -> dict[str, Any]:
        """Where the event was read, if it was read from a stream."""
        return {name: self.why[name] for name in ("lane", "partition", "offset") if name in self.why}


class LetterFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which letters are wanted; what is ``None`` is not looked at.

    ``stream``: the name or id of the stream whose event failed. ``processor``: the name or id of the processor that failed,
    ``validation`` for events that broke their stream's schema, or ``routing`` for those that a rule set aside. ``group``: the
    name or id of the consumer group whose member set the event aside.
    """

    stream: str | None = None
    processor: str | None = None
    group: str | None = None
    error_type: str | None = None
    key: str | None = None
    status: LetterStatus | None = LetterStatus.OPEN

    def may_want(self, marks: Mapping[int, _Marked], letters: int) -> bool:
        """Whether one of ``letters`` neighbours can be wanted, of which some have these marks."""
        if self.status is None or (self.status is LetterStatus.OPEN and len(marks) < letters):
            return True
        return any(state.status is self.status for state, _ in marks.values())

    def wants(self, why: Mapping[str, Any], key: str | None, state: LetterState) -> bool:
        return (
            (self.status is None or state.status is self.status)
            and (self.key is None or self.key == key)
            and (self.stream is None or self.stream in (why.get("stream"), why.get("stream_id")))
            and (self.processor is None or self.processor in (why.get("step"), why.get("processor_id")))
            and (self.group is None or self.group in (why.get("group_id"), group_name(why)))
            and (self.error_type is None or self.error_type == why.get("error_type"))
        )


EVERY_LETTER: Final = LetterFilter(status=None)


def group_name(why: Mapping[str, Any]) -> str | None:
    """The name of the consumer group whose member set the event aside, if it was one."""
    step = why.get("step")
    return step.removeprefix(_CONSUMER) if isinstance(step, str) and step.startswith(_CONSUMER) else None


class LetterPage(msgspec.Struct, frozen=True):
    """Some letters, and where to go on. A page may be short, or empty, although more are to come."""

    letters: list[Letter]
    next_cursor: str | None


class LetterBox:
    """The letters on ``stream``, a tenant's stream of dead letters."""

    def __init__(self, log: EventLog, stream: StreamInfo) -> None:
        self._log = log
        self._stream = stream

    def find(self, letter_id: str) -> Letter:
        """The letter with this id. Raises ``DeadLetterNotFoundError``."""
        receipt = self._log.locate(self._stream.tenant_id, letter_id)
        if receipt is not None and receipt.position.split.stream_id == self._stream.stream_id:
            split, offset = receipt.position
            marks = self._marks(split, offset, offset + 1)
            for letter in self._matching(split, offset, offset + 1, EVERY_LETTER, marks):
                return letter
        raise _not_found(letter_id)

    def find_all(self, letter_ids: Iterable[str]) -> Iterator[list[Letter]]:
        """The letters with these ids, block by block, in the order of writing. Raises ``DeadLetterNotFoundError`` at once."""
        positions, unknown = self.locate(letter_ids)
        if unknown:
            raise _not_found(unknown[0])
        return self.at(positions)

    def locate(self, letter_ids: Iterable[str]) -> tuple[list[Position], list[str]]:
        """Where the letters with these ids are, in the order of writing, and the ids that no letter has.

        A few are looked up one by one; many are looked for among all letters, about 0.15 million a second.
        """
        wanted = dict.fromkeys(letter_ids)
        begins, ends = self._bounds()
        if len(wanted) * _SCANNED_PER_LOOKUP > sum(ends.values()) - sum(begins.values()):
            found = self._scanned(wanted, begins, ends)
        else:
            receipts = [self._log.locate(self._stream.tenant_id, letter_id) for letter_id in wanted]
            found = {r.event_id: r.position for r in receipts if r and r.position.split.stream_id == self._stream.stream_id}
        return sorted(found.values(), key=_order), [letter_id for letter_id in wanted if letter_id not in found]

    def _scanned(self, wanted: Container[str], begins: Mapping[Split, int], ends: Mapping[Split, int]) -> dict[str, Position]:
        found = {}
        for split, begin in begins.items():
            for batch in batches_between(self._log, split, begin, ends[split], skip_dropped=True):
                for i, letter_id in enumerate(batch.column("event_id")):
                    if letter_id in wanted:
                        found[letter_id] = batch.position(i)
        return found

    def _bounds(self) -> tuple[dict[Split, int], dict[Split, int]]:
        return self._log.begin_offsets(self._stream.stream_id), self._log.end_offsets(self._stream.stream_id)

    def at(self, positions: Sequence[Position]) -> Iterator[list[Letter]]:
        """The letters at these positions, which are in the order of writing, block by block, each block read once."""
        for _, group in groupby(positions, key=lambda position: self._owner(*position)):
            block = list(group)
            (split, begin), end = block[0], block[-1].offset + 1
            offsets, marks = {position.offset for position in block}, self._marks(split, begin, end)
            letters: list[Letter] = []
            for batch in batches_between(self._log, split, begin, end, skip_dropped=True):
                indexes = [i for i in range(batch.count) if batch.offset + i in offsets]
                letters += _letters(batch, indexes, marks)
            if letters:
                yield letters

    def page(self, wanted: LetterFilter, *, limit: int, cursor: str | None = None, newest_first: bool = False) -> LetterPage:
        """At most ``limit`` of the letters wanted: the most urgent lane first, within a lane in the order of writing, or with
        ``newest_first`` against it. ``cursor`` is the ``next_cursor`` of the page before."""
        start = None if cursor is None else self._position(cursor)
        found: list[Letter] = []
        looked_at = 0
        for split, begin, end in self._spans(start, newest_first):
            marks = self._marks(split, begin, end)
            read = wanted.may_want(marks, end - begin)
            letters = list(self._matching(split, begin, end, wanted, marks)) if read else []
            for letter in reversed(letters) if newest_first else letters:
                if len(found) == limit:
                    return LetterPage(found, _cursor(split, letter.position.offset + newest_first))
                found.append(letter)
            looked_at += (end - begin) if read else (end - begin) // _SKIPPED_FASTER
            if looked_at >= MAX_LOOKED_AT:
                return LetterPage(found, _cursor(split, begin if newest_first else end))
        return LetterPage(found, None)

    def blocks(self, wanted: LetterFilter) -> Iterator[list[Letter]]:
        """The letters wanted, block by block in the order in which they were written, of those that are there now."""
        for split, begin, end in list(self._spans(None, newest_first=False)):
            marks = self._marks(split, begin, end)
            if wanted.may_want(marks, end - begin) and (letters := list(self._matching(split, begin, end, wanted, marks))):
                yield letters

    def renewed(self, letters: Sequence[Letter]) -> list[Letter]:
        """The letters of one block with their states as they are now."""
        marks = self._log.marks(self._owner(*letters[0].position))
        found = [marks.get(str(letter.position.offset)) for letter in letters]
        return [
            msgspec.structs.replace(letter, state=_state(stored), stored=stored)
            for letter, stored in zip(letters, found, strict=True)
        ]

    def change(self, letters: Sequence[Letter], write: Callable[[Sequence[Letter]], T]) -> T:
        """What ``write`` returns, which changes the marks of letters of one block. Where somebody else has changed one of them
        since it was read, it is called again with the letters as they are now. Raises ``InUseError`` if that does not end."""
        for _ in range(_MAX_TRIES):
            try:
                return write(letters)
            except FencedError:
                letters = self.renewed(letters)
        raise InUseError("Others keep changing the same dead letters; try again when they are done.")

    def mark(self, letter: Letter, state: LetterState) -> Mark:
        """The mark that gives the letter a new state, if it is still in the one it was read with."""
        return Mark(self._owner(*letter.position), str(letter.position.offset), letter.stored, _encoder.encode(state))

    def _spans(self, start: Position | None, newest_first: bool) -> Iterator[tuple[Split, int, int]]:
        """``(split, begin, end)`` of each block, from ``start`` on: its offset is the first to look at, or with
        ``newest_first`` the one after it."""
        begins, ends = self._bounds()
        for split in sorted(self._stream.splits(), key=_split_order):
            low, high = begins.get(split, 0), ends[split]
            if start is not None:
                if _split_order(split) < _split_order(start.split):
                    continue
                if split == start.split:
                    low, high = (low, min(high, start.offset)) if newest_first else (max(low, start.offset), high)
            blocks = range(low // BLOCK_LETTERS, (high - 1) // BLOCK_LETTERS + 1) if low < high else range(0)
            for block in reversed(blocks) if newest_first else blocks:
                yield split, max(low, block * BLOCK_LETTERS), min(high, (block + 1) * BLOCK_LETTERS)

    def _marks(self, split: Split, begin: int, end: int) -> dict[int, _Marked]:
        """The marks of a part of a block, by offset."""
        marks = self._log.marks(self._owner(split, begin))
        return {int(offset): (_state(mark), mark) for offset, mark in marks.items() if begin <= int(offset) < end}

    def _matching(
        self, split: Split, begin: int, end: int, wanted: LetterFilter, marks: Mapping[int, _Marked]
    ) -> Iterator[Letter]:
        """The letters wanted of a part of a block, in the order in which they were written."""
        for batch in batches_between(self._log, split, begin, end, skip_dropped=True):
            yield from _letters(batch, _wanted(batch, wanted, marks), marks)

    def _owner(self, split: Split, offset: int) -> str:
        return f"dead-letters:{split}/{offset // BLOCK_LETTERS}"

    def _position(self, cursor: str) -> Position:
        match cursor.split("-"):
            case [lane, partition, offset] if lane in LANES and partition.isdecimal() and offset.isdecimal():
                return Position(Split(self._stream.stream_id, EventPriority(lane), int(partition)), int(offset))
        raise InvalidInputError(f"cursor: expected the next_cursor of an earlier page, got {cursor!r}")


def _wanted(batch: RecordBatch, wanted: LetterFilter, marks: Mapping[int, _Marked]) -> list[int]:
    """The indexes of the letters wanted."""
    found = []
    for i, (metadata, key) in enumerate(zip(batch.column("metadata"), batch.column("key"), strict=True)):
        state, _ = marks.get(batch.offset + i, _UNMARKED)
        if wanted.wants(told_of(metadata), key, state):
            found.append(i)
    return found


def _letters(batch: RecordBatch, indexes: Sequence[int], marks: Mapping[int, _Marked]) -> Iterator[Letter]:
    events = batch.events() if indexes else []
    for i in indexes:
        yield Letter(events[i], batch.position(i), *marks.get(batch.offset + i, _UNMARKED))


def _not_found(letter_id: str) -> DeadLetterNotFoundError:
    return DeadLetterNotFoundError(
        f"There is no dead letter '{letter_id}'. `esb dead-letters list --status all` shows what there is.",
        dead_letter_id=letter_id,
    )


def _state(stored: bytes | None) -> LetterState:
    return LetterState() if stored is None else _state_decoder.decode(stored)


def _cursor(split: Split, offset: int) -> str:
    return f"{split.lane.value}-{split.partition}-{offset}"


def _split_order(split: Split) -> tuple[int, int]:
    return LANES.index(split.lane), split.partition


def _order(position: Position) -> tuple[int, int, int]:
    return *_split_order(position.split), position.offset
