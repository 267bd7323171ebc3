"""Stream processors over REST."""

from typing import Any

from litestar import Controller, Request, delete, get, post

from event_streaming_bus.api.acting import user_of
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.paging import MAX_ITEMS, paged
from event_streaming_bus.api.processor_metrics import processor_metrics
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of

_MAX_BODY_BYTES = 1 << 20


class ProcessorsController(Controller):
    """Create, start, stop and watch stream processors."""

    path = "/api/v1/stream-processors"
    tags = ["stream processors"]  # noqa: RUF012 - as the base class has it

    @post("/", summary="Create a processor; it is not started")
    async def create(self, request: Request[Any, Any, Any], services: Services) -> dict[str, str]:
        config = decode(await request.body(), dict[str, Any], _MAX_BODY_BYTES)
        processor_id = await services.processors.create_stream_processor(config, tenant_of(request), user_of(request, None))
        return {"processor_id": processor_id, "message": "Stream processor created successfully"}

    @get("/", summary="List the processors")
    async def list_processors(
        self, request: Request[Any, Any, Any], services: Services, limit: int = MAX_ITEMS, cursor: str | None = None
    ) -> dict[str, Any]:
        found = await services.processors.list_stream_processors(tenant_of(request))
        page, following = paged(found, lambda processor: str(processor["processor_id"]), limit, cursor)
        return {"processors": page, "next_cursor": following}

    @get("/{processor_id:str}", summary="A processor's configuration and status")
    async def processor(self, request: Request[Any, Any, Any], services: Services, processor_id: str) -> dict[str, Any]:
        return await services.processors.get_stream_processor(processor_id, tenant_of(request))

    @delete("/{processor_id:str}", status_code=200, summary="Forget a processor that does not run")
    async def forget(self, request: Request[Any, Any, Any], services: Services, processor_id: str) -> dict[str, str]:
        await services.processors.delete_stream_processor(processor_id, tenant_of(request))
        return {"processor_id": processor_id, "message": "Stream processor deleted successfully"}

    @post("/{processor_id:str}/start", status_code=200, summary="Start a processor where it last stopped")
    async def start(self, request: Request[Any, Any, Any], services: Services, processor_id: str) -> dict[str, str]:
        await services.processors.start_stream_processor(processor_id, tenant_of(request))
        return {"message": "Stream processor started successfully"}

    @post("/{processor_id:str}/stop", status_code=200, summary="Stop a processor in good order")
    async def stop(self, request: Request[Any, Any, Any], services: Services, processor_id: str) -> dict[str, str]:
        await services.processors.stop_stream_processor(processor_id, tenant_of(request))
        return {"message": "Stream processor stopped successfully"}

    @get("/{processor_id:str}/metrics", summary="What a processor has done so far")
    async def metrics(self, request: Request[Any, Any, Any], services: Services, processor_id: str) -> dict[str, Any]:
        return await processor_metrics(services, processor_id, tenant_of(request))

    @get("/{processor_id:str}/logs", summary="The last lines that a processor's workers printed")
    async def logs(
        self, request: Request[Any, Any, Any], services: Services, processor_id: str, tail: int = 100
    ) -> dict[str, Any]:
        lines = await services.processors.get_processor_logs(processor_id, tenant_of(request), tail=tail)
        return {"processor_id": processor_id, "lines": lines}
