"""API tokens: ``esb_ID_SECRET``. They are shown once, when they are made; what is kept is a hash of the secret.

The secret has 256 random bits, so a plain SHA-256 of it is as good as a slow hash would be for a password: there is nothing to
guess.
"""

import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.access.access_errors import NotAuthenticatedError, TokenNotFoundError
from event_streaming_bus.access.model import Limits, Principal, Role, parse_grant
from event_streaming_bus.errors import BusError, InvalidInputError, StorageError
from event_streaming_bus.models import DEFAULT_TENANT, rfc3339
from event_streaming_bus.store.private_files import make_private, read_private
from event_streaming_bus.store.server_calls import TOKEN_FILE
from event_streaming_bus.store.storage import Storage, open_storage
from event_streaming_bus.store.tokens import FILE, TokenRecord, TokenStore

PREFIX: Final = "esb_"
TOKEN_ID: Final = "tok_"  # noqa: S105 - what ids begin with
FIRST: Final = "esb serve"
USE_EVERY_MS: Final = 60_000
"""How exactly is noted when a token was last used."""
_SECRET_BYTES: Final = 32
_MAX_ROLES: Final = 50
_MAX_CHARS: Final = 200
_log: Final = logging.getLogger(__name__)


class TokenService:
    """Makes, lists, revokes and verifies the API tokens of a data folder."""

    def __init__(self, storage: Storage | None = None) -> None:
        storage = storage or open_storage()
        self._folder = storage.folder
        self._store = TokenStore(storage.place(FILE))
        self._used: dict[str, int] = {}

    @property
    def has_tokens(self) -> bool:
        """Whether there has ever been a token."""
        return bool(self._store.tokens(None))

    def close(self) -> None:
        """Let go of the file. Closing twice is harmless."""
        self._store.close()

    def create(
        self,
        principal: str,
        roles: Sequence[str],
        *,
        tenant_id: str = DEFAULT_TENANT,
        description: str = "",
        expires_at_ms: int | None = None,
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        created_by: str,
    ) -> tuple[str, TokenRecord]:
        """A new token and what is known of it; nobody can see the token again. Raises ``InvalidInputError``."""
        token, record = _made(
            principal,
            roles,
            tenant_id=tenant_id,
            description=description,
            expires_at_ms=expires_at_ms,
            limits=limits,
            created_by=created_by,
        )
        self._store.add(record)
        return token, record

    def tokens(self, tenant_id: str | None) -> list[TokenRecord]:
        """The tokens of a tenant, or of all, oldest first; those that count no more too."""
        return self._store.tokens(tenant_id)

    def find(self, token_id: str, tenant_id: str | None) -> TokenRecord:
        """A token of the tenant, or of any. Raises ``TokenNotFoundError``."""
        record = self._store.find(token_id)
        if record is None or tenant_id not in (None, record.tenant_id):
            raise TokenNotFoundError(f"There is no token '{token_id}'.", token_id=token_id)
        return record

    def revoke(self, token_id: str, tenant_id: str | None, *, by: str) -> TokenRecord:
        """Let a token count no more, from its next use on. Raises ``TokenNotFoundError``."""
        record = self.find(token_id, tenant_id)
        if not self._store.revoke(token_id, _now_ms(), by):
            raise TokenNotFoundError(f"The token '{token_id}' is revoked already.", token_id=token_id)
        return record

    def verify(self, token: str) -> Principal:
        """Whose token this is. Raises ``NotAuthenticatedError``; it takes the same time for a token that is not there and for a
        secret that is wrong."""
        text, _, secret = token.removeprefix(PREFIX).partition("_")
        is_id = text.isascii() and text.isalnum() and len(text) <= _MAX_CHARS
        record = self._store.find(TOKEN_ID + text) if is_id else None
        is_right = hmac.compare_digest(_hash(secret), record.secret_hash if record is not None else _hash(""))
        if record is None or not is_right:
            raise NotAuthenticatedError("The token is not valid.")
        now_ms = _now_ms()
        if record.revoked_at_ms is not None:
            raise NotAuthenticatedError("The token was revoked.", token_id=record.token_id)
        if record.expires_at_ms is not None and record.expires_at_ms <= now_ms:
            raise NotAuthenticatedError("The token has expired.", token_id=record.token_id)
        return Principal(
            principal_id=record.principal,
            kind="token",
            token_id=record.token_id,
            tenant_id=record.tenant_id,
            grants=tuple(map(parse_grant, record.roles)),
            limits=Limits(
                requests_per_s=record.requests_per_s, max_body_bytes=record.max_body_bytes, connections=record.connections
            ),
        )

    @property
    def admin_file(self) -> Path:
        """Where the first administrator's token is handed over."""
        return self._folder / TOKEN_FILE

    def make_first_admin(self) -> TokenRecord | None:
        """Make a token for an administrator, in a file that only its owner may read, if there has never been a token in this
        folder, or database; None if there has. Of several processes that start at once, one does this.

        The file is there before the token counts: a process that is killed in between leaves none that nobody knows.
        """
        with self._one_at_a_time():
            if self.has_tokens:
                return None
            self.admin_file.unlink(missing_ok=True)  # of a store that is gone: it opens nothing
            token, record = _made("admin", [Role.ADMIN.value], description="the first one", created_by=FIRST)
            make_private(self.admin_file, f"{token}\n".encode())
            if not self._store.add(record, only_first=True):  # a node with another folder was faster
                self.admin_file.unlink()
                return None
        return record

    def admin_token(self) -> str | None:
        """The first administrator's token, while it is in its file and counts."""
        try:
            token = read_private(self.admin_file).decode("utf-8", "replace").strip()
            self.verify(token)
        except (StorageError, NotAuthenticatedError):
            return None
        return token

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """The lock is that of the folder itself: no file is left behind for it."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def is_use_due(self, token_id: str) -> bool:
        """Whether a use of the token is to be noted: the last one was noted long enough ago."""
        return _now_ms() - self._used.get(token_id, 0) >= USE_EVERY_MS

    def note_use(self, token_id: str, address: str | None) -> None:
        """Note that a token was used now. Blocks."""
        self._used[token_id] = now_ms = _now_ms()
        try:
            self._store.note_use(token_id, now_ms, address)
        except BusError as error:  # a full disk must not lock out those who could make room
            _log.warning("the use of %s could not be noted: %s", token_id, error.message)


def _made(
    principal: str,
    roles: Sequence[str],
    *,
    tenant_id: str = DEFAULT_TENANT,
    description: str = "",
    expires_at_ms: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
    created_by: str,
) -> tuple[str, TokenRecord]:
    """A token that is kept nowhere yet."""
    now_ms = _now_ms()
    if not principal.strip() or len(principal) > _MAX_CHARS or not principal.isprintable():
        raise InvalidInputError(f"principal: expected 1 to {_MAX_CHARS} printable characters, as in billing-service")
    if len(description) > 5 * _MAX_CHARS:
        raise InvalidInputError(f"description: expected at most {5 * _MAX_CHARS:,} characters")
    if not 1 <= len(roles) <= _MAX_ROLES:
        raise InvalidInputError(f"roles: expected 1 to {_MAX_ROLES}, got {len(roles)}")
    if expires_at_ms is not None and expires_at_ms <= now_ms:
        raise InvalidInputError("expires_at: expected a time to come")
    for name, value in (("requests_per_s", limits.requests_per_s), ("max_body_bytes", limits.max_body_bytes)):
        if value is not None and not 0 < value < 1e12:
            raise InvalidInputError(f"{name}: expected a positive number, got {value}")
    if limits.connections is not None and not 1 <= limits.connections <= 1_000_000:
        raise InvalidInputError(f"connections: expected 1 to 1,000,000, got {limits.connections}")
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    token_id = ids.new_id(TOKEN_ID)
    record = TokenRecord(
        token_id=token_id,
        tenant_id=tenant_id,
        principal=principal,
        roles=tuple(dict.fromkeys(str(parse_grant(role)) for role in roles)),
        description=description,
        requests_per_s=limits.requests_per_s,
        max_body_bytes=limits.max_body_bytes,
        connections=limits.connections,
        created_at_ms=now_ms,
        created_by=created_by,
        expires_at_ms=expires_at_ms,
        secret_hash=_hash(secret),
    )
    return f"{PREFIX}{token_id.removeprefix(TOKEN_ID)}_{secret}", record


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def token_data(record: TokenRecord) -> dict[str, Any]:
    """A token as answers show it: everything but the secret's hash, times as text."""
    now_ms = _now_ms()
    is_over = record.expires_at_ms is not None and record.expires_at_ms <= now_ms
    status = "revoked" if record.revoked_at_ms is not None else "expired" if is_over else "active"
    told = {name: value for name, value in msgspec.structs.asdict(record).items() if name not in ("secret_hash", "roles")}
    for name in ("created_at", "expires_at", "revoked_at", "last_used_at"):
        at_ms = told.pop(f"{name}_ms")
        told[name] = None if at_ms is None else rfc3339(at_ms)
    return {"token_id": record.token_id, "status": status, "roles": list(record.roles), **told}
