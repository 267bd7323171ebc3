"""The master key of a data folder: what the keys of subjects are wrapped with, and what their names are hashed with.

It comes from ``ESB_MASTER_KEY`` (32 bytes as base64) or else from ``master.key`` in the folder, a file that only its owner may
read, made when it is first needed. Where it comes from the environment, a copy of the whole folder is unreadable without it.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from event_streaming_bus.errors import InvalidInputError, StorageError
from event_streaming_bus.store.private_files import make_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VARIABLE: Final = "ESB_MASTER_KEY"
FILE: Final = "master.key"
KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class MasterKey:
    """Wraps keys, hashes names and signs, each with a key of its own that follows from the master key."""

    def __init__(self, secret: bytes) -> None:
        check, self._wrapping, self._naming, self._signing = (
            hmac.new(secret, f"event-streaming-bus:{purpose}".encode(), hashlib.sha256).digest()
            for purpose in ("check", "wrap", "name", "sign")
        )
        self.check = check.hex()
        """Tells master keys apart, and nothing else of them."""

    def wrap(self, secret: bytes, context: str) -> bytes:
        """The secret, readable only with this key and for this context: nonce, ciphertext and tag."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + aes_gcm(self._wrapping).encrypt(nonce, secret, context.encode())

    def unwrap(self, wrapped: bytes, context: str) -> bytes:
        """The secret. Raises ``StorageError`` if it was changed, or belongs elsewhere."""
        from cryptography.exceptions import InvalidTag

        try:
            unwrap = aes_gcm(self._wrapping).decrypt
            return bytes(unwrap(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context.encode()))
        except (InvalidTag, ValueError):
            raise StorageError("A key in keys.db is damaged, or was moved there. Restore keys.db from a backup.") from None

    def name_hash(self, tenant_id: str, subject: str) -> str:
        """What stands for a subject's name: nobody without the master key can tell whether it stands for a name they guess."""
        name = f"{tenant_id}\0{subject}".encode(errors="surrogatepass")
        return hmac.digest(self._naming, name, "sha256").hex()[:40]

    def signature(self, data: bytes) -> str:
        """Proof that whoever wrote ``data`` had the master key."""
        return hmac.digest(self._signing, data, "sha256").hex()


def aes_gcm(key: bytes) -> "AESGCM":
    """The cipher. The library is loaded when the first one is asked for."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def find_master_key(folder: Path, *, make: bool = True, is_shared: bool = False) -> MasterKey:
    """The master key of a folder, made if there is none and it may be. Two processes that make it at once get the same one.

    ``is_shared``: other nodes, with folders of their own, need the same one, so it must come from the environment.

    Raises ``InvalidInputError`` for a value that is no key, ``StorageError`` for a file that cannot be used, or that others than
    its owner may read.
    """
    text = os.environ.get(VARIABLE)
    if text:
        return MasterKey(_decoded(text, VARIABLE, InvalidInputError))
    if is_shared:
        raise InvalidInputError(
            f"{VARIABLE} is not set: personal data on a database that several nodes share needs one master key for all of them, "
            f"{KEY_BYTES} bytes as base64, as `openssl rand -base64 {KEY_BYTES}` prints them"
        )
    path = folder / FILE
    try:
        if not path.exists():
            if not make:
                raise StorageError(
                    f"The master key is missing: neither {VARIABLE} nor {path} has it. Nothing personal is readable."
                )
            make_private(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        if path.stat().st_mode & 0o077:
            raise StorageError(f"{path} can be read by others than its owner; `chmod 600 {path}` mends that.")
        return MasterKey(_decoded(path.read_text("ascii", "replace"), str(path), StorageError))
    except OSError as error:
        raise StorageError(f"{path} cannot be used: {error}.") from error


def _decoded(text: str, where: str, error: type[InvalidInputError] | type[StorageError]) -> bytes:
    try:
        secret = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise error(f"{where}: expected {KEY_BYTES} bytes as base64, as `openssl rand -base64 {KEY_BYTES}` prints them")
    return secret
