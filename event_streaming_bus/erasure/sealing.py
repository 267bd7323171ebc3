"""Sealing: bytes that are made of the personal data of subjects, such as snapshots of aggregates, unreadable once any of the
subjects is erased."""

import secrets
from collections.abc import Iterable
from typing import Final

from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.registry.tokens import content_key
from event_streaming_bus.store.master_key import aes_gcm
from event_streaming_bus.store.subject_keys import SubjectKey, SubjectKeys

_PLAIN: Final = b"\x00"
_SEALED: Final = b"\x01"
_NONCE_BYTES: Final = 12


def seal(
    keys: SubjectKeys,
    tenant_id: str,
    data: bytes,
    *,
    subjects: Iterable[str] = (),
    key_ids: Iterable[str] = (),
    context: str = "",
) -> bytes:
    """The data, readable only while the keys of all these ``subjects`` are there, and those with these ``key_ids``, as
    ``protection.key_ids_of`` tells them of events. What the data was made of was shown when it was made: a key that is destroyed
    by now, or that is none of the tenant's, does not count. Without any, the data is only framed.

    ``context`` says what the data is, for instance which aggregate's snapshot of which version; ``unseal`` wants the same.
    """
    found = {key.key_id: key for key in keys.of_subjects(tenant_id, wanted).values()} if (wanted := list(subjects)) else {}
    for key_id in key_ids:
        key = keys.find(tenant_id, key_id)
        if isinstance(key, SubjectKey):
            found[key_id] = key
    if not found:
        return _PLAIN + data
    ordered = [found[key_id] for key_id in sorted(found)]
    head = ".".join(key.key_id for key in ordered).encode()
    head = _SEALED + len(head).to_bytes(4, "big") + head
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return head + nonce + aes_gcm(content_key(ordered)).encrypt(nonce, data, _bound(head, tenant_id, context))


def unseal(keys: SubjectKeys, tenant_id: str, sealed: bytes, *, context: str = "") -> bytes | None:
    """The data; None if a key that it takes was destroyed, or is not in this folder: then it has to be made anew, from events of
    which the rest is readable. Raises ``CorruptLogError`` for what was changed, or was sealed for another context."""
    from cryptography.exceptions import InvalidTag

    if sealed[:1] == _PLAIN:
        return sealed[1:]
    size = int.from_bytes(sealed[1:5], "big")
    head, body = sealed[: 5 + size], sealed[5 + size :]
    if sealed[:1] != _SEALED or len(body) <= _NONCE_BYTES:
        raise CorruptLogError("The sealed data is damaged.")
    found = [keys.find(tenant_id, key_id) for key_id in head[5:].decode("ascii", "replace").split(".")]
    ordered = [key for key in found if isinstance(key, SubjectKey)]
    if len(ordered) < len(found):
        return None
    try:
        decrypt = aes_gcm(content_key(ordered)).decrypt
        return bytes(decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], _bound(head, tenant_id, context)))
    except (InvalidTag, ValueError):
        raise CorruptLogError("The sealed data was changed, or is that of something else.") from None


def _bound(head: bytes, tenant_id: str, context: str) -> bytes:
    return b"\0".join((head, tenant_id.encode(), context.encode()))
