"""The audit as lines of JSON: complete enough to be verified by whoever has the public key, with this bus or without.

The first line is the header, ``{"kind": "audit", ...}``, with the number that entries begin with and the public key, which the
reader should have from elsewhere. Then come entries, in their order, with all their fields, each checkpoint after its entry.
Entries of other tenants, if they are left out, are ``sealed``: their place in the chain without their contents.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.store.audit import UnreadableEntry
from event_streaming_bus.store.audit_entries import FORMAT_VERSION, AuditEntry, Checkpoint, SealedEntry
from event_streaming_bus.store.audit_key import PublicKey

_KINDS: Final[dict[str, type[Any]]] = {"entry": AuditEntry, "sealed": SealedEntry, "checkpoint": Checkpoint}


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. ``tenant_id`` None: all tenants."""

    kind: str = "audit"
    format_version: int = FORMAT_VERSION
    first_seq: int
    tenant_id: str | None
    public_key: str | None


class Exported(NamedTuple):
    """An export that was read."""

    header: Header
    entries: list[AuditEntry | SealedEntry | UnreadableEntry]
    checkpoints: list[Checkpoint]


def lines(
    entries: Iterable[AuditEntry | UnreadableEntry],
    checkpoints: Iterable[Checkpoint],
    key: PublicKey | None,
    *,
    tenant_id: str | None = None,
    first_seq: int = 1,
) -> Iterator[bytes]:
    """The lines of an export, from entry ``first_seq`` on, each with its line end. Raises ``InvalidInputError`` for an entry that
    is damaged: what is exported must be what was written."""
    header = Header(first_seq=first_seq, tenant_id=tenant_id, public_key=key.pem() if key else None)
    yield msgspec.json.encode(header) + b"\n"
    signed: dict[int, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        signed.setdefault(checkpoint.seq, []).append(checkpoint)
    for entry in entries:
        if isinstance(entry, UnreadableEntry):
            raise InvalidInputError(f"entry {entry.seq} of the audit is damaged; `esb audit verify` tells more")
        if entry.seq < first_seq:
            continue
        if tenant_id is None or entry.tenant_id == tenant_id:
            yield _line("entry", entry)
        else:
            yield _line("sealed", SealedEntry(seq=entry.seq, previous_hash=entry.previous_hash, hash=entry.hash))
        for checkpoint in signed.get(entry.seq, ()):
            yield _line("checkpoint", checkpoint)


def read(source: Iterable[bytes]) -> Exported:
    """What an export has. A line that is none of it is an entry that cannot be read. Raises ``InvalidInputError`` for something
    that is no export."""
    header: Header | None = None
    entries: list[AuditEntry | SealedEntry | UnreadableEntry] = []
    checkpoints: list[Checkpoint] = []
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        if header is None:
            header = _header(line)
            continue
        try:
            fields = msgspec.json.decode(line, type=dict[str, Any])
            found = msgspec.convert(fields, _KINDS[fields.pop("kind", "")])
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            after = entries[-1].seq if entries else header.first_seq - 1
            entries.append(UnreadableEntry(after + 1, f"line {number}: {error}"))
            continue
        if isinstance(found, Checkpoint):
            checkpoints.append(found)
        else:
            entries.append(found)
    if header is None:
        raise InvalidInputError("the file is empty; expected what `esb audit export` writes")
    return Exported(header, entries, checkpoints)


def _header(line: bytes) -> Header:
    try:
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        header = None
    if header is None or header.kind != "audit" or header.format_version != FORMAT_VERSION:
        raise InvalidInputError("the first line is no header of an audit; expected what `esb audit export` writes")
    return header


def _line(kind: str, record: AuditEntry | SealedEntry | Checkpoint) -> bytes:
    return msgspec.json.encode({"kind": kind} | msgspec.structs.asdict(record)) + b"\n"
