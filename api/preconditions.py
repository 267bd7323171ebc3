"""Preconditions: ``ETag`` with what is configured, and ``If-Match`` on whatever changes it (RFC 9110).

A tag stands for the settings of a thing, not for the counts and states that an answer shows beside them: those change all the
time, and an update must not be refused for that. So it is no validator for caches, and ``If-None-Match`` is for making alone.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

import msgspec
import xxhash
from litestar import Request

from event_streaming_bus.api.asgi import App, Send, headers_of, respond, with_headers
from event_streaming_bus.api.audited_actions import API
from event_streaming_bus.api.problems import problem
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import BusError, NotFoundError
from event_streaming_bus.flows.spec import to_data
from event_streaming_bus.registry.service import describe
from event_streaming_bus.routing.model import rule_data

_UNSAFE: Final = frozenset({"POST", "PUT", "DELETE"})
_TAG: Final = re.compile(r'\s*(W/)?("[^"]*")\s*(?:,|$)')

Look = Callable[[Services, str, str], Awaitable[tuple[str, Any]]]
"""Of a tenant's thing with an id or name: what it is called for good, and its settings. Raises ``NotFoundError``."""


class _Current(NamedTuple):
    """A thing as it is; ``tag`` is None if there is none."""

    identity: str
    tag: str | None


async def _stream(services: Services, tenant_id: str, target: str) -> tuple[str, Any]:
    info = await asyncio.to_thread(services.storage.log.find_stream, tenant_id, target)
    return info.stream_id, [info.stream_id, msgspec.to_builtins(info.config)]


async def _schema(services: Services, tenant_id: str, target: str) -> tuple[str, Any]:
    record = await services.schemas.get_schema(target, tenant_id)
    return record.schema_id, describe(record)


async def _group(services: Services, tenant_id: str, target: str) -> tuple[str, Any]:
    group = await services.consumer_groups.get_consumer_group(target, tenant_id)
    return group.group_id, [group.group_id, msgspec.to_builtins(group.config), group.is_paused]


async def _route(services: Services, tenant_id: str, target: str) -> tuple[str, Any]:
    return target, rule_data(await services.routing.get_route(target, tenant_id))


async def _processor(services: Services, tenant_id: str, target: str) -> tuple[str, Any]:
    record = await asyncio.to_thread(services.storage.catalog.get_processor, tenant_id, target)
    return record.processor_id, [record.processor_id, record.flow, record.config]


async def _flow(services: Services, tenant_id: str, target: str) -> tuple[str, Any]:
    known = await asyncio.to_thread(services.flows.find, target, tenant_id)
    return target, [known.is_applied, to_data(known.spec)]


async def _projection(services: Services, tenant_id: str, target: str) -> tuple[str, Any]:
    return target, (await services.projections.describe(target, tenant_id))["definition"]


async def _setting(services: Services, tenant_id: str, target: str) -> tuple[str, Any]:
    (told,) = await asyncio.to_thread(services.storage.settings.told, target)
    return target, [told["value"], told["source"]]


LOOKS: Final[Mapping[str, Look]] = {
    f"{API}streams/{{stream}}": _stream,
    f"{API}schemas/{{schema_id}}": _schema,
    f"{API}consumer-groups/{{group}}": _group,
    f"{API}routes/{{name}}": _route,
    f"{API}stream-processors/{{processor_id}}": _processor,
    f"{API}flows/{{name}}": _flow,
    f"{API}projections/{{name}}": _projection,
    f"{API}settings/{{name}}": _setting,
}
"""What has a tag, by the route that shows it. The routes below it, and those of other methods, take preconditions."""


def resource_of(template: str) -> str | None:
    """The route that shows what a route is about, if that has a tag. Members of a consumer group are things of their own."""
    resource = next((each for each in LOOKS if template == each or template.startswith(f"{each}/")), None)
    return None if resource is None or template.startswith(f"{resource}/members/") else resource


