"""The audit: who did what, to what, when, from where, and how it ended."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from event_streaming_bus.audit import export, verification
from event_streaming_bus.audit.values import kept, text
from event_streaming_bus.audit.verification import AuditReport
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import rfc3339
from event_streaming_bus.store.audit import FILE, MAX_PAGE_ENTRIES, AuditFilter, AuditStore
from event_streaming_bus.store.audit_entries import AuditAction, AuditEntry, Checkpoint, Outcome
from event_streaming_bus.store.audit_key import PublicKey, find_signing_key
from event_streaming_bus.store.storage import Storage, open_storage

DEFAULT_PAGE: Final = 100


class AuditPage(msgspec.Struct, frozen=True):
    """Entries, newest first, and the ``cursor`` of the page after this one, if there is one."""

    entries: list[AuditEntry]
    next_cursor: int | None


class AuditService:
    """Writes the audit of a data folder and reads it. Safe to use from any thread and any number of processes."""

    def __init__(self, storage: Storage | None = None) -> None:
        storage = storage or open_storage()
        self._store = AuditStore(storage.folder, storage.place(FILE))

    def close(self) -> None:
        """Let go of the file. Closing twice is harmless."""
        self._store.close()

    # --- writing ------------------------------------------------------------------------------------------------------

    def record(
        self,
        action: str,
        *,
        tenant_id: str,
        actor: str,
        target: str = "",
        outcome: Outcome = Outcome.DONE,
        reason: str | None = None,
        token_id: str | None = None,
        address: str | None = None,
        before: Any = None,
        after: Any = None,
        request_id: str | None = None,
        repeated: int = 1,
        at_ms: int | None = None,
    ) -> AuditEntry:
        """Write what was done or attempted; it is signed and on disk when this returns.

        ``before`` and ``after`` are anything that can be JSON; secrets in them are hidden, and of what is large only its size and
        hash are kept. Blocks; ``note`` does not. Raises ``StorageError`` if it cannot be written.
        """
        written = AuditAction(
            action=text(action),
            tenant_id=text(tenant_id),
            actor=text(actor),
            at_ms=time.time_ns() // 1_000_000 if at_ms is None else at_ms,
            target=text(target),
            outcome=outcome,
            reason=None if reason is None else text(reason),
            token_id=None if token_id is None else text(token_id),
            address=None if address is None else text(address),
            before=kept(before),
            after=kept(after),
            request_id=None if request_id is None else text(request_id),
            repeated=repeated,
        )
        return self._store.append([written])[0]

    async def note(self, action: str, **what: Any) -> AuditEntry:
        """As ``record``, for callers on an event loop."""
        return await asyncio.to_thread(self.record, action, **what)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def list_entries(self, wanted: AuditFilter, *, limit: int = DEFAULT_PAGE, cursor: int | None = None) -> AuditPage:
        """A page of entries, newest first; with the ``next_cursor`` of a page, the one after it."""
        return await asyncio.to_thread(self.page, wanted, limit=limit, cursor=cursor)

    def page(self, wanted: AuditFilter, *, limit: int = DEFAULT_PAGE, cursor: int | None = None) -> AuditPage:
        """As ``list_entries``, blocking."""
        if not 1 <= limit <= MAX_PAGE_ENTRIES:
            raise InvalidInputError(f"limit: expected 1 to {MAX_PAGE_ENTRIES:,}, got {limit:,}")
        found = self._store.page(wanted, limit=limit + 1, cursor=cursor)
        return AuditPage(found[:limit], found[limit - 1].seq if len(found) > limit else None)

    def verify(self, public_key: PublicKey | None = None, known: Sequence[Checkpoint] = ()) -> AuditReport:
        """Whether all entries are there as they were written, in their order; ``verification`` says what can be found.

        The checkpoints must be signed with ``public_key``, by default that of the folder's own key. ``known`` are checkpoints
        that were kept elsewhere, which find an end that was cut off. Blocks for as long as reading everything takes.
        """
        key = public_key or self.public_key()
        with self._store.chain() as (checkpoints, entries):
            return verification.verify(entries, checkpoints, _by_id(key), known=known)

    def export(self, *, tenant_id: str | None = None, first_seq: int = 1) -> Iterator[bytes]:
        """All entries as lines of JSON that can be verified elsewhere; of other tenants than ``tenant_id``, if one is given, only
        their places in the chain."""
        with self._store.chain() as (checkpoints, entries):
            yield from export.lines(entries, checkpoints, self.public_key(), tenant_id=tenant_id, first_seq=first_seq)

    def last_checkpoint(self) -> Checkpoint | None:
        """What is to be kept elsewhere, so that an end that is cut off later is found."""
        with self._store.chain() as (checkpoints, _):
            return checkpoints[-1] if checkpoints else None

    def public_key(self) -> PublicKey | None:
        """What the folder's checkpoints are verified with; None if there is no key yet."""
        key = find_signing_key(self._store.folder, make=False)
        return None if key is None else key.public


def verify_export(exported: export.Exported, public_key: PublicKey | None, known: Sequence[Checkpoint] = ()) -> AuditReport:
    """Verify an export. Without a public key, signatures are not checked: one in the file itself would prove nothing."""
    first_seq = exported.header.first_seq
    return verification.verify(exported.entries, exported.checkpoints, _by_id(public_key), known=known, first_seq=first_seq)


def entry_data(entry: AuditEntry) -> dict[str, Any]:
    """An entry as answers show it: times as text, and what was before and after as data."""
    told: dict[str, Any] = msgspec.to_builtins(entry) | {"at": rfc3339(entry.at_ms)}
    for name in ("before", "after"):
        if told[name] is not None:
            with suppress(msgspec.DecodeError):  # somebody changed it; as it is, it is still worth showing
                told[name] = msgspec.json.decode(told[name])
    return told


def report_data(report: AuditReport) -> dict[str, Any]:
    """A report as answers show it."""
    told: dict[str, Any] = msgspec.to_builtins(report)
    return {"is_intact": report.is_intact} | told


def _by_id(key: PublicKey | None) -> Mapping[str, PublicKey]:
    return {} if key is None else {key.key_id: key}
