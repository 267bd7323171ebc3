"""Erasure: a subject's personal data is made unreadable, everywhere at once, by destroying the one key that reads it."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.erasure.certificates import (
    AUDIT_STREAM,
    EVENT_TYPE,
    ErasureCertificate,
    audit_event,
    key_hash,
    read,
    written,
)
from event_streaming_bus.errors import InvalidInputError, NotFoundError
from event_streaming_bus.models import DEFAULT_TENANT, rfc3339
from event_streaming_bus.registry.tokens import MARKER_BYTES
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.reading import batches_between, read_stream
from event_streaming_bus.store.storage import Storage, open_storage
from event_streaming_bus.store.subject_keys import Shredding, SubjectKey

_CERTIFICATE: Final = "ers_"
_MAX_REASON: Final = 1000


class SubjectNotKnownError(NotFoundError):
    """There is no personal data of the subject: no key was made for it, or none since it was last erased."""


class CertificateNotFoundError(NotFoundError):
    """The certificate does not exist. ``esb erasures list`` shows what there is."""


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with a certificate. ``kind``: ``hash`` or ``signature`` (it was changed), ``chain`` (one is missing, was put
    in or changed places), ``unreadable``, ``missing`` (the audit has lost it), ``key`` (a key that it says was destroyed is
    there: ``keys.db`` is older than the certificate)."""

    kind: str
    certificate_id: str
    message: str


class Verification(msgspec.Struct, frozen=True):
    """What came of looking at a tenant's certificates."""

    certificates: int
    problems: list[Problem]

    @property
    def is_intact(self) -> bool:
        return not self.problems


