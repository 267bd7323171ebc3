"""The audit over REST: who did what, and whether all of it is still there."""

import asyncio
from typing import Any

from litestar import Controller, Request, get, post
from litestar.exceptions import PermissionDeniedException
from litestar.response import Stream

from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import principal_of, tenant_of
from event_streaming_bus.audit.service import DEFAULT_PAGE, entry_data, report_data
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import time_ms
from event_streaming_bus.store.audit import AuditFilter
from event_streaming_bus.store.audit_entries import Outcome

_NDJSON = "application/x-ndjson"


class AuditController(Controller):
    """Look at the audit, verify it, and take it elsewhere."""

    path = "/api/v1/audit"
    tags = ["audit"]  # noqa: RUF012 - as the base class has it

    @get("/", summary="A page of the audit, newest first")
    async def list_entries(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        action: str | None = None,
        actor: str | None = None,
        target: str | None = None,
        outcome: str | None = None,
        since: str | None = None,
        until: str | None = None,
        all_tenants: bool = False,
        limit: int = DEFAULT_PAGE,
        cursor: int | None = None,
    ) -> dict[str, Any]:
        wanted = AuditFilter(
            tenant_id=_tenant(request, all_tenants),
            action=action,
            actor=actor,
            target=target,
            outcome=_outcome(outcome),
            since_ms=_time("since", since),
            until_ms=_time("until", until),
        )
        page = await services.audit.list_entries(wanted, limit=limit, cursor=cursor)
        return {"entries": [entry_data(entry) for entry in page.entries], "next_cursor": page.next_cursor}

    @post("/verify", status_code=200, summary="Whether every entry is there, unchanged and in its place")
    async def verify(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        _tenant(request, all_tenants=True)
        return report_data(await asyncio.to_thread(services.audit.verify))

    @get("/export", summary="The audit as lines of JSON that can be verified elsewhere")
    async def export(
        self, request: Request[Any, Any, Any], services: Services, all_tenants: bool = False, first_seq: int = 1
    ) -> Stream:
        tenant_id = _tenant(request, all_tenants)
        lines = services.audit.export(tenant_id=tenant_id, first_seq=first_seq)
        return Stream(lines, media_type=_NDJSON, headers={"Cache-Control": "no-store"})

    @get("/key", summary="The public key that checkpoints are verified with, and the newest checkpoint, to be kept elsewhere")
    async def key(self, services: Services) -> dict[str, Any]:
        key = await asyncio.to_thread(services.audit.public_key)
        checkpoint = await asyncio.to_thread(services.audit.last_checkpoint)
        return {"key_id": key.key_id if key else None, "public_key": key.pem() if key else None, "checkpoint": checkpoint}


def _tenant(request: Request[Any, Any, Any], all_tenants: bool) -> str | None:
    principal = principal_of(request.scope)
    if all_tenants and principal is not None and not principal.is_for_all_tenants:
        raise PermissionDeniedException("this is for administrators of the default tenant: it is about all tenants")
    return None if all_tenants else tenant_of(request)


def _outcome(text: str | None) -> Outcome | None:
    if text is None:
        return None
    try:
        return Outcome(text.upper())
    except ValueError:
        accepted = ", ".join(each.value for each in Outcome)
        raise InvalidInputError(f"outcome: expected one of {accepted}, got {text[:100]!r}") from None


def _time(name: str, text: str | None) -> int | None:
    return None if text is None else time_ms(int(text) if text.isdecimal() else text, name)
