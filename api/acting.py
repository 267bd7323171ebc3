"""Whose events these are that a request publishes or appends: of whoever makes it, unless it may name others."""

from typing import Any, Final

from litestar import Request

from event_streaming_bus.access.permissions import check_every
from event_streaming_bus.api.tenancy import principal_of

NAMING: Final = "user:name"


def user_of(request: Request[Any, Any, Any], named: str | None) -> str | None:
    """The ``user_id`` to keep: the one that the request's body names, and without one the principal of its token.

    Raises ``ForbiddenError`` if it names another than the principal, who lacks the permission ``user:name``. Where nobody has to
    say who they are, what is named is kept, and nothing is made up.
    """
    principal = principal_of(request.scope)
    if principal is None:
        return named
    if named is None or named == principal.principal_id:
        return principal.principal_id
    check_every(principal, NAMING)
    return named
