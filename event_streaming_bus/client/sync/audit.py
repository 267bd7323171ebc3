# Made by `python -m event_streaming_bus.client.twin` of client/audit.py; change that one, and make this one anew.
"""The audit of a server."""

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import msgspec

from event_streaming_bus.audit.service import DEFAULT_PAGE, AuditPage
from event_streaming_bus.audit.verification import AuditReport
from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.requests import path_of
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.store.audit import AuditFilter
from event_streaming_bus.store.audit_entries import AuditEntry, Checkpoint, Outcome
from event_streaming_bus.store.audit_key import PublicKey

_READING_S = 600.0


class AuditService(RemoteService):
    """Reads the audit of a server. What is done by requests is written there by the server."""

    def list_entries(self, wanted: AuditFilter, *, limit: int = DEFAULT_PAGE, cursor: int | None = None) -> AuditPage:
        """A page of entries, newest first; with the ``next_cursor`` of a page, the one after it. Of all tenants if the filter
        names none."""
        path = path_of(
            "audit",
            action=wanted.action,
            actor=wanted.actor,
            target=wanted.target,
            outcome=None if wanted.outcome is None else wanted.outcome.value,
            since=wanted.since_ms,
            until=wanted.until_ms,
            all_tenants=wanted.tenant_id is None,
            limit=limit,
            cursor=cursor,
        )
        told = self._asked(Data, "GET", path, wanted.tenant_id)
        return AuditPage([_entry(each) for each in told["entries"]], told["next_cursor"])

    def page(self, wanted: AuditFilter, *, limit: int = DEFAULT_PAGE, cursor: int | None = None) -> AuditPage:
        """As ``list_entries``, blocking."""
        return self._connection.now(self.list_entries(wanted, limit=limit, cursor=cursor))

    def verify(self, public_key: PublicKey | None = None, known: Sequence[Checkpoint] = ()) -> AuditReport:
        """Whether all entries are there as they were written, as the server finds. Blocks. Whoever does not trust the server with
        that verifies an ``export`` with a key and checkpoints of their own."""
        if public_key is not None or known:
            raise not_remote("verifying with a key or checkpoints of your own", "`esb audit verify FILE` does so with an export")
        work = self._asked(AuditReport, "POST", path_of("audit", "verify"), None, is_repeatable=True, more_s=_READING_S)
        report: AuditReport = self._connection.now(work)
        return report

    def export(self, *, tenant_id: str | None = None, first_seq: int = 1) -> Iterator[bytes]:
        """All entries as lines of JSON that can be verified elsewhere; of other tenants than ``tenant_id``, if one is given, only
        their places in the chain. All of it is in memory."""
        path = path_of("audit", "export", all_tenants=tenant_id is None, first_seq=first_seq)
        content: bytes = self._connection.now(self._content("GET", path, tenant_id, more_s=_READING_S))
        yield from content.splitlines(keepends=True)

    def last_checkpoint(self) -> Checkpoint | None:
        """What is to be kept elsewhere, so that an end that is cut off later is found."""
        told: dict[str, Any] = self._connection.now(self._asked(Data, "GET", path_of("audit", "key"), None))
        return None if told["checkpoint"] is None else msgspec.convert(told["checkpoint"], Checkpoint)

    def public_key(self) -> PublicKey | None:
        """What the server's checkpoints are verified with; None if there is no key yet."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        told: dict[str, Any] = self._connection.now(self._asked(Data, "GET", path_of("audit", "key"), None))
        if told["public_key"] is None:
            return None
        key = load_pem_public_key(told["public_key"].encode())
        assert isinstance(key, Ed25519PublicKey)  # noqa: S101 - there is no other kind
        return PublicKey(key)

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
    ) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("writing into the audit", "the server writes what its requests do")

    def note(self, action: str, **what: Any) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("writing into the audit", "the server writes what its requests do")


def _entry(told: Data) -> AuditEntry:
    """An entry. What was before and after is JSON again, written anew: its hash can only be computed of an export."""
    fields = {name: told[name] for name in AuditEntry.__struct_fields__}
    for name in ("before", "after"):
        if fields[name] is not None:
            fields[name] = msgspec.json.encode(fields[name]).decode()
    return msgspec.convert(fields, AuditEntry)
