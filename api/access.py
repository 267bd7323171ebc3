"""Whether a request may be made: who makes it, of which tenant, with which permission, within which limits.

One middleware stands in front of every route but the health and the documentation, so no handler can forget to ask. It fails
closed: whatever goes wrong in it, the request does not come through. What it refuses, it tells the audit.

Headers are read from the scope here, not by the framework, which would remember them: one of them is rewritten.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any, Final

import msgspec
from litestar import Response
from litestar.connection import ASGIConnection

from event_streaming_bus.access import access_errors
from event_streaming_bus.access.authenticator import Authenticator
from event_streaming_bus.access.limits import Limiter
from event_streaming_bus.access.model import Principal
from event_streaming_bus.access.permissions import check_any, check_every, check_streams, grants_for
from event_streaming_bus.api.asgi import given_again, headers_of
from event_streaming_bus.api.audit_recording import App, Recorder, Send, what_of
from event_streaming_bus.api.audited_actions import told
from event_streaming_bus.api.monitoring_access import check_page
from event_streaming_bus.api.problems import problem
from event_streaming_bus.api.route_permissions import (
    MAX_LOOKED_AT_BYTES,
    Need,
    asks_for_all_tenants,
    need_of,
    query_of,
    streams_of,
)
from event_streaming_bus.api.tenancy import TENANT_HEADER, principal_of, set_principal
from event_streaming_bus.errors import BusError, InvalidInputError, NotFoundError, PayloadTooLargeError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.store.storage import Storage

_OPEN: Final = frozenset({"/health", "/health/live", "/health/ready"})
_DOCS: Final = "/docs"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER: Final = "bearer"
_CLOSED_BY_POLICY: Final = 1008
_STATUS: Final[tuple[tuple[type[BusError], int, str], ...]] = (
    (access_errors.NotAuthenticatedError, 401, "Unauthorized"),
    (access_errors.ForbiddenError, 403, "Forbidden"),
    (access_errors.LimitError, 429, "Too Many Requests"),
    (access_errors.IdentityProviderError, 503, "Service Unavailable"),
    (PayloadTooLargeError, 413, "Payload Too Large"),
    (InvalidInputError, 400, "Bad Request"),
    (BusError, 503, "Service Unavailable"),
)
_log: Final = logging.getLogger(__name__)

Connection = ASGIConnection[Any, Any, Any, Any]


class Access:
    """What is asked about requests. Belongs to one event loop."""

    def __init__(self, storage: Storage, authenticator: Authenticator) -> None:
        self._log = storage.log
        self._authenticator = authenticator
        self._limiter = Limiter()

    async def admitted(self, scope: Any, receive: Any, held: ExitStack) -> Any:
        """What the request's body is to be received with, if it may be made; ``held`` counts it until it is closed.

        Raises errors of ``access_errors``, and ``PayloadTooLargeError``.
        """
        address = (scope.get("client") or (None,))[0]
        principal = await self._authenticator.principal(_authorization(scope), address)
        set_principal(scope, principal)
        held.enter_context(self._limiter.counted(principal))
        _check_tenant(scope, principal)
        receive = _bounded(scope, receive, principal.limits.max_body_bytes)
        need = need_of(scope)
        body: bytes | None = None
        if asks_for_all_tenants(scope) and not principal.is_for_all_tenants:
            body = await _body(receive)
            if asks_for_all_tenants(scope, body):
                raise _not_for_all(principal)
        if need is not None:
            body = await self._check(principal, need, scope, receive, body)
        return receive if body is None else given_again(body, receive)

    async def _check(self, principal: Principal, need: Need, scope: Any, receive: Any, body: bytes | None) -> bytes | None:
        """Raise ``ForbiddenError`` unless the principal has what it needs; the body, if it was read for that."""
        if need.is_for_any:
            check_any(principal, need.permission)
            return body
        is_for_every = any(grant.is_for_every_stream for grant in grants_for(principal, need.permission))
        if need.streams is None or is_for_every:
            check_every(principal, need.permission)
            return body
        check_any(principal, need.permission)
        if need.reads_body and body is None:
            body = await _body(receive)
        streams = streams_of(need, scope, body or b"")
        if not streams:
            check_every(principal, need.permission)
        check_streams(principal, need.permission, [self._name(principal.tenant_id, stream) for stream in streams])
        return body

    def _name(self, tenant_id: str, reference: str) -> str:
        """The name of the stream that a name or an id stands for; patterns are about names."""
        try:
            return self._log.find_stream(tenant_id, reference).name
        except NotFoundError:
            return reference


def guarding(
    access: Access | None, recorder: Recorder, *, hosts: Collection[str], headers: Mapping[str, str]
) -> Callable[[App], App]:
    """The middleware. Without ``access``, nobody has to say who they are, but pages of other origins can still do nothing.
    ``headers`` go with what it answers itself."""

    def wrap(app: App) -> App:
        async def guarded(scope: Any, receive: Any, send: Send) -> None:
            if scope["type"] not in ("http", "websocket") or _is_open(scope):
                await app(scope, receive, send)
                return
            with ExitStack() as held:
                try:
                    if access is not None:
                        receive = await access.admitted(scope, receive, held)
                    elif scope["type"] == "http" and scope["method"] not in _SAFE:
                        _check_origin(scope, hosts)
                except Exception as error:
                    if not isinstance(error, BusError):
                        _log.exception("whether a request may be made could not be told")
                        error = BusError("The server failed to tell whether this is allowed; its log has the reason.")
                    await _refuse(error, recorder, headers, scope, receive, send)
                    return
                await app(scope, receive, _choosing_protocol(scope, send))

        return guarded

    return wrap


def _is_open(scope: Mapping[str, Any]) -> bool:
    template = scope.get("path_template") or ""
    return template in _OPEN or template == _DOCS or template.startswith(f"{_DOCS}/")


def _check_origin(scope: Any, hosts: Collection[str]) -> None:
    """A browser lets any page send requests to any server, and says in ``Origin`` which page it is."""
    connection: Connection = ASGIConnection(scope)
    if "origin" in connection.headers:
        try:
            check_page(connection, hosts)
        except InvalidInputError as error:
            raise access_errors.ForbiddenError(error.message) from None


def _authorization(scope: Any) -> str | None:
    """What says who it is: the header, or, for WebSockets of browsers, which cannot set it, the protocols ``bearer, TOKEN``."""
    headers = headers_of(scope, "authorization")
    if len(headers) > 1:
        raise access_errors.NotAuthenticatedError("The request has more than one header Authorization.")
    if not headers and scope["type"] == "websocket":
        protocols = [each.strip() for value in headers_of(scope, "sec-websocket-protocol") for each in value.split(",")]
        if len(protocols) == 2 and protocols[0] == _BEARER:
            return f"Bearer {protocols[1]}"
    return headers[0] if headers else None


def _choosing_protocol(scope: Any, send: Send) -> Send:
    """Browsers want to be told which of the protocols was chosen: never the token."""
    if scope["type"] != "websocket" or _BEARER not in scope.get("subprotocols", ()):
        return send

    async def choose(message: Any) -> None:
        if message["type"] == "websocket.accept" and not message.get("subprotocol"):
            message = message | {"subprotocol": _BEARER}
        await send(message)

    return choose


def _check_tenant(scope: Any, principal: Principal) -> None:
    """Raise ``ForbiddenError`` if another tenant than the principal's is asked for; afterwards the header names the one that is
    meant, whoever reads it."""
    if principal.is_for_all_tenants:
        return
    for asked in (*headers_of(scope, TENANT_HEADER), *query_of(scope).get("tenant_id", ())):
        if asked != principal.tenant_id:
            raise access_errors.ForbiddenError(
                f"{principal.principal_id} is of the tenant {principal.tenant_id}; only administrators of the default tenant may "
                "act for another.",
                permission="tenant:choose",
            )
    name = TENANT_HEADER.lower().encode()
    kept = [(key, value) for key, value in scope["headers"] if key.lower() != name]
    scope["headers"] = [*kept, (name, principal.tenant_id.encode())]


def _not_for_all(principal: Principal) -> access_errors.ForbiddenError:
    return access_errors.ForbiddenError(
        f"This is about all tenants, and {principal.principal_id} is of the tenant {principal.tenant_id}.",
        permission="tenant:choose",
    )


# --- bodies -----------------------------------------------------------------------------------------------------------


def _bounded(scope: Any, receive: Any, max_bytes: int | None) -> Any:
    """``receive``, which raises ``PayloadTooLargeError`` for a body that the principal may not send."""
    if max_bytes is None:
        return receive
    too_large = PayloadTooLargeError(f"The token may send bodies of at most {max_bytes:,} bytes.", max_body_bytes=max_bytes)
    if any(size.isdecimal() and int(size[:20]) > max_bytes for size in headers_of(scope, "content-length")):
        raise too_large
    seen = 0

    async def bounded() -> Any:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > max_bytes:
                raise too_large
        return message

    return bounded


async def _body(receive: Any) -> bytes:
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidInputError("the client has gone")
        parts += message.get("body", b"")
        if len(parts) > MAX_LOOKED_AT_BYTES:
            raise PayloadTooLargeError(f"the body has more than {MAX_LOOKED_AT_BYTES:,} bytes")
        if not message.get("more_body"):
            return bytes(parts)


# --- refusing ---------------------------------------------------------------------------------------------------------


async def _refuse(error: BusError, recorder: Recorder, headers: Mapping[str, str], scope: Any, receive: Any, send: Send) -> None:
    status, title = next((status, title) for kind, status, title in _STATUS if isinstance(error, kind))
    if status in (401, 403, 429):
        what = what_of(scope, told(scope), status, error.message)
        if principal_of(scope) is None:
            what["tenant_id"] = DEFAULT_TENANT  # not where somebody unknown wants it to be written
        await recorder.refused(status, what)
    if scope["type"] == "websocket":
        await receive()  # the client's wish to connect
        await send({"type": "websocket.close", "code": _CLOSED_BY_POLICY, "reason": error.message[:120]})
        return
    answer = _answer(scope, status, title, error)
    answer.headers.update(headers)
    if status == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="event-streaming-bus"'
    if "retry_after_s" in error.details:
        answer.headers["Retry-After"] = str(error.details["retry_after_s"])
    await answer.to_asgi_response(None, ASGIConnection(scope))(scope, receive, send)  # type: ignore[arg-type]


def _answer(scope: Any, status: int, title: str, error: BusError) -> Response[bytes]:
    if getattr(scope.get("route_handler"), "is_mount", False) or "route_handler" not in scope:
        # Clients of a registry know errors in this form.
        body = msgspec.json.encode({"error_code": status, "message": error.message})
        return Response(body, status_code=status, media_type="application/vnd.schemaregistry.v1+json")
    return problem(status, title, error.message, scope["path"], **error.details)
