"""Saved queries over REST: list, show, save, remove and run them.

Whoever may ask the history may run them. One that somebody has saved is changed and removed by them alone, and by administrators.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put

from event_streaming_bus.access.access_errors import ForbiddenError
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.history import MAX_BODY_BYTES, How, answered
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import actor_of, principal_of, tenant_of
from event_streaming_bus.errors import InvalidInputError, NotFoundError
from event_streaming_bus.store.saved_queries import SavedQuery

_CHANGING: Final = threading.Lock()  # one server serves a data folder: nobody else's query appears while one is looked at
T = TypeVar("T")


class NewQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A query to save. ``defaults`` are values of ``$names`` in ``sql`` that need not be given when it runs."""

    sql: str
    name: str | None = None
    description: str = ""
    defaults: dict[str, Any] = {}


class SavedQueriesController(Controller):
    """Questions to the history that have a name."""

    path = "/api/v1/history/saved-queries"
    tags = ["history"]  # noqa: RUF012 - as the base class has it

    @get("/", summary="List the saved queries, by name")
    async def list_queries(self, request: Request[Any, Any, Any], services: Services) -> Response[bytes]:
        found = await asyncio.to_thread(services.saved_queries.all, tenant_of(request))
        return _answer({"saved_queries": [query.told() for query in found]})

    @get("/{name:str}", summary="A saved query")
    async def show(self, request: Request[Any, Any, Any], services: Services, name: str) -> Response[bytes]:
        return _answer((await asyncio.to_thread(services.saved_queries.find, tenant_of(request), name)).told())

    @put("/{name:str}", summary="Save a query, in the place of one that has the name")
    async def save(self, request: Request[Any, Any, Any], services: Services, name: str) -> Response[bytes]:
        query = decode(await request.body(), NewQuery, MAX_BODY_BYTES)
        if query.name not in (None, name):
            raise InvalidInputError(f"name: expected '{name}', as in the address, or none; got {query.name!r}")
        tenant_id = tenant_of(request)
        await asyncio.to_thread(services.history.check, query.sql, tenant_id)

        def put() -> SavedQuery:
            return services.saved_queries.put(
                tenant_id,
                name,
                query.sql,
                description=query.description,
                defaults=query.defaults,
                changed_by=actor_of(request.scope)[0],
            )

        return _answer((await asyncio.to_thread(_changed, request, services, name, put)).told())

    @delete("/{name:str}", status_code=200, summary="Remove a saved query")
    async def remove(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, Any]:
        await asyncio.to_thread(
            _changed, request, services, name, lambda: services.saved_queries.remove(tenant_of(request), name)
        )
        return {"name": name, "message": "Saved query removed successfully"}

    @post("/{name:str}/run", status_code=200, summary="Ask the history a saved query")
    async def run(self, request: Request[Any, Any, Any], services: Services, name: str) -> Response[bytes]:
        how = decode(await request.body() or b"{}", How, MAX_BODY_BYTES)
        if how.all_tenants:
            raise InvalidInputError("all_tenants: a saved query is a tenant's, and asks about its rows", path="all_tenants")
        query = await asyncio.to_thread(services.saved_queries.find, tenant_of(request), name)
        how = msgspec.structs.replace(how, parameters=query.values(how.parameters))
        return await answered(request, services, query.sql, how)


def _changed(request: Request[Any, Any, Any], services: Services, name: str, change: Callable[[], T]) -> T:
    """What the change gives. Raises ``ForbiddenError`` if the query is somebody else's."""
    principal = principal_of(request.scope)
    with _CHANGING:
        if principal is not None and not principal.is_admin:
            try:
                owner = services.saved_queries.find(tenant_of(request), name).changed_by
            except NotFoundError:
                owner = principal.principal_id
            if owner != principal.principal_id:
                raise ForbiddenError(f"The saved query '{name}' is of {owner}; they and administrators may change it.", name=name)
        return change()


def _answer(told: dict[str, Any]) -> Response[bytes]:
    return Response(msgspec.json.encode(told), media_type="application/json")
