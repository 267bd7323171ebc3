"""The key that signs the audit: Ed25519, in ``audit.key`` of the data folder, or in the file that ``ESB_AUDIT_KEY_FILE`` names.

Whoever has the key can write another history and sign it. Where it is kept out of reach of those who can write to the data
folder, they cannot; and where the public key is kept elsewhere, a new key is noticed.
"""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from event_streaming_bus.errors import InvalidInputError, StorageError
from event_streaming_bus.store.audit_entries import Checkpoint
from event_streaming_bus.store.private_files import make_private, read_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

VARIABLE: Final = "ESB_AUDIT_KEY_FILE"
FILE: Final = "audit.key"
_KEY_ID_CHARS: Final = 16


class PublicKey:
    """What verifies checkpoints."""

    def __init__(self, key: "Ed25519PublicKey") -> None:
        self._key = key
        self.key_id = hashlib.sha256(key.public_bytes_raw()).hexdigest()[:_KEY_ID_CHARS]

    def pem(self) -> str:
        """The key as others read it."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def has_signed(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is as it was signed, with this key."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(bytes.fromhex(checkpoint.signature), checkpoint.signed_bytes())
        except (InvalidSignature, ValueError):
            return False
        return checkpoint.key_id == self.key_id


class SigningKey:
    """What signs checkpoints."""

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    def signed(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its signature."""
        return msgspec.structs.replace(checkpoint, signature=self._key.sign(checkpoint.signed_bytes()).hex())


def key_file(folder: Path) -> Path:
    """Where the key of a data folder is, or will be."""
    text = os.environ.get(VARIABLE)
    return Path(text).expanduser() if text else folder / FILE


def find_signing_key(folder: Path, *, make: bool = True) -> SigningKey | None:
    """The key of a data folder; without one, a new one if it may be made, else None.

    Raises ``StorageError`` for a file that has no such key, or can be read by others than its owner.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

    path = key_file(folder)
    if not path.exists():
        if not make:
            return None
        new = Ed25519PrivateKey.generate()
        make_private(path, new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        key = load_pem_private_key(read_private(path), None)
    except (ValueError, TypeError) as error:
        raise StorageError(f"{path} has no private key in PEM form: {error}.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StorageError(f"{path} has a key of another kind; expected an Ed25519 private key.")
    return SigningKey(key)


def read_public_key(text: str) -> PublicKey:
    """The public key that ``PublicKey.pem`` wrote. Raises ``InvalidInputError``."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(text.encode())
    except ValueError as error:
        raise InvalidInputError("the public key is not in PEM form; `esb audit key` prints it") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInputError("the public key is of another kind; expected an Ed25519 key")
    return PublicKey(key)
