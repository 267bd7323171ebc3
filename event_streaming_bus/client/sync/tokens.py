# Made by `python -m event_streaming_bus.client.twin` of client/tokens.py; change that one, and make this one anew.
"""The API tokens of a server."""

from collections.abc import Sequence
from typing import Any

from event_streaming_bus.access.model import Limits
from event_streaming_bus.client.answers import token_of
from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.requests import given, path_of
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.store.tokens import TokenRecord


class TokenService(RemoteService):
    """Makes, lists and revokes the API tokens of a server. Blocks, as it does in process."""

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
        """A new token and what is known of it; nobody can see the token again. The server knows by the caller's own token who
        makes it, so ``created_by`` is not looked at. It is not made twice: where the connection is lost, look at ``tokens``."""
        body = {
            "principal": principal,
            "roles": list(roles),
            "description": description,
            **given(
                expires_at=expires_at_ms,
                requests_per_s=limits.requests_per_s,
                max_body_bytes=limits.max_body_bytes,
                connections=limits.connections,
            ),
        }
        told: dict[str, Any] = self._connection.now(self._asked(Data, "POST", path_of("tokens"), tenant_id, body))
        return told["token"], token_of(told)

    def tokens(self, tenant_id: str | None) -> list[TokenRecord]:
        """The tokens of a tenant, oldest first; those that count no more too."""
        told: dict[str, Any] = self._connection.now(self._asked(Data, "GET", path_of("tokens"), _one(tenant_id)))
        return [token_of(each) for each in told["tokens"]]

    def find(self, token_id: str, tenant_id: str | None) -> TokenRecord:
        """A token of the tenant. Raises ``TokenNotFoundError``."""
        told: dict[str, Any] = self._connection.now(self._asked(Data, "GET", path_of("tokens", token_id), _one(tenant_id)))
        return token_of(told)

    def revoke(self, token_id: str, tenant_id: str | None, *, by: str) -> TokenRecord:
        """Let a token count no more, from its next use on; returns it as it was. Raises ``TokenNotFoundError``. The server knows
        by whom, so ``by`` is not looked at."""
        record = self.find(token_id, tenant_id)
        self._connection.now(self._asked(Data, "DELETE", path_of("tokens", token_id), _one(tenant_id)))
        return record

    def who_am_i(self) -> dict[str, Any]:
        """Whose token this client has, of which tenant, and what it allows."""
        return self._asked(Data, "GET", path_of("tokens", "self"), DEFAULT_TENANT)


def _one(tenant_id: str | None) -> str:
    if tenant_id is None:
        raise not_remote("asking for the tokens of all tenants", "ask for those of one tenant after the other")
    return tenant_id
