"""Tokens: what stands in a payload for a personal value. ``esb:enc:1:KEYS:KIND:BODY``.

KEYS are the ids of the keys that it takes to read it, of one subject or, joined with dots, of several: without any one of them
it is unreadable. KIND tells what is shown once it is: ``t`` for text, ``v`` for any other value. BODY is base64 of nonce,
ciphertext and tag of AES-256-GCM. The plaintext is JSON, ``[place, value]``, filled up with spaces to a multiple of 32 bytes, so
that a token tells little of the value's length. Tenant, subjects, keys and kind are authenticated with it. The place is the JSON
pointer of the field, with ``*`` for the index of an array's item; a token that stands elsewhere is none.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.store.master_key import aes_gcm
from event_streaming_bus.store.subject_keys import SubjectKey

MARKER: Final = "esb:enc:1:"
MARKER_BYTES: Final = MARKER.encode()
ERASED_TEXT: Final = "[erased]"
"""What is shown of an erased text. Of any other erased value, null is."""
_TOKEN: Final = re.compile(r"esb:enc:1:([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*):([tv]):([A-Za-z0-9_-]+)")
KEYS: Final = re.compile(rb"esb:enc:1:([A-Za-z0-9_.-]+):[tv]:")
"""Finds the ids of the keys of tokens, joined with dots, in whatever a payload is written as."""
_NONCE_BYTES: Final = 12
_BLOCK_BYTES: Final = 32
_encode: Final = msgspec.json.Encoder().encode


class Token(msgspec.Struct, frozen=True):
    """A token taken apart."""

    key_ids: tuple[str, ...]
    kind: str
    body: bytes

    @property
    def erased(self) -> str | None:
        """What is shown in its place when a key of it was destroyed."""
        return ERASED_TEXT if self.kind == "t" else None


def token_of(value: object) -> Token | None:
    """The token that a value of a payload has the form of; None if it has another one."""
    if value.__class__ is not str or not value.startswith(MARKER):
        return None
    found = _TOKEN.fullmatch(value)
    if found is None:
        return None
    try:
        body = base64.b64decode(found[3] + "=" * (-len(found[3]) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return Token(tuple(found[1].split(".")), found[2], body)


def sealed(keys: Sequence[SubjectKey], place: str, value: Any) -> str:
    """The token for a JSON value at a place. ``keys``: one or more, each of another subject, of one tenant."""
    keys = sorted(keys, key=lambda key: key.key_id)
    kind = "t" if isinstance(value, str) else "v"
    head = f"{MARKER}{'.'.join(key.key_id for key in keys)}:{kind}:"
    plain = _encode((place, value))
    plain += b" " * (-len(plain) % _BLOCK_BYTES)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    body = nonce + aes_gcm(content_key(keys)).encrypt(nonce, plain, _bound(keys, kind))
    return head + base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def opened(token: Token, keys: Sequence[SubjectKey]) -> tuple[str, Any] | None:
    """``(the place that it was made for, the value)``; None for a token that was tampered with."""
    from cryptography.exceptions import InvalidTag

    keys = sorted(keys, key=lambda key: key.key_id)
    try:
        decrypt = aes_gcm(content_key(keys)).decrypt
        plain = decrypt(token.body[:_NONCE_BYTES], token.body[_NONCE_BYTES:], _bound(keys, token.kind))
    except (InvalidTag, ValueError):
        return None
    place, value = msgspec.json.decode(plain)
    return place, value


def content_key(keys: Sequence[SubjectKey]) -> bytes:
    """The key of what only all of these keys together can read; of several it follows from all, in the order given."""
    if len(keys) == 1:
        return keys[0].secret
    return hmac.new(b"event-streaming-bus:all-of", b"".join(key.secret for key in keys), hashlib.sha256).digest()


def _bound(keys: Sequence[SubjectKey], kind: str) -> bytes:
    parts = [MARKER, kind, keys[0].tenant_id]
    for key in keys:
        parts += [key.key_id, key.subject_hash]
    return "\0".join(parts).encode()
