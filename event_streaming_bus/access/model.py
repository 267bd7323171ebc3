"""Who may do what: roles, what they are granted for, limits, and principals that have them."""

import enum
import fnmatch
import re
from functools import lru_cache
from typing import Final

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT

EVERY_STREAM: Final = "*"
_PATTERN: Final = re.compile(r"[\w.*?-]{1,200}")
_MAX_PATTERNS: Final = 50


class Role(enum.Enum):
    """What somebody is. ``access.permissions`` says what that allows."""

    ADMIN = "admin"
    OPERATOR = "operator"
    PUBLISHER = "publisher"
    CONSUMER = "consumer"
    DELEGATE = "delegate"
    VIEWER = "viewer"
    MONITOR = "monitor"


_FOR_ALL: Final = frozenset({Role.ADMIN, Role.DELEGATE, Role.MONITOR})


class Grant(msgspec.Struct, frozen=True):
    """A role, for the streams whose names or ids match one of the patterns (``*`` stands for any text, ``?`` for a character)."""

    role: Role
    streams: tuple[str, ...] = (EVERY_STREAM,)

    @property
    def is_for_every_stream(self) -> bool:
        return EVERY_STREAM in self.streams

    def covers(self, stream: str) -> bool:
        """Whether it is for this stream."""
        return any(_compiled(pattern).match(stream) for pattern in self.streams)

    def __str__(self) -> str:
        return self.role.value if self.is_for_every_stream else f"{self.role.value}:{','.join(self.streams)}"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one principal may take of the server; None is no limit.

    ``requests_per_s`` may be exceeded for a moment: as many requests as of one second are let through at once. ``connections``
    are requests and WebSockets that are being answered at the same time.
    """

    requests_per_s: float | None = None
    max_body_bytes: int | None = None
    connections: int | None = None


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes a request. ``token_id`` names the token that was shown, not the secret in it; ``kind`` is how that was verified:
    ``token``, ``jwt`` or ``oidc``."""

    principal_id: str
    kind: str
    token_id: str
    tenant_id: str
    grants: tuple[Grant, ...]
    limits: Limits = Limits()

    @property
    def is_admin(self) -> bool:
        """Whether it may do all there is to do in its tenant."""
        return any(grant.role is Role.ADMIN and grant.is_for_every_stream for grant in self.grants)

    @property
    def is_for_all_tenants(self) -> bool:
        """Whether it may act for other tenants than its own: an administrator of the default tenant."""
        return self.is_admin and self.tenant_id == DEFAULT_TENANT


def parse_grant(text: str) -> Grant:
    """``admin``, or ``publisher:orders,orders.*``. Raises ``InvalidInputError``."""
    name, colon, streams = text.partition(":")
    try:
        role = Role(name.strip().lower())
    except ValueError:
        accepted = ", ".join(role.value for role in Role)
        raise InvalidInputError(f"roles: {name[:100]!r} is no role; accepted: {accepted}") from None
    patterns = tuple(pattern.strip() for pattern in streams.split(",")) if colon else (EVERY_STREAM,)
    if len(patterns) > _MAX_PATTERNS or not all(_PATTERN.fullmatch(pattern) for pattern in patterns):
        raise InvalidInputError(f"roles: {text[:100]!r}: expected ROLE or ROLE:STREAM,... where * stands for any text")
    if role in _FOR_ALL and EVERY_STREAM not in patterns:
        others = ", ".join(other.value for other in Role if other not in _FOR_ALL)
        raise InvalidInputError(f"roles: {role.value} is a role for all streams; those that may be for some: {others}")
    return Grant(role, patterns)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))