class SubjectReport(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of a subject. ``events``: how many events have tokens of its present key, by the names of their streams; None
    if they were not counted. ``certificate_ids``: of its erasures."""

    tenant_id: str
    subject_hash: str
    has_key: bool
    key_id: str | None = None
    epoch: int | None = None
    key_created_at: str | None = None
    events: dict[str, int] | None = None
    certificate_ids: list[str] = []


class ErasureService:
    """Erases subjects, and shows the certificates of that.

    Subjects are named as events name them: by what the schema's ``x-subject`` leads to, or else by ``aggregate_id`` or ``key``.
    """

    def __init__(self, storage: Storage | None = None) -> None:
        self._storage = storage or open_storage()
        self._keys = self._storage.subject_keys

    async def erase_subject(
        self,
        subject: str,
        tenant_id: str = DEFAULT_TENANT,
        reason: str = "",
        user_id: str | None = None,
        *,
        count_events: bool = False,
    ) -> ErasureCertificate:
        """Make all personal data of the subject unreadable for good, and write the certificate of that into the audit.

        ``reason`` must be given, and is kept for ever: it should name nobody. ``count_events`` counts the events concerned
        beforehand, which reads every stream of the tenant. Events that come later begin anew, under another key. Raises
        ``SubjectNotKnownError``.
        """
        return await asyncio.to_thread(self.erase, subject, tenant_id, reason, user_id, count_events=count_events)

    def erase(
        self,
        subject: str,
        tenant_id: str = DEFAULT_TENANT,
        reason: str = "",
        user_id: str | None = None,
        *,
        count_events: bool = False,
    ) -> ErasureCertificate:
        """As ``erase_subject``, blocking."""
        if not subject:
            raise InvalidInputError("subject: expected the name of a subject, got an empty one")
        if not reason.strip() or len(reason) > _MAX_REASON:
            raise InvalidInputError(f"reason: expected 1 to {_MAX_REASON:,} characters, got {len(reason.strip()):,}")
        self._write_audit(tenant_id)
        key, shredded = self._keys.of_subject(tenant_id, subject)
        if key is None:
            earlier = [each.certificate_id for each in shredded]
            told = f" It was erased before: {', '.join(earlier[-5:])}." if earlier else ""
            raise SubjectNotKnownError(
                f"There is no personal data of this subject in tenant {tenant_id}.{told}", certificate_ids=earlier
            )
        events = sum(self._count([key], tenant_id).values()) if count_events else None

        def certify(shredding: Shredding) -> tuple[str, bytes]:
            previous = None if shredding.previous is None else read(shredding.previous)
            certificate = ErasureCertificate(
                certificate_id=ids.new_id(_CERTIFICATE),
                number=1 if previous is None else previous.number + 1,
                tenant_id=tenant_id,
                subject_hash=key.subject_hash,
                erased_at_ms=time.time_ns() // 1_000_000,
                erased_by=user_id,
                reason=reason,
                key_hashes=[key_hash(key_id) for key_id in shredding.key_ids],
                events=events,
                previous_hash=None if previous is None else previous.hash,
            ).signed(self._keys)
            return certificate.certificate_id, written(certificate)

        try:
            made = self._keys.shred(tenant_id, subject, certify)
        except NotFoundError:  # another process was quicker
            raise SubjectNotKnownError from None
        self._write_audit(tenant_id, is_scrubbed=True)
        return read(made)

    # --- certificates -------------------------------------------------------------------------------------------------

    async def list_certificates(self, tenant_id: str = DEFAULT_TENANT) -> list[ErasureCertificate]:
        """The tenant's certificates, oldest first, as the audit has them."""
        return await asyncio.to_thread(self.certificates, tenant_id)

    def certificates(self, tenant_id: str = DEFAULT_TENANT) -> list[ErasureCertificate]:
        """As ``list_certificates``, blocking."""
        self._write_audit(tenant_id)
        return self._audited(tenant_id)[0]

    async def get_certificate(self, certificate_id: str, tenant_id: str = DEFAULT_TENANT) -> ErasureCertificate:
        """One certificate. Raises ``CertificateNotFoundError``."""
        for certificate in await self.list_certificates(tenant_id):
            if certificate.certificate_id == certificate_id:
                return certificate
        raise CertificateNotFoundError(f"There is no certificate '{certificate_id}'.", certificate_id=certificate_id)

    async def verify_certificates(self, tenant_id: str = DEFAULT_TENANT) -> Verification:
        """Whether the tenant's certificates are all there, as they were made, and true: no key that they speak of is there."""
        return await asyncio.to_thread(self.verify, tenant_id)

    def verify(self, tenant_id: str = DEFAULT_TENANT) -> Verification:
        """As ``verify_certificates``, blocking."""
        self._write_audit(tenant_id)
        found, unreadable = self._audited(tenant_id)
        problems = [Problem("unreadable", event_id, "the audit's event is no certificate") for event_id in unreadable]
        previous: ErasureCertificate | None = None
        for each in found:
            if each.computed_hash() != each.hash:
                problems.append(Problem("hash", each.certificate_id, "its contents are not those that its hash was made of"))
            elif self._keys.signature(each.hash.encode()) != each.signature:
                problems.append(Problem("signature", each.certificate_id, "it was not made with this folder's master key"))
            if each.number != (previous.number if previous else 0) + 1:
                problems.append(Problem("chain", each.certificate_id, f"number {each.number} does not follow the one before it"))
            elif each.previous_hash != (previous.hash if previous else None):
                problems.append(Problem("chain", each.certificate_id, "the certificate before it is another one"))
            previous = each
        problems += [
            Problem("key", each.certificate_id, "a key that it says was destroyed is there; `esb erasures reapply` destroys it")
            for each in found
            if self._is_back(each)
        ]
        in_audit = {each.certificate_id for each in found}
        for data in self._keys.certificates(tenant_id):
            known = read(data)
            if known.certificate_id not in in_audit:
                problems.append(Problem("missing", known.certificate_id, "the audit does not have it any more"))
        return Verification(len(found), problems)

    def reapply(self, tenant_id: str = DEFAULT_TENANT) -> list[str]:
        """Do again what the audit's certificates say was done, after an older ``keys.db`` was restored; returns the ids of the
        certificates whose keys were there."""
        self._write_audit(tenant_id)
        known = {read(data).certificate_id for data in self._keys.certificates(tenant_id)}
        done = []
        for each in self._audited(tenant_id)[0]:
            if each.certificate_id not in known or self._is_back(each):
                shred = self._keys.shred_again
                if shred(tenant_id, each.subject_hash, each.certificate_id, written(each), each.is_about):
                    done.append(each.certificate_id)
        return done

    def _is_back(self, certificate: ErasureCertificate) -> bool:
        key = self._keys.of_hash(certificate.tenant_id, certificate.subject_hash)
        return key is not None and certificate.is_about(key.key_id)

    def _audited(self, tenant_id: str) -> tuple[list[ErasureCertificate], list[str]]:
        """``(the certificates in the audit by number, the ids of the audit's events that should be some and are none)``."""
        stream = next((s for s in self._storage.log.list_streams(tenant_id, internal=True) if s.name == AUDIT_STREAM), None)
        found: list[ErasureCertificate] = []
        unreadable: list[str] = []
        for event in read_stream(self._storage.log, stream) if stream is not None else ():
            if event.event_type == EVENT_TYPE:
                try:
                    found.append(read(event.data))
                except msgspec.DecodeError:
                    unreadable.append(event.event_id)
        return sorted(found, key=lambda certificate: certificate.number), unreadable

    def _write_audit(self, tenant_id: str, *, is_scrubbed: bool = False) -> None:
        """Write the certificates into the audit that are not there yet: those just made, or of a process that was killed, or
        could not leave the files as they should be. What they say is made true first."""
        waiting = self._keys.certificates(tenant_id, unaudited=True)
        if waiting and not is_scrubbed:
            self._keys.scrub(anew=True)
        for data in waiting:
            certificate = read(data)
            audit = self._storage.internal_stream(tenant_id, AUDIT_STREAM)
            self._storage.log.append([Append(audit.stream_id, [audit_event(certificate)])])
            with closing(AuditService(self._storage)) as chain:
                chain.record(
                    "erasure.certify",
                    tenant_id=tenant_id,
                    actor=certificate.erased_by or "unknown",
                    target=certificate.certificate_id,
                    after=certificate,
                )
            self._keys.audited(certificate.certificate_id)

    # --- subjects -----------------------------------------------------------------------------------------------------

    async def subject_report(self, subject: str, tenant_id: str = DEFAULT_TENANT, *, count_events: bool = False) -> SubjectReport:
        """What there is of a subject: its key, its erasures and, if they are to be counted, its events."""
        return await asyncio.to_thread(self.report, subject, tenant_id, count_events=count_events)

    def report(self, subject: str, tenant_id: str = DEFAULT_TENANT, *, count_events: bool = False) -> SubjectReport:
        """As ``subject_report``, blocking."""
        key, shredded = self._keys.of_subject(tenant_id, subject)
        subject_hash = self._keys.subject_hash(tenant_id, subject) if self._keys.is_used else ""
        earlier = [each.certificate_id for each in shredded]
        if key is None:
            return SubjectReport(tenant_id=tenant_id, subject_hash=subject_hash, has_key=False, certificate_ids=earlier)
        return SubjectReport(
            tenant_id=tenant_id,
            subject_hash=subject_hash,
            has_key=True,
            key_id=key.key_id,
            epoch=key.epoch,
            key_created_at=rfc3339(key.created_at_ms),
            events=self._count([key], tenant_id) if count_events else None,
            certificate_ids=earlier,
        )

    def _count(self, keys: Sequence[SubjectKey], tenant_id: str) -> dict[str, int]:
        """How many events of each stream have tokens of one of the keys; streams without any are left out."""
        log, counts = self._storage.log, dict[str, int]()
        key_ids = [key.key_id.encode() for key in keys]
        for stream in log.list_streams(tenant_id, internal=True):
            begins, ends = log.begin_offsets(stream.stream_id), log.end_offsets(stream.stream_id)
            for split in stream.splits():
                for batch in batches_between(log, split, begins.get(split, 0), ends[split], skip_dropped=True):
                    for data in batch.payloads():
                        if MARKER_BYTES in data and any(key_id in data for key_id in key_ids):
                            counts[stream.name] = counts.get(stream.name, 0) + 1
        return counts
