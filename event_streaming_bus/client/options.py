"""Where a server is, who asks it, and within which bounds."""

import os
from urllib.parse import urlsplit

import msgspec

from event_streaming_bus.errors import InvalidInputError

SCHEMES = ("http", "https")


class ClientOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of a client.

    ``connect_timeout_s`` and ``answer_timeout_s`` are for one try: connecting, and waiting for the server to go on reading or
    writing. Polls and questions that take longer by design have their own time added. ``retry_for_s``: how long a request that
    may be sent again is sent again, the first try included; ``Retry-After`` is waited for if it ends within that time. 0: never.

    ``is_idempotent``: what is published, appended and made goes with an idempotency key, so that it can be sent again without
    being there twice. Without it batches are twice as fast, and what may have been carried out is not sent again.

    ``max_at_once`` requests are under way at the same time, and others wait for their turn; those that take long by design, as
    polls do, are not among them. ``max_connections`` are open for both; a consumer that waits for events holds one.
    ``max_idle_connections`` of them are kept for ``idle_s`` after their last use.
    """

    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 30.0
    retry_for_s: float = 30.0
    is_idempotent: bool = True
    max_at_once: int = 16
    max_connections: int = 100
    max_idle_connections: int = 20
    idle_s: float = 4.0  # servers close idle connections after 5 s; a client that is quicker loses no request to that


DEFAULT_OPTIONS = ClientOptions()


class Target:
    """A server, and who asks it for which tenant. Its text has no token in it."""

    def __init__(
        self, url: str, token: str | None = None, tenant_id: str | None = None, options: ClientOptions | None = None
    ) -> None:
        self.url = _checked(url)
        self.token = token or os.environ.get("ESB_TOKEN") or None
        self.tenant_id = tenant_id
        self.options = options or DEFAULT_OPTIONS
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise InvalidInputError("token: expected printable ASCII characters without spaces")

    def __repr__(self) -> str:
        return f"Target({self.url!r}, tenant_id={self.tenant_id!r})"


def is_url(text: object) -> bool:
    """Whether this names a server, and not a data folder."""
    return isinstance(text, str) and text.lower().startswith(("http://", "https://"))


def _checked(url: str) -> str:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in SCHEMES or not parts.hostname or port == -1:
        raise InvalidInputError(f"url: expected http://HOST:PORT or https://HOST, got {url!r}")
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError("url: give the token by token= or ESB_TOKEN, not within the URL")
    if parts.query or parts.fragment:
        raise InvalidInputError(f"url: expected no query and no fragment, got {url!r}")
    return url.rstrip("/")
