"""The store of API tokens: what each of them allows, and the hash of its secret; the secret itself is nowhere.

It is ``tokens.db``, a file of its own beside the log, made with the first token; or in the database that several nodes share.
"""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import msgspec

from event_streaming_bus.store.database import Database, Place, open_database
from event_streaming_bus.store.sql import load_queries

SQL: Final = load_queries("tokens.sql")
FILE: Final = "tokens.db"
_MAX_KNOWN: Final = 10_000


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A token. ``principal`` is whose it is; ``roles`` are written as ``access.model.parse_grant`` reads them.

    ``secret_hash`` is the SHA-256 of the secret. ``last_used_at_ms`` and ``last_address`` are only there in lists.
    """

    token_id: str
    tenant_id: str
    principal: str
    roles: tuple[str, ...]
    description: str = ""
    requests_per_s: float | None = None
    max_body_bytes: int | None = None
    connections: int | None = None
    created_at_ms: int
    created_by: str
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    revoked_by: str | None = None
    secret_hash: bytes = b""
    last_used_at_ms: int | None = None
    last_address: str | None = None


_decode: Final = msgspec.json.Decoder(TokenRecord).decode


class TokenStore:
    """The tokens of a data folder. Safe to use from any thread and any number of processes: what one changes counts for all from
    their next look on."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._db: Database | None = None
        self._known: OrderedDict[str, TokenRecord] = OrderedDict()
        self._change_no = -1

    @property
    def is_used(self) -> bool:
        """Whether there can be any: in a file, whether there has ever been one."""
        return not isinstance(self._place, Path) or self._place.exists()

    def close(self) -> None:
        """Close the database. Closing twice is harmless; whatever is asked afterwards opens it again."""
        with self._lock:
            self._known.clear()
            if self._db is not None:
                self._db.close()
                self._db = None

    def add(self, record: TokenRecord, *, only_first: bool = False) -> bool:
        """Keep a new token. ``only_first``: unless there has ever been one; whether it was kept."""
        kept = msgspec.structs.replace(record, secret_hash=b"")
        values = (record.token_id, record.tenant_id, record.secret_hash, msgspec.json.encode(kept).decode())
        with self._database().transaction("adding a token") as db:
            if only_first and db.execute(SQL["select_any"]).fetchone() is not None:
                return False
            db.execute(SQL["insert_token"], (*values, record.created_at_ms, record.expires_at_ms))
            db.execute(SQL["count_change"])
        return True

    def revoke(self, token_id: str, at_ms: int, by: str) -> bool:
        """Let a token count no more; whether it did until now."""
        if not self.is_used:
            return False
        with self._database().transaction("revoking a token") as db:
            changed = db.execute(SQL["revoke_token"], (at_ms, by, token_id)).rowcount
            if changed:
                db.execute(SQL["count_change"])
        return bool(changed)

    def find(self, token_id: str) -> TokenRecord | None:
        """The token with this id, of whichever tenant. Tokens are kept in memory for as long as no process changes any."""
        if not self.is_used:
            return None
        with self._database().querying("looking for a token") as db:
            (change_no,) = db.execute(SQL["select_change_no"]).fetchone()
            with self._lock:
                if change_no != self._change_no:
                    self._known.clear()
                    self._change_no = change_no
                if token_id in self._known:
                    return self._known[token_id]
            row = db.execute(SQL["select_token"], (token_id,)).fetchone()
        if row is None:
            return None  # not kept: anybody can ask for any number of tokens that there are not
        found = _record(row)
        with self._lock:
            if change_no == self._change_no:
                self._known[token_id] = found
                while len(self._known) > _MAX_KNOWN:
                    self._known.popitem(last=False)
        return found

    def tokens(self, tenant_id: str | None) -> list[TokenRecord]:
        """The tokens of a tenant, or of all, oldest first."""
        if not self.is_used:
            return []
        with self._database().querying("listing tokens") as db:
            return [_record(row) for row in db.execute(SQL["select_tokens"], {"tenant_id": tenant_id})]

    def note_use(self, token_id: str, at_ms: int, address: str | None) -> None:
        """Note when a token was last used, and from where."""
        with self._database().transaction("noting a token's use") as db:
            db.execute(SQL["note_use"], (token_id, at_ms, address))

    def _database(self) -> Database:
        with self._lock:
            if self._db is None:
                self._db = open_database(self._place, tables=SQL["create_tables"], name="tokens")
                if isinstance(self._place, Path):
                    self._place.chmod(0o600)
            return self._db


def _record(row: tuple[Any, ...]) -> TokenRecord:
    record, secret_hash, expires_at_ms, revoked_at_ms, revoked_by, last_used_at_ms, address = row
    return msgspec.structs.replace(
        _decode(record),
        secret_hash=bytes(secret_hash),
        expires_at_ms=expires_at_ms,
        revoked_at_ms=revoked_at_ms,
        revoked_by=revoked_by,
        last_used_at_ms=last_used_at_ms,
        last_address=address,
    )
