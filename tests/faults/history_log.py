"""Whether a history of streams is one of ordered logs: whether each event has one place for ever, events came in the order in
which they were published, and what was acknowledged, or read by anybody, is read by all who ask afterwards.

A split is a list that is only appended to, and read from an offset on to its end. So what one scan showed of it must be what
every other one shows, as far as that reaches: the prefix rule of the model list-append (see ``history_aggregates``), with offsets
for the order of versions.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from history_anomalies import Checker
from history_operations import ENDLESS, Append, Fault, Found, Kept, Operation, Outcome, Poll, Publish, Scan

START: Final = "start"
CLOCK: Final = "clock"
_LATE_MS: Final = 2000


class Place(NamedTuple):
    """Where an event is."""

    split: str
    offset: int


class LogChecker(Checker):
    """Checks the operations on streams of one history. ``kept``: the elements that are in aggregates. ``is_dense``: offsets have
    no gaps. ``anomalies`` has what was found; ``offsets`` those of each split that hold an event, in order."""

    def __init__(self, operations: Sequence[Operation], kept: Mapping[str, Kept], *, is_dense: bool = True) -> None:
        super().__init__()
        self._kept = kept
        self._operations = operations
        self._is_dense = is_dense
        self.offsets: dict[str, list[int]] = {}
        self.places: dict[str, Place] = {}
        self._at: dict[str, dict[int, str]] = defaultdict(dict)
        self._writers: dict[str, Operation] = {}
        self._due_ms: dict[str, int] = {}
        self._shown_ns: dict[str, int] = {}
        self._key_splits: dict[str, str] = {}
        self._collect()
        self.offsets = {split: sorted(at) for split, at in self._at.items()}
        self._check_order()
        self._check_scans()
        self._check_visible()
        self._check_due()

    def element_at(self, split: str, offset: int) -> str | None:
        """The event at this place, if one is known."""
        return self._at.get(split, {}).get(offset)

    # --- what was told ------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        for operation in self._operations:
            for element, due_ms in _written(operation):
                self._writers[element] = operation
                if due_ms is not None:
                    self._due_ms[element] = due_ms
        for operation in self._operations:
            action = operation.action
            if operation.outcome is not Outcome.OK:
                continue
            if isinstance(action, Publish):
                if len(action.places) != len(action.sent):
                    self._add("receipts", f"{len(action.sent)} were published, {len(action.places)} receipts came", operation)
                for sent, (split, offset) in zip(action.sent, action.places, strict=False):
                    if offset >= 0:
                        self._observe(Found(split, offset, sent.element, sent.key), operation)
            elif isinstance(action, Append):
                for kept in action.kept:
                    if kept.split is not None:
                        self._observe(Found(kept.split, kept.offset, kept.element, kept.key), operation)
            elif isinstance(action, Scan | Poll):
                for found in action.found:
                    self._observe(found, operation)
                    if operation.end_ns < self._shown_ns.get(found.element, ENDLESS):
                        self._shown_ns[found.element] = operation.end_ns
                    self._check_writer(
                        found.element, operation, self._writers.get(found.element), "published", "what was refused"
                    )

    def _observe(self, found: Found, operation: Operation) -> None:
        """Note where an event is. Whatever tells it, it is one place, and no other event's."""
        place = Place(found.split, found.offset)
        known = self.places.setdefault(found.element, place)
        if known != place:
            self._add("duplicate", f"{found.element} is at {known} and at {place}", operation)
        there = self._at[found.split].setdefault(found.offset, found.element)
        if there != found.element:
            self._add("offset twice", f"{there} and {found.element} are both at {place}", operation)
        if found.key:
            split = self._key_splits.setdefault(found.key, found.split)
            if split != found.split:
                self._add("key in two splits", f"{found.key} is in {split} and in {found.split}", operation)

    # --- in which order -----------------------------------------------------------------------------------------------

    def _check_order(self) -> None:
        for split, offsets in self.offsets.items():
            at = self._at[split]
            latest: Operation | None = None
            places: dict[int, int] = {}
            for offset in offsets:
                element = at[offset]
                writer = self._writers.get(element)
                if writer is None or element in self._due_ms or not _is_at_once(writer):
                    continue  # it comes when it is due, or a moment later
                if latest is not None and writer.end_ns < latest.start_ns:
                    told = f"{element} is at {split}:{offset}, behind what was published after it had been acknowledged"
                    self._add("reordered", told, writer, latest)
                if latest is None or writer.start_ns > latest.start_ns:
                    latest = writer
                index = _index(writer, element)
                if index < places.get(writer.number, -1):
                    self._add("reordered", f"{element} is at {split}:{offset}, out of the order of its batch", writer)
                places[writer.number] = index
            self._check_versions(split)

    def _check_versions(self, split: str) -> None:
        """The events of an aggregate are on its stream in the order of their versions."""
        reached: dict[str, int] = {}
        for offset in self.offsets[split]:
            kept = self._kept.get(self._at[split][offset])
            if kept is None:
                continue
            newest = reached.get(kept.key, 0)
            if kept.version <= newest:
                told = f"version {kept.version} of {kept.key} is at {split}:{offset}, behind version {newest}"
                self._add("reordered", told, self._writers[kept.element])
            reached[kept.key] = max(kept.version, newest)

    # --- what scans show ----------------------------------------------------------------------------------------------

    def _check_scans(self) -> None:
        for operation in self._operations:
            action = operation.action
            if not isinstance(action, Scan) or operation.outcome is not Outcome.OK:
                continue
            for split, offsets in _by_split(action.found).items():
                begin = action.begin.get(split, 0)
                if offsets != sorted(set(offsets)) or offsets[0] < begin:
                    self._add("scan order", f"{split} was read from {begin} on as {offsets[:20]}", operation)
                    continue
                known = self.offsets[split]
                there = known[bisect_left(known, begin) : bisect_left(known, offsets[-1] + 1)]
                if there != offsets:
                    missing = sorted(set(there).difference(offsets))
                    self._add("hole", f"{split} was read from {begin} to {offsets[-1]} without {missing[:10]}", operation)
                if self._is_dense and len(offsets) != offsets[-1] + 1 - begin:
                    self._add("gap", f"{split} was read from {begin} to {offsets[-1]}, with {len(offsets)} events", operation)

    # --- what must be seen --------------------------------------------------------------------------------------------

    def _visible_since(self) -> dict[int, int]:
        """Since when all events of an operation must be seen, by its number: since it was acknowledged, or one was read."""
        since = {
            operation.number: operation.end_ns
            for operation in self._operations
            if operation.outcome is Outcome.OK and _is_at_once(operation)
        }
        for element, shown_ns in self._shown_ns.items():
            writer = self._writers.get(element)
            if writer is not None and _is_at_once(writer):
                since[writer.number] = min(shown_ns, since.get(writer.number, ENDLESS))
        return since

    def _check_visible(self) -> None:
        visible = self._visible_since()
        due: list[tuple[int, str]] = []
        for element, writer in self._writers.items():
            if element in self._due_ms:
                if element in self._shown_ns:
                    due.append((self._shown_ns[element], element))
            elif writer.number in visible:
                due.append((visible[writer.number], element))
            elif element in self._shown_ns:
                due.append((self._shown_ns[element], element))
        due.sort()
        reached: dict[str, tuple[int, str]] = {}
        homeless: list[str] = []
        at = 0
        for operation in sorted(self._operations, key=lambda each: each.start_ns):
            action = operation.action
            if not isinstance(action, Scan) or operation.outcome is not Outcome.OK:
                continue
            while at < len(due) and due[at][0] < operation.start_ns:
                element = due[at][1]
                at += 1
                place = self.places.get(element)
                if place is None:
                    homeless.append(element)
                elif place.offset >= reached.get(place.split, (-1, ""))[0]:
                    reached[place.split] = place.offset, element
            ends = {split: offsets[-1] for split, offsets in _by_split(action.found).items()}
            for split, (offset, element) in reached.items():
                if _stream_of(split) == action.stream and offset > ends.get(split, action.begin.get(split, 0) - 1):
                    kind = "stale read" if element in self._shown_ns else "lost event"
                    told = f"{element} at {split}:{offset} was there before, and was not read"
                    self._add(kind, told, operation, self._writers[element])
        last = max((each.start_ns for each in self._operations if isinstance(each.action, Scan)), default=0)
        for element in homeless:
            writer = self._writers[element]
            if visible[writer.number] < last:
                self._add("torn publish", f"{element} is nowhere, and the others of its batch are there", writer)

    # --- what waits ---------------------------------------------------------------------------------------------------

    def _check_due(self) -> None:
        """What was published with a time to come is there once it has come, and not before, by any clock that there was."""
        clocks = [each for each in self._operations if isinstance(each.action, Fault) and each.action.what in (START, CLOCK)]
        scans = [each for each in self._operations if isinstance(each.action, Scan) and each.outcome is Outcome.OK]
        if not clocks or not scans:
            return
        base_ms = next((each.action.seconds * 1000 for each in clocks if each.action.what == START), 0.0)  # type: ignore[union-attr]
        jumps = [(each.start_ns, each.action.seconds * 1000) for each in clocks if each.action.what == CLOCK]  # type: ignore[union-attr]
        last_ms = max(each.start_ns for each in scans) / 1e6 + base_ms
        for element, due_ms in self._due_ms.items():
            writer = self._writers[element]
            shown_ns = self._shown_ns.get(element)
            if shown_ns is None:
                if writer.outcome is Outcome.OK and due_ms + _LATE_MS < last_ms:
                    self._add("lost event", f"{element} was due at {due_ms}, and is nowhere", writer)
                continue
            ahead_ms = max([0.0, *(ahead for at_ns, ahead in jumps if at_ns < shown_ns)])
            if shown_ns / 1e6 + base_ms + ahead_ms < due_ms - 1:
                self._add("early", f"{element} was due at {due_ms}, and was read before", writer)


def _written(operation: Operation) -> Iterator[tuple[str, int | None]]:
    """``(element, when it is due)`` of what an operation writes."""
    if isinstance(operation.action, Publish):
        yield from ((sent.element, sent.due_ms) for sent in operation.action.sent)
    elif isinstance(operation.action, Append):
        yield from ((element, None) for part in operation.action.parts for element in part.elements)


def _is_at_once(operation: Operation) -> bool:
    """Whether what it writes is in its stream when it is acknowledged, all of it. What is appended to aggregates comes a moment
    later where there is an outbox: then its receipts tell no place."""
    action = operation.action
    return isinstance(action, Publish) or (isinstance(action, Append) and any(kept.split is not None for kept in action.kept))


def _index(writer: Operation, element: str) -> int:
    return next(index for index, (each, _) in enumerate(_written(writer)) if each == element)


def _by_split(found: Iterable[Found]) -> dict[str, list[int]]:
    offsets: dict[str, list[int]] = defaultdict(list)
    for each in found:
        offsets[each.split].append(each.offset)
    return offsets


def _stream_of(split: str) -> str:
    """The id of the stream of a split, as its text has it."""
    return split.partition("/")[0]
