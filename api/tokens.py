"""API tokens over REST: make, list and revoke them, and ask who one is."""

import asyncio
from typing import Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post

from event_streaming_bus.access.model import Grant, Limits
from event_streaming_bus.access.permissions import PERMISSIONS
from event_streaming_bus.access.tokens import token_data
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import actor_of, principal_of, tenant_of
from event_streaming_bus.models import time_ms

_MAX_BODY_BYTES = 1 << 16
_NO_STORE = {"Cache-Control": "no-store"}


class NewToken(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A token to make. ``principal``: whose it is. ``roles``: ``admin``, ``operator``, ``publisher``, ``consumer``, ``delegate``,
    ``viewer`` or ``monitor``, each with stream patterns if it is to be for some streams only, as in ``publisher:orders.*``."""

    principal: str
    roles: list[str]
    description: str = ""
    expires_at: str | int | None = None
    requests_per_s: float | None = None
    max_body_bytes: int | None = None
    connections: int | None = None


class TokensController(Controller):
    """The tokens of the tenant."""

    path = "/api/v1/tokens"
    tags = ["tokens"]  # noqa: RUF012 - as the base class has it

    @post("/", summary="Make a token; it is in this answer, and nowhere else")
    async def create(self, request: Request[Any, Any, Any], services: Services) -> Response[dict[str, Any]]:
        new = decode(await request.body(), NewToken, _MAX_BODY_BYTES)
        token, record = await asyncio.to_thread(
            services.tokens.create,
            new.principal,
            new.roles,
            tenant_id=tenant_of(request),
            description=new.description,
            expires_at_ms=None if new.expires_at is None else time_ms(new.expires_at, "expires_at"),
            limits=Limits(requests_per_s=new.requests_per_s, max_body_bytes=new.max_body_bytes, connections=new.connections),
            created_by=actor_of(request.scope)[0],
        )
        return Response({"token": token, **token_data(record)}, status_code=201, headers=_NO_STORE)

    @get("/", summary="List the tokens: what they allow, when they were last used, whether they still count")
    async def list_tokens(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        found = await asyncio.to_thread(services.tokens.tokens, tenant_of(request))
        return {"tokens": [token_data(record) for record in found]}

    @get("/self", summary="Who makes this request, and what that allows")
    async def self(self, request: Request[Any, Any, Any]) -> dict[str, Any]:
        principal = principal_of(request.scope)
        if principal is None:
            return {"principal": actor_of(request.scope)[0], "tenant_id": tenant_of(request), "is_authenticated": False}
        return {
            "principal": principal.principal_id,
            "kind": principal.kind,
            "token_id": principal.token_id,
            "tenant_id": principal.tenant_id,
            "roles": [str(grant) for grant in principal.grants],
            "permissions": list(map(_allowed, principal.grants)),
            "limits": msgspec.to_builtins(principal.limits),
            "is_authenticated": True,
        }

    @get("/{token_id:str}", summary="A token, without its secret")
    async def show(self, request: Request[Any, Any, Any], services: Services, token_id: str) -> dict[str, Any]:
        return token_data(await asyncio.to_thread(services.tokens.find, token_id, tenant_of(request)))

    @delete("/{token_id:str}", status_code=200, summary="Revoke a token; its next use is refused")
    async def revoke(self, request: Request[Any, Any, Any], services: Services, token_id: str) -> dict[str, Any]:
        by = actor_of(request.scope)[0]
        record = await asyncio.to_thread(services.tokens.revoke, token_id, tenant_of(request), by=by)
        return {"token_id": record.token_id, "message": "Token revoked successfully"}


def _allowed(grant: Grant) -> dict[str, Any]:
    """What a grant allows: permissions, in which ``*`` stands for any noun or verb, and the patterns of the streams that they are
    for."""
    return {"role": grant.role.value, "streams": list(grant.streams), "allows": sorted(PERMISSIONS[grant.role])}
