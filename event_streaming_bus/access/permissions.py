"""What each role allows: the one table.

A permission is a noun and a verb: ``read`` looks at a resource, ``manage`` changes it; the others say what they are.
``user:name`` is to name another user than oneself as the one whose event it is. ``*`` stands for any. What is not here is for
administrators only.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from event_streaming_bus.access.access_errors import ForbiddenError
from event_streaming_bus.access.model import Grant, Principal, Role

PERMISSIONS: Final[Mapping[Role, frozenset[str]]] = {
    Role.ADMIN: frozenset({"*:*"}),
    Role.OPERATOR: frozenset(
        {
            "*:read",
            "audit:view",
            "history:query",
            "saved-query:manage",
            "stream:manage",
            "group:manage",
            "processor:manage",
            "schema:manage",
            "route:manage",
            "projection:manage",
            "dead-letter:manage",
            "scheduled-event:manage",
            "aggregate:manage",
            "user:name",
        }
    ),
    Role.PUBLISHER: frozenset({"event:publish", "aggregate:append", "stream:read", "schema:read"}),
    Role.CONSUMER: frozenset({"group:consume", "group:read", "event:read", "stream:read", "schema:read"}),
    Role.DELEGATE: frozenset({"user:name"}),
    Role.VIEWER: frozenset({"*:read", "history:query"}),
    Role.MONITOR: frozenset({"monitoring:read"}),
}


def allows(role: Role, permission: str) -> bool:
    """Whether a role has a permission."""
    noun, _, verb = permission.partition(":")
    return not PERMISSIONS[role].isdisjoint({permission, f"{noun}:*", f"*:{verb}", "*:*"})


def grants_for(principal: Principal, permission: str) -> list[Grant]:
    """The principal's grants that have a permission, for whichever streams."""
    return [grant for grant in principal.grants if allows(grant.role, permission)]


def check_any(principal: Principal, permission: str) -> None:
    """Raise ``ForbiddenError`` unless the principal has a permission, be it for one stream."""
    if not grants_for(principal, permission):
        raise _missing(principal, permission)


def check_every(principal: Principal, permission: str) -> None:
    """Raise ``ForbiddenError`` unless the principal has a permission for every stream."""
    grants = grants_for(principal, permission)
    if not grants:
        raise _missing(principal, permission)
    if not any(grant.is_for_every_stream for grant in grants):
        raise ForbiddenError(
            f"This is not about one stream, and {principal.principal_id} has the permission {permission} for some streams only.",
            permission=permission,
        )


def check_streams(principal: Principal, permission: str, streams: Iterable[str]) -> None:
    """Raise ``ForbiddenError`` unless the principal has a permission for all of these streams."""
    grants = grants_for(principal, permission)
    if not grants:
        raise _missing(principal, permission)
    for stream in streams:
        if not any(grant.covers(stream) for grant in grants):
            raise ForbiddenError(
                f"{principal.principal_id} does not have the permission {permission} for the stream '{stream}'.",
                permission=permission,
                stream=stream,
            )


def may(principal: Principal, permission: str, stream: str) -> bool:
    """Whether the principal has a permission for a stream."""
    return any(grant.covers(stream) for grant in grants_for(principal, permission))


def _missing(principal: Principal, permission: str) -> ForbiddenError:
    having = ", ".join(role.value for role in Role if allows(role, permission))
    has = ", ".join(map(str, principal.grants)) or "none"
    return ForbiddenError(
        f"{principal.principal_id} does not have the permission {permission}. Roles that have it: {having}; its own: {has}.",
        permission=permission,
    )
