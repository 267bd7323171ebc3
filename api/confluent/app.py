"""The REST surface of a Confluent schema registry: its routes, and the ASGI application that answers them.

It stands beside Litestar, not on it: subjects have slashes and percent signs in their names, so requests are told apart by the
path as it was sent; and every answer, errors of the HTTP layer included, has the form that the clients of such a registry know.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, quote

import msgspec
from litestar import Request, asgi
from litestar.handlers import ASGIRouteHandler

from event_streaming_bus.api.acting import user_of
from event_streaming_bus.api.confluent import schemas, settings, subjects
from event_streaming_bus.api.confluent.errors import MEDIA_TYPE, Refusal, refusal_of
from event_streaming_bus.api.confluent.requests import MAX_BODY_BYTES, Call, context_named, segments_of
from event_streaming_bus.api.hosts import check_host
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.registry.subjects import Subjects

PREFIX: Final = "registry"
_MAX_DRAINED_BYTES: Final = 16 * MAX_BODY_BYTES
_MAX_PARAMETERS: Final = 200
_ACCEPTED: Final = {"application/vnd.schemaregistry.v1+json", "application/vnd.schemaregistry+json", "application/json"}
_ACCEPTED_BYTES: Final = {"", "application/octet-stream"}
Handler = Callable[[Call], Any]
Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

_COMPATIBILITY: Final = "compatibility/subjects/{subject}/versions"
_ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "", schemas.root),
    ("GET", "schemas/ids/{id}", schemas.schema),
    ("GET", "schemas/ids/{id}/schema", schemas.schema_text),
    ("GET", "schemas/ids/{id}/subjects", schemas.schema_subjects),
    ("GET", "schemas/ids/{id}/versions", schemas.schema_versions),
    ("GET", "schemas/guids/{guid}", schemas.schema_by_guid),
    ("GET", "schemas/types", schemas.types),
    ("GET", "schemas", schemas.schemas),
    ("GET", "subjects", subjects.subjects),
    ("POST", "subjects/{subject}", subjects.lookup),
    ("DELETE", "subjects/{subject}", subjects.delete_subject),
    ("GET", "subjects/{subject}/metadata", subjects.with_metadata),
    ("GET", "subjects/{subject}/versions", subjects.versions),
    ("POST", "subjects/{subject}/versions", subjects.register),
    ("GET", "subjects/{subject}/versions/{version}", subjects.version),
    ("DELETE", "subjects/{subject}/versions/{version}", subjects.delete_version),
    ("GET", "subjects/{subject}/versions/{version}/schema", subjects.version_schema),
    ("GET", "subjects/{subject}/versions/{version}/referencedby", subjects.referenced_by),
    ("POST", _COMPATIBILITY, subjects.compatibility),
    ("POST", _COMPATIBILITY + "/{version}", subjects.compatibility),
    ("GET", "config", settings.config),
    ("PUT", "config", settings.set_config),
    ("DELETE", "config", settings.delete_config),
    ("GET", "config/{subject}", settings.config),
    ("PUT", "config/{subject}", settings.set_config),
    ("DELETE", "config/{subject}", settings.delete_config),
    ("GET", "mode", settings.mode),
    ("PUT", "mode", settings.set_mode),
    ("GET", "mode/{subject}", settings.mode),
    ("PUT", "mode/{subject}", settings.set_mode),
    ("DELETE", "mode/{subject}", settings.delete_mode),
    ("GET", "contexts", schemas.contexts),
    ("GET", "v1/metadata/version", schemas.server_version),
    ("GET", "v1/metadata/id", schemas.server_id),
)


class _Route(NamedTuple):
    parts: Sequence[str]
    handlers: Mapping[str, Handler]


def _by_length() -> Mapping[int, Sequence[_Route]]:
    handlers: dict[str, dict[str, Handler]] = {}
    for method, pattern, handler in _ROUTES:
        handlers.setdefault(pattern, {})[method] = handler
    routes: dict[int, list[_Route]] = {}
    for pattern, by_method in handlers.items():
        parts = pattern.split("/") if pattern else []
        routes.setdefault(len(parts), []).append(_Route(parts, by_method))
    return routes


_BY_LENGTH: Final = _by_length()


def find(method: str, segments: Sequence[str]) -> tuple[Handler, dict[str, str]]:
    """What answers a request, and the parts of its path that vary. Raises ``Refusal``."""
    for route in _BY_LENGTH.get(len(segments), ()):
        if all(part == segment or part[0] == "{" for part, segment in zip(route.parts, segments, strict=True)):
            handler = route.handlers.get("GET" if method == "HEAD" else method)
            if handler is None:
                allow = ", ".join(route.handlers)
                raise Refusal(405, 405, f"{method} is not for this path; accepted: {allow}", allow)
            varying = zip(route.parts, segments, strict=True)
            return handler, {part[1:-1]: segment for part, segment in varying if part[0] == "{"}
    raise Refusal(404, 404, f"there is nothing at /{'/'.join(segments)[:300]}")


def registry_app(registry: Subjects, *, hosts: Sequence[str], headers: Mapping[str, str], at_root: bool = False) -> App:
    """The application over a registry, under ``/registry`` and, if it is the only one, ``at_root`` as well.

    Requests whose Host header names none of the ``hosts`` are refused; ``["*"]`` accepts all. ``headers`` go with every answer.
    """
    accepted = frozenset(hosts)
    more = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            status, body, special = await _answered(scope, receive)
            told = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()), *more, *special]
            await send({"type": "http.response.start", "status": status, "headers": told})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _answered(scope: Any, receive: Receive) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        method = scope["method"]
        try:
            request: Request[Any, Any, Any] = Request(scope)
            check_host(request.headers.get("host", ""), accepted)
            segments = segments_of(scope.get("raw_path") or quote(scope["path"]).encode())
            if segments[:1] == [PREFIX]:
                segments = segments[1:]
            elif not at_root:
                raise Refusal(404, 404, f"there is nothing at /{'/'.join(segments)[:300]}")
            context = ""
            if segments[:1] == ["contexts"] and len(segments) > 2:
                context, segments = context_named(segments[1]), segments[2:]
            handler, values = find(method, segments)
            body = b""
            if method in ("POST", "PUT"):
                _check_media_type(request.headers.get("content-type", ""))
                body = await _body(receive)
            call = Call(
                registry, tenant_of(request), context, values, _query(scope["query_string"]), body, user_of(request, None)
            )
            found = await asyncio.to_thread(handler, call)
            return 200, found if isinstance(found, bytes) else msgspec.json.encode(found), []
        except Exception as error:
            refusal = refusal_of(error, f"{method} {scope['path']}")
            body = msgspec.json.encode({"error_code": refusal.code, "message": refusal.message})
            return refusal.status, body, [(b"allow", refusal.allow.encode())] if refusal.allow else []

    return app


def mounted(registry: Subjects, *, hosts: Sequence[str], headers: Mapping[str, str]) -> ASGIRouteHandler:
    """The application as a part of the one that is made with Litestar. What Litestar does before and after its own handlers, it
    does not do here: hosts are checked and headers added by the application itself."""
    app = registry_app(registry, hosts=hosts, headers=headers)

    @asgi(f"/{PREFIX}", is_mount=True, copy_scope=True)
    async def confluent_registry(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return confluent_registry


def _check_media_type(content_type: str) -> None:
    """Refuse what browsers send for pages of other origins without asking first: plain text and forms."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _ACCEPTED and media_type not in _ACCEPTED_BYTES:
        raise Refusal(415, 415, f"the media type {media_type[:100]!r} is not accepted; accepted: {', '.join(sorted(_ACCEPTED))}")


def _query(query_string: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise Refusal(400, 400, f"the query has more than {_MAX_PARAMETERS} parameters") from None


async def _body(receive: Receive) -> bytes:
    """The body. One that is too large is read on, as far as there is hope that its sender comes to see the answer."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, 400, "the client has gone")
        size += len(message.get("body", b""))
        if size <= MAX_BODY_BYTES:
            parts.append(message.get("body", b""))
        if size > _MAX_DRAINED_BYTES or not message.get("more_body"):
            break
    if size > MAX_BODY_BYTES:
        raise Refusal(413, 413, f"the body is too large; at most {MAX_BODY_BYTES:,} bytes are accepted")
    return b"".join(parts)


async def _live(receive: Receive, send: Send) -> None:
    """Say that starting and stopping takes nothing."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