def conditional(services: Services, *, headers: Mapping[str, str]) -> Callable[[App], App]:
    """The middleware. It must be within the one that authenticates. ``headers`` go with what it answers itself.

    Requests through it that replace or delete one and the same thing, and those with a precondition, come one after the other.
    """
    locks: WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = WeakValueDictionary()

    async def look(scope: Any, resource: str) -> _Current:
        target = str(next(iter((scope.get("path_params") or {}).values()), ""))
        try:
            identity, settings = await LOOKS[resource](services, tenant_of(Request(scope)), target)
        except NotFoundError:
            return _Current(target, None)
        return _Current(identity, f'"{xxhash.xxh3_128_hexdigest(msgspec.json.encode(settings, enc_hook=str, order="sorted"))}"')

    def wrap(app: App) -> App:
        async def checked(scope: Any, receive: Any, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            method, template = scope["method"], scope.get("path_template") or ""
            resource = resource_of(template)
            conditions = [*headers_of(scope, "If-Match"), *headers_of(scope, "If-None-Match")] if method in _UNSAFE else []
            if resource is None and conditions and template.startswith(API):
                told = "If-Match, If-None-Match: what this address is about has no ETag"
                await respond(problem(400, "InvalidInput", told, scope["path"]), headers, scope, receive, send)
            elif resource is None or not (
                conditions or method in ("PUT", "DELETE") or (method == "GET" and template == resource)
            ):
                await app(scope, receive, send)
            elif method == "GET":
                current = await _or_unknown(look(scope, resource))
                await app(scope, receive, send if current.tag is None else with_headers(send, {"ETag": current.tag}))
            else:
                await change(resource, scope, receive, send)

        async def change(resource: str, scope: Any, receive: Any, send: Send) -> None:
            current = await _or_unknown(look(scope, resource))
            async with AsyncExitStack() as held:
                place = (tenant_of(Request(scope)), resource, current.identity)
                await held.enter_async_context(locks.setdefault(place, asyncio.Lock()))
                current = await _or_unknown(look(scope, resource))  # it may be another by now
                refusal = _refusal(scope, current.tag)
                if refusal is not None:
                    status, title, told = refusal
                    answer = problem(status, title, told, scope["path"], etag=current.tag)
                    await respond(answer, headers, scope, receive, send)
                    return
                if scope["method"] == "DELETE":
                    await app(scope, receive, send)
                    return

                async def tagged(message: Any) -> None:
                    if message["type"] == "http.response.start" and message["status"] < 300:
                        tag = (await _or_unknown(look(scope, resource))).tag
                        if tag is not None:
                            message = message | {"headers": [*message["headers"], (b"etag", tag.encode())]}
                    await send(message)

                await app(scope, receive, tagged)

        return checked

    return wrap


async def _or_unknown(looking: Awaitable[_Current]) -> _Current:
    """What is found; where looking fails, whoever handles the request fails too, and tells why."""
    try:
        return await looking
    except BusError:
        return _Current("", None)


def _refusal(scope: Any, tag: str | None) -> tuple[int, str, str] | None:
    """``(status, title, detail)`` if the request's preconditions do not hold for what has this tag, or cannot be read."""
    for name, is_wanted in (("If-Match", True), ("If-None-Match", False)):
        values = headers_of(scope, name)
        if not values:
            continue
        tags = _tags(", ".join(values))
        if tags is None:
            return 400, "InvalidInput", f'{name}: expected * or tags in quotes, as in "0f3a"'
        matches = tag is not None and ("*" in tags or tag in tags)
        if matches is not is_wanted:
            if tag is None:
                return 412, "PreconditionFailed", f"{name}: there is no such thing"
            told = "it is not as it was" if is_wanted else "it is there already"
            return 412, "PreconditionFailed", f"{name}: {told}; its tag is {tag} now"
    return None


def _tags(text: str) -> list[str] | None:
    """The strong tags of a header, or None if it cannot be read. A weak one never matches."""
    if text.strip() == "*":
        return ["*"]
    found, at = [], 0
    while at < len(text):
        match = _TAG.match(text, at)
        if match is None:
            return None
        if match[1] is None:
            found.append(match[2])
        at = match.end()
    return found if found or text.strip() else None
