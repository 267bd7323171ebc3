"""What the services of a client have in common: a connection, their own or a shared one, and how it is asked."""

from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec

from event_streaming_bus.client.client_errors import ServerUnreachableError
from event_streaming_bus.client.connecting import Connection
from event_streaming_bus.client.options import ClientOptions, Target
from event_streaming_bus.client.requests import Request, json_of, path_of, tenant_meant
from event_streaming_bus.models import DEFAULT_TENANT

T = TypeVar("T")
S = TypeVar("S", bound="RemoteService")
Data = dict[str, Any]
_PAGE_ITEMS: Final = 1000


class RemoteService:
    """A service of a server, at a URL or over a connection that is there.

    ``token`` falls back to ``ESB_TOKEN``. ``tenant_id`` is whom calls are about that name no tenant, or the default one; None
    leaves that to the token. ``close`` closes the connection that was made for this service, and leaves a shared one open.
    """

    def __init__(
        self,
        url: str | Connection,
        *,
        token: str | None = None,
        tenant_id: str | None = None,
        options: ClientOptions | None = None,
    ) -> None:
        self._is_own = isinstance(url, str)
        self._connection = url if isinstance(url, Connection) else Connection(Target(url, token, tenant_id, options))

    async def _asked(
        self,
        kind: type[T],
        method: str,
        path: str,
        tenant_id: str | None,
        body: Any = None,
        *,
        is_repeatable: bool | None = None,
        is_keyed: bool = False,
        more_s: float = 0.0,
    ) -> T:
        """The answer to a request, decoded. ``tenant_id`` None: of whichever tenant. What reads or replaces may be sent again,
        and else what ``is_repeatable`` says so of."""
        content = await self._content(
            method, path, tenant_id, body, is_repeatable=is_repeatable, is_keyed=is_keyed, more_s=more_s
        )
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            url = self._connection.target.url
            raise ServerUnreachableError(
                f"What {url} answered to {method} {path} is no answer of a bus: {error}", url=url
            ) from error

    async def _content(
        self,
        method: str,
        path: str,
        tenant_id: str | None,
        body: Any = None,
        *,
        is_repeatable: bool | None = None,
        is_keyed: bool = False,
        more_s: float = 0.0,
    ) -> bytes:
        """As ``_asked``, as it came."""
        request = Request(
            method=method,
            path=path,
            body=body if body is None or isinstance(body, bytes) else json_of(body),
            tenant_id=None if tenant_id is None else tenant_meant(tenant_id, self._connection.target.tenant_id),
            is_repeatable=method in ("GET", "PUT") if is_repeatable is None else is_repeatable,
            is_keyed=is_keyed and self._connection.target.options.is_idempotent,
            more_s=more_s,
        )
        return await self._connection.answer(request)

    async def _listed(self, items: str, path: str, tenant_id: str, /, **query: Any) -> list[Data]:
        """All items of a list that comes in pages; ``items`` is what they are under."""
        found: list[Data] = []
        cursor: str | None = None
        while True:
            page = await self._asked(Data, "GET", path_of(*path.split("/"), limit=_PAGE_ITEMS, cursor=cursor, **query), tenant_id)
            found += page[items]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def _tenant(self, tenant_id: str) -> str:
        """The tenant that a call is about, as far as it is known here."""
        return tenant_meant(tenant_id, self._connection.target.tenant_id) or DEFAULT_TENANT

    def close(self) -> None:
        """Close the connection, if it is this service's own. Closing twice is harmless."""
        if self._is_own:
            self._connection.close()

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
