"""Verifying the audit: whether its entries are those that were written, all of them, in their order.

What can be found, and what cannot, without the signing key:

* An entry that was changed, by its hash. Whoever computes the hashes anew, of it and of all that follow, is found by the next
  checkpoint, which names the hash that it was signed with; there is one after the last entry.
* An entry that was taken away, put in, or moved, by the numbers and the hashes that each entry has of the one before it.
* The end, if it was cut off behind a checkpoint that is still there. If the checkpoints were cut off with it, the rest is a chain
  that was once whole. Only somebody who kept a later checkpoint, or an export, can tell: that is what ``known`` is for.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from event_streaming_bus.store.audit import UnreadableEntry
from event_streaming_bus.store.audit_entries import BLOCK_ENTRIES, AuditEntry, Checkpoint, SealedEntry
from event_streaming_bus.store.audit_key import PublicKey

MAX_PROBLEMS: Final = 100
_MAX_MOVED: Final = 200

Link: TypeAlias = AuditEntry | SealedEntry
Read: TypeAlias = Link | UnreadableEntry


class AuditProblem(msgspec.Struct, frozen=True):
    """What is wrong, and from which entry on.

    ``kind``: ``changed`` (the entry is not the one that its hash was made of), ``reordered`` (it was written as another number),
    ``missing`` (entries were taken away), ``inserted`` (it is not part of the chain), ``link`` (the entry before it is another
    one), ``checkpoint`` (entries up to it are not those that were signed), ``truncated`` (the end was cut off), ``signature`` (a
    checkpoint was changed, or made without the key), ``key`` (it was signed with another key), ``unsigned`` (no checkpoint
    follows).
    """

    kind: str
    seq: int
    message: str


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of verifying. ``entries`` counts those that were read, from ``first_seq`` to ``last_seq``; ``sealed`` those of
    them whose contents were not shown. ``signed_seq`` is the last entry that a checkpoint with a good signature vouches for.
    ``is_signature_checked`` is false if there was no public key to check with. ``problems`` has the first ``MAX_PROBLEMS``,
    ``problem_count`` says how many there are."""

    entries: int
    sealed: int
    first_seq: int | None
    last_seq: int | None
    last_hash: str | None
    checkpoints: int
    signed_seq: int | None
    is_signature_checked: bool
    key_ids: list[str]
    problem_count: int
    problems: list[AuditProblem]

    @property
    def is_intact(self) -> bool:
        return not self.problem_count


class _Problems:
    def __init__(self) -> None:
        self.count = 0
        self.first: list[AuditProblem] = []

    def add(self, kind: str, seq: int, message: str) -> None:
        self.count += 1
        if len(self.first) < MAX_PROBLEMS:
            self.first.append(AuditProblem(kind, seq, message))


def verify(
    entries: Iterable[Read],
    checkpoints: Sequence[Checkpoint],
    keys: Mapping[str, PublicKey],
    *,
    known: Sequence[Checkpoint] = (),
    first_seq: int = 1,
) -> AuditReport:
    """Verify entries, oldest first, with the checkpoints there are and the public keys by their ids.

    Without keys, signatures are not checked. ``known`` are checkpoints that were kept elsewhere. ``first_seq`` is where entries
    must begin.
    """
    problems = _Problems()
    claims: dict[int, list[Checkpoint]] = {}
    for checkpoint in [*checkpoints, *known]:
        if _is_good(checkpoint, keys, problems):
            claims.setdefault(checkpoint.seq, []).append(checkpoint)
    walk = _Walk(claims, problems, first_seq)
    for entry in entries:
        walk.take(entry)
    walk.end()
    _check_blocks(checkpoints, walk, problems, first_seq)
    return AuditReport(
        entries=walk.count,
        sealed=walk.sealed,
        first_seq=walk.first,
        last_seq=walk.last.seq if walk.last else None,
        last_hash=walk.last.hash if walk.last else None,
        checkpoints=len(checkpoints),
        signed_seq=walk.signed_seq if keys else None,
        is_signature_checked=bool(keys),
        key_ids=sorted({checkpoint.key_id for checkpoint in checkpoints}),
        problem_count=problems.count,
        problems=sorted(problems.first, key=lambda problem: problem.seq),
    )


