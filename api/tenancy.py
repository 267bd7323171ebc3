"""Who makes a request, and which tenant it is for."""

from collections.abc import Mapping
from typing import Any, Final

from litestar import Request

from event_streaming_bus.access.model import Principal
from event_streaming_bus.api.asgi import header_of
from event_streaming_bus.models import DEFAULT_TENANT

TENANT_HEADER: Final = "X-Tenant-Id"
ANONYMOUS: Final = "anonymous"
_PRINCIPAL: Final = "principal"
_TENANT: Final = TENANT_HEADER.lower().encode()


def tenant_of(request: Request[Any, Any, Any]) -> str:
    """The tenant of whoever makes the request. Administrators of the default tenant may name another one in ``X-Tenant-Id``, and
    so may everybody where nobody has to say who they are; others that do were refused before this is asked."""
    principal = principal_of(request.scope)
    if principal is None or principal.is_for_all_tenants:
        return header_of(request.scope, _TENANT) or DEFAULT_TENANT
    return principal.tenant_id


def principal_of(scope: Mapping[str, Any]) -> Principal | None:
    """Who makes a request; None where nobody has to say."""
    principal: Principal | None = (scope.get("state") or {}).get(_PRINCIPAL)
    return principal


def set_principal(scope: Any, principal: Principal) -> None:
    """Note who makes a request."""
    scope.setdefault("state", {})[_PRINCIPAL] = principal


def actor_of(scope: Mapping[str, Any]) -> tuple[str, str | None]:
    """``(who makes a request, by which token)``, as the audit has it."""
    principal = principal_of(scope)
    return (ANONYMOUS, None) if principal is None else (principal.principal_id, principal.token_id)
