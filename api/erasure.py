"""Erasure over REST: erase a subject, and look at the certificates of that."""

from typing import Any

import msgspec
from litestar import Controller, Request, get, post

from event_streaming_bus.api.acting import user_of
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.paging import MAX_ITEMS, paged
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.erasure.certificates import certificate_data

_MAX_BODY_BYTES = 1 << 16


class NewErasure(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A subject to be erased. ``reason`` is kept for ever, and should name nobody. ``count_events``: read every stream beforehand
    to say how many events it is about."""

    subject: str
    reason: str
    user_id: str | None = None
    count_events: bool = False


class SubjectName(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A subject that is asked about. In a body and not in an address, as addresses are written into logs."""

    subject: str
    count_events: bool = False


class ErasuresController(Controller):
    """Make a subject's personal data unreadable for good, and prove it."""

    path = "/api/v1/erasures"
    tags = ["erasures"]  # noqa: RUF012 - as the base class has it

    @post("/", summary="Erase a subject: all of its personal data becomes unreadable, everywhere and for good")
    async def erase(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        meant = decode(await request.body(), NewErasure, _MAX_BODY_BYTES)
        certificate = await services.erasure.erase_subject(
            meant.subject,
            tenant_of(request),
            meant.reason,
            user_of(request, meant.user_id),
            count_events=meant.count_events,
        )
        return certificate_data(certificate)

    @get("/", summary="List the certificates of erasures, oldest first")
    async def list_certificates(
        self, request: Request[Any, Any, Any], services: Services, limit: int = MAX_ITEMS, cursor: str | None = None
    ) -> dict[str, Any]:
        certificates = await services.erasure.list_certificates(tenant_of(request))
        page, following = paged(certificates, lambda certificate: f"{certificate.number:015d}", limit, cursor)
        return {"erasures": [certificate_data(certificate) for certificate in page], "next_cursor": following}

    @get("/verify", summary="Whether the certificates are all there, unchanged and true")
    async def verify(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        found = await services.erasure.verify_certificates(tenant_of(request))
        return {"is_intact": found.is_intact, **msgspec.to_builtins(found)}

    @post("/subject-report", status_code=200, summary="What there is of a subject; nothing is changed")
    async def report(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        meant = decode(await request.body(), SubjectName, _MAX_BODY_BYTES)
        told = await services.erasure.subject_report(meant.subject, tenant_of(request), count_events=meant.count_events)
        answer: dict[str, Any] = msgspec.to_builtins(told)
        return answer

    @get("/{certificate_id:str}", summary="One certificate")
    async def certificate(self, request: Request[Any, Any, Any], services: Services, certificate_id: str) -> dict[str, Any]:
        return certificate_data(await services.erasure.get_certificate(certificate_id, tenant_of(request)))