def _is_good(checkpoint: Checkpoint, keys: Mapping[str, PublicKey], problems: _Problems) -> bool:
    if not keys:
        return True
    key = keys.get(checkpoint.key_id)
    if key is None:
        told = f"the checkpoint was signed with the key {checkpoint.key_id}, which is not the one to verify with"
        problems.add("key", checkpoint.seq, told)
        return False
    if not key.has_signed(checkpoint):
        problems.add("signature", checkpoint.seq, "the checkpoint was changed, or made without the key")
        return False
    return True


class _Walk:
    """Goes along the chain."""

    def __init__(self, claims: dict[int, list[Checkpoint]], problems: _Problems, first_seq: int) -> None:
        self.count = self.sealed = 0
        self.first: int | None = None
        self.last: Link | None = None
        self.signed_seq: int | None = None
        self._claims = claims
        self._problems = problems
        self._expected = first_seq
        self._is_linked = False  # whether ``last`` is the entry before the next one, and unchanged
        self._good_seq = first_seq - 1
        self._changed: list[AuditEntry] = []

    def take(self, entry: Read) -> None:
        self.count += 1
        if self.first is None:
            self.first = entry.seq
        if entry.seq < self._expected:
            self._problems.add("inserted", entry.seq, "there is no such number in the chain")
            return
        if entry.seq > self._expected:
            self._problems.add("missing", self._expected, f"{_range(self._expected, entry.seq - 1)} missing")
            self._is_linked = False
        self._expected = entry.seq + 1
        if isinstance(entry, UnreadableEntry):
            self._problems.add("changed", entry.seq, f"it is no entry: {entry.message}")
            self._is_linked = False
            return
        is_same = isinstance(entry, SealedEntry) or entry.computed_hash() == entry.hash
        if isinstance(entry, SealedEntry):
            self.sealed += 1
        elif not is_same:
            self._note_changed(entry)
        if is_same and self._is_linked and self.last is not None and entry.previous_hash != self.last.hash:
            self._problems.add("link", entry.seq, "the entry before it is not the one that it was written after")
        self.last, self._is_linked = entry, is_same
        for checkpoint in self._claims.pop(entry.seq, ()):
            if checkpoint.hash == entry.hash and is_same:
                self.signed_seq = self._good_seq = entry.seq
            elif is_same:
                told = f"{_range(self._good_seq + 1, entry.seq, 'is', 'are')} not what was signed: changed and hashed anew"
                self._problems.add("checkpoint", entry.seq, told)

    def _note_changed(self, entry: AuditEntry) -> None:
        if len(self._changed) < _MAX_MOVED:
            self._changed.append(entry)
        else:
            self._problems.add("changed", entry.seq, "its contents are not those that its hash was made of")

    def end(self) -> None:
        """Tell what can only be told when everything was seen."""
        numbers = [entry.seq for entry in self._changed]
        for entry in self._changed:
            moved = (seq for seq in numbers if msgspec.structs.replace(entry, seq=seq).computed_hash() == entry.hash)
            written_as = next(moved, None)
            if written_as is not None:
                self._problems.add("reordered", entry.seq, f"it was written as entry {written_as:,}")
            else:
                self._problems.add("changed", entry.seq, "its contents are not those that its hash was made of")
        beyond = [seq for seq in self._claims if seq >= self._expected]
        if beyond:
            told = f"{_range(self._expected, max(beyond))} missing at the end: signed, and cut off"
            self._problems.add("truncated", self._expected, told)


def _check_blocks(checkpoints: Sequence[Checkpoint], walk: _Walk, problems: _Problems, first_seq: int) -> None:
    """Every block has its checkpoint, and the last entry is one that a checkpoint is of."""
    if walk.last is None:
        return
    signed = {checkpoint.seq for checkpoint in checkpoints}
    ends = range(-(-first_seq // BLOCK_ENTRIES) * BLOCK_ENTRIES, walk.last.seq, BLOCK_ENTRIES)
    for seq in (seq for seq in ends if seq not in signed):
        problems.add("unsigned", seq, f"the checkpoint of entry {seq:,} is missing")
    if walk.last.seq not in signed and not any(seq > walk.last.seq for seq in signed):
        after = max((seq for seq in signed if seq < walk.last.seq), default=first_seq - 1)
        told = f"{_range(after + 1, walk.last.seq, 'is', 'are')} not signed: a checkpoint was removed, or entries put in"
        problems.add("unsigned", after + 1, told)


def _range(first: int, last: int, one: str = "is", many: str = "are") -> str:
    return f"entry {first:,} {one}" if first == last else f"entries {first:,} to {last:,} {many}"
