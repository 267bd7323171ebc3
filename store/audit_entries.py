"""What the audit keeps: actions, as entries of one chain, and checkpoints that sign how far the chain has come."""

import enum
import hashlib
from typing import Final

import msgspec

FORMAT_VERSION: Final = 1
BLOCK_ENTRIES: Final = 64
"""Of each block of so many entries, one checkpoint is kept: the newest."""


class Outcome(enum.Enum):
    """How an attempt ended. ``REFUSED``: nothing was done, on purpose. ``FAILED``: something went wrong below; what was done of
    it is not known."""

    DONE = "DONE"
    REFUSED = "REFUSED"
    FAILED = "FAILED"


class AuditAction(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done, or attempted.

    ``actor`` is who did it: a principal's id, ``cli:NAME`` for a user of this machine, ``anonymous`` where nobody has to say.
    ``token_id`` is which of the actor's tokens was shown, ``address`` where the request came from. ``action`` is a noun and a
    verb, as in ``stream.create``; ``target`` what it was done to. ``reason`` is why it was refused or failed. ``before`` and
    ``after`` are JSON. ``repeated``: how many attempts this stands for.
    """

    action: str
    tenant_id: str
    actor: str
    at_ms: int
    target: str = ""
    outcome: Outcome = Outcome.DONE
    reason: str | None = None
    token_id: str | None = None
    address: str | None = None
    before: str | None = None
    after: str | None = None
    request_id: str | None = None
    repeated: int = 1


class AuditEntry(AuditAction, frozen=True, kw_only=True):
    """An action in the chain. ``seq`` counts from 1 without gaps. ``previous_hash`` is the hash of the entry before it; that of
    the first one is random, and tells chains apart. ``hash`` is the SHA-256, in hexadecimal, of all other fields: as JSON
    without spaces, in the order of names, in UTF-8."""

    seq: int
    previous_hash: str
    hash: str = ""

    def computed_hash(self) -> str:
        """The hash that it should have."""
        fields = {name: value for name, value in msgspec.structs.asdict(self).items() if name != "hash"}
        return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


class SealedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The place in the chain of an entry that is not shown: one of another tenant."""

    seq: int
    previous_hash: str
    hash: str


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Says, signed, that entry ``seq`` had this ``hash``, and so what all entries up to it were.

    ``key_id`` names the Ed25519 key; ``signature``, in hexadecimal, is that of all other fields, as JSON without spaces in the
    order of names.
    """

    seq: int
    at_ms: int
    hash: str
    key_id: str
    format_version: int = FORMAT_VERSION
    signature: str = ""

    def signed_bytes(self) -> bytes:
        """What the signature is of."""
        fields = {name: value for name, value in msgspec.structs.asdict(self).items() if name != "signature"}
        return msgspec.json.encode(fields, order="sorted")

    @property
    def block(self) -> int:
        """The block of entries that it stands at the end of, so far."""
        return block_of(self.seq)


def block_of(seq: int) -> int:
    """The block that an entry is in, from 0."""
    return (seq - 1) // BLOCK_ENTRIES
