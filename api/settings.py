"""Settings over REST. They are of the data folder, so of all tenants: administrators of the default tenant change them."""

import asyncio
from typing import Any

import msgspec
from litestar import Controller, Request, delete, get, put

from event_streaming_bus import __version__
from event_streaming_bus.access.access_errors import ForbiddenError
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import actor_of, principal_of

_MAX_BODY_BYTES = 1 << 12


class NewValue(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to set: a whole number, or null for none."""

    value: int | None


class SettingsController(Controller):
    """What can be changed while the server runs."""

    path = "/api/v1/settings"
    tags = ["settings"]  # noqa: RUF012 - as the base class has it

    @get("/", summary="List the settings, with where their values come from")
    async def list_settings(self, services: Services) -> dict[str, Any]:
        return {"version": __version__, "settings": await asyncio.to_thread(services.storage.settings.told)}

    @get("/{name:str}", summary="A setting")
    async def show(self, services: Services, name: str) -> dict[str, Any]:
        (told,) = await asyncio.to_thread(services.storage.settings.told, name)
        return told

    @put("/{name:str}", summary="Set it: every process that uses the data folder goes by it within a second")
    async def change(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, Any]:
        _check_reach(request)
        new = decode(await request.body(), NewValue, _MAX_BODY_BYTES)
        await asyncio.to_thread(services.storage.settings.set, name, new.value, changed_by=actor_of(request.scope)[0])
        (told,) = await asyncio.to_thread(services.storage.settings.told, name)
        return told

    @delete("/{name:str}", status_code=200, summary="Forget what was set: the environment counts again, or the default")
    async def reset(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, Any]:
        _check_reach(request)
        await asyncio.to_thread(services.storage.settings.reset, name)
        (told,) = await asyncio.to_thread(services.storage.settings.told, name)
        return told


def _check_reach(request: Request[Any, Any, Any]) -> None:
    principal = principal_of(request.scope)
    if principal is not None and not principal.is_for_all_tenants:
        raise ForbiddenError(
            f"Settings are of all tenants, and {principal.principal_id} is of the tenant {principal.tenant_id}.",
            permission="setting:manage",
        )
