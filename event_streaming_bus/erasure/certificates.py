"""Certificates of erasure: what says that the key of a subject was destroyed, when, by whom and why. Those of a tenant are one
chain: each has the hash of the one before it, so that none can be changed or left out unseen."""

import hashlib
from typing import Final

import msgspec

from event_streaming_bus.models import Event, rfc3339
from event_streaming_bus.store.subject_keys import SubjectKeys

AUDIT_STREAM: Final = "_audit"
EVENT_TYPE: Final = "erasure.certificate"
FORMAT_VERSION: Final = 1


class ErasureCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate. It names nobody: ``subject_hash`` stands for the subject, and can only be compared with a name by those who
    have the folder's master key. ``number`` counts the tenant's certificates from 1. ``key_hashes`` are the SHA-256 of the ids of
    the keys destroyed, as tokens have them. ``events`` is how many events had personal data of the subject, if they were counted.
    ``hash`` is the SHA-256 of all fields but the last two, as JSON without spaces in the order of names; ``signature`` is made of
    it with the master key."""

    certificate_id: str
    number: int
    tenant_id: str
    subject_hash: str
    erased_at_ms: int
    erased_by: str | None
    reason: str
    key_hashes: list[str]
    events: int | None = None
    format_version: int = FORMAT_VERSION
    previous_hash: str | None = None
    hash: str = ""
    signature: str = ""

    def computed_hash(self) -> str:
        """The hash that it should have."""
        fields = {name: value for name, value in msgspec.structs.asdict(self).items() if name not in ("hash", "signature")}
        return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()

    def signed(self, keys: SubjectKeys) -> "ErasureCertificate":
        """The certificate with its hash and signature."""
        own = self.computed_hash()
        return msgspec.structs.replace(self, hash=own, signature=keys.signature(own.encode()))

    def is_about(self, key_id: str) -> bool:
        """Whether it says that the key with this id was destroyed."""
        return key_hash(key_id) in self.key_hashes


def key_hash(key_id: str) -> str:
    """What stands for a key in a certificate."""
    return hashlib.sha256(key_id.encode()).hexdigest()


def written(certificate: ErasureCertificate) -> bytes:
    """The certificate as JSON."""
    return msgspec.json.encode(certificate, order="sorted")


def read(data: bytes) -> ErasureCertificate:
    """The certificate that was written so. Raises ``msgspec.DecodeError``."""
    return msgspec.json.decode(data, type=ErasureCertificate)


def audit_event(certificate: ErasureCertificate) -> Event:
    """The certificate as an event for the audit: always the same one, so that it is written there once."""
    return Event(
        event_id=certificate.certificate_id,
        event_type=EVENT_TYPE,
        timestamp_ms=certificate.erased_at_ms,
        data=written(certificate),
        source_capability="event-streaming-bus",
        tenant_id=certificate.tenant_id,
        user_id=certificate.erased_by,
    )


def certificate_data(certificate: ErasureCertificate) -> dict[str, object]:
    """The certificate as answers show it: as it is, and the time as text."""
    return {**msgspec.structs.asdict(certificate), "erased_at": rfc3339(certificate.erased_at_ms)}
