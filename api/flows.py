"""Flows over REST: check, plan, compare and draw them, apply them, and run them as a whole."""

import asyncio
from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put
from litestar.params import QueryParameter

from event_streaming_bus.api.flow_bodies import FlowBody, check_flow, read_flow, suffix_of
from event_streaming_bus.api.flow_trials import DEFAULT_EVENTS
from event_streaming_bus.api.hosted_flows import Applied, check_functions, flow_data
from event_streaming_bus.api.paging import MAX_ITEMS, paged
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.findings import Severity
from event_streaming_bus.flows.flow_file import MAX_FILE_BYTES
from event_streaming_bus.flows.graph import Graph, graph_of, mermaid
from event_streaming_bus.flows.graph_svg import svg
from event_streaming_bus.flows.metrics import ProcessorMetrics
from event_streaming_bus.flows.plan_diff import Allowed, Step, exit_code
from event_streaming_bus.flows.processors import has_state
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec, to_data
from event_streaming_bus.models import rfc3339

_OUTCOMES: Final = {0: "kept", 3: "rebuild", 1: "lost"}
_FORMS: Final = ("json", "svg", "mermaid")


class Comparison(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Two versions of a flow."""

    old: msgspec.Raw
    new: msgspec.Raw


class FlowsController(Controller):
    """Check flows, and run them as a whole. Bodies are flow files, in JSON, YAML or TOML."""

    path = "/api/v1/flows"
    tags = ["flows"]  # noqa: RUF012 - as the base class has it

    @post("/validate", status_code=200, summary="What is wrong with a flow, or may be, as esb check says it")
    async def validate(self, request: Request[Any, Any, Any], services: Services) -> Response[bytes]:
        found = await asyncio.to_thread(check_flow, await _body(request), services.storage)
        is_valid = not any(each.severity is Severity.ERROR for each in found)
        return _answer({"is_valid": is_valid, "findings": found})

    @post("/plan", status_code=200, summary="What each processor of a flow reads, does, holds and writes")
    async def plan(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        spec = await asyncio.to_thread(read_flow, await _body(request))
        summaries = {node.name: node.summary for node in graph_of(spec).nodes}
        shown = [_planned(processor, summaries[processor.processor_name]) for processor in spec.processors]
        return _answer({"name": spec.name, "processors": shown})

    @post("/diff", status_code=200, summary="What becomes of the state of a flow's processors if it takes the place of another")
    async def diff(
        self, request: Request[Any, Any, Any], services: Services, drop_state: list[str] | None = None
    ) -> Response[bytes]:
        body = await _body(request)
        old, new = await asyncio.to_thread(_compared, body)
        steps = await asyncio.to_thread(services.flows.compare, new, old)
        return _answer(_differences(new, steps, Allowed(drop=frozenset(drop_state or ()))))

    @post("/graph", status_code=200, summary="A flow drawn: as nodes and edges, as SVG, or as Mermaid text")
    async def graph(self, request: Request[Any, Any, Any], format: str = "json") -> Response[bytes]:
        return await _drawn(await asyncio.to_thread(read_flow, await _body(request)), format)

    @post("/dry-run", status_code=200, summary="What a flow would do with the newest events of its streams; nothing is written")
    async def dry_run(self, request: Request[Any, Any, Any], services: Services, last: int = DEFAULT_EVENTS) -> Response[bytes]:
        body = await _body(request)
        spec = await asyncio.to_thread(read_flow, body)
        await asyncio.to_thread(check_functions, spec)
        return Response(await services.flow_trials.run(spec, last), media_type="application/json")

    @get("/", summary="List the flows and how they are")
    async def list_flows(
        self, request: Request[Any, Any, Any], services: Services, limit: int = MAX_ITEMS, cursor: str | None = None
    ) -> Response[bytes]:
        found = await asyncio.to_thread(services.flows.list_flows, tenant_of(request))
        page, following = paged(found, lambda known: known.spec.name, limit, cursor)
        return _answer({"flows": [flow_data(known) for known in page], "next_cursor": following})

    @get("/{name:str}", summary="A flow: its file, its status, its processors")
    async def show(self, request: Request[Any, Any, Any], services: Services, name: str) -> Response[bytes]:
        known = await asyncio.to_thread(services.flows.find, name, tenant_of(request))
        return _answer(flow_data(known) | {"flow": to_data(known.spec)})

    @put("/{name:str}", summary="Make the streams, schemas and processors of a flow; it is not started")
    async def apply(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        name: str,
        rebuild: list[str] | None = None,
        drop_state: list[str] | None = None,
        from_start: bool = False,
    ) -> Response[bytes]:
        allowed = Allowed(frozenset(rebuild or ()), frozenset(drop_state or ()), anything=from_start)
        applied = await asyncio.to_thread(_apply, services, await _body(request), name, allowed)
        told = flow_data(await asyncio.to_thread(services.flows.find, name, tenant_of(request)))
        return _answer(told | {"verdict": applied.value}, status_code=201 if applied is Applied.CREATED else 200)

    @delete("/{name:str}", status_code=200, summary="Forget a flow that does not run, and its state; its streams stay")
    async def forget(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, str]:
        await asyncio.to_thread(services.flows.delete, name, tenant_of(request))
        return {"name": name, "message": "Flow deleted successfully"}

    @post("/{name:str}/start", status_code=200, summary="Start all processors of a flow where it last stopped")
    async def start(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, str]:
        await asyncio.to_thread(services.flows.start, name, tenant_of(request))
        return {"name": name, "message": "Flow started successfully"}

    @post("/{name:str}/stop", status_code=200, summary="Stop all processors of a flow in good order")
    async def stop(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, str]:
        await asyncio.to_thread(services.flows.stop, name, tenant_of(request))
        return {"name": name, "message": "Flow stopped successfully"}

    @get("/{name:str}/metrics", summary="What each processor of a flow has done so far")
    async def metrics(self, request: Request[Any, Any, Any], services: Services, name: str) -> Response[bytes]:
        found = await asyncio.to_thread(services.flows.metrics, name, tenant_of(request))
        return _answer({"name": name, "processors": [_counted(each) for each in found]})

    @get("/{name:str}/logs", summary="The last lines that a flow's workers printed")
    async def logs(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        name: str,
        tail: Annotated[int, QueryParameter(ge=1, le=10_000)] = 100,
    ) -> Response[bytes]:
        lines = await asyncio.to_thread(services.flows.logs, name, tenant_of(request), tail)
        return _answer({"name": name, "lines": lines})

    @get("/{name:str}/graph", summary="A flow that is there, drawn")
    async def graph_of(
        self, request: Request[Any, Any, Any], services: Services, name: str, format: str = "json"
    ) -> Response[bytes]:
        known = await asyncio.to_thread(services.flows.find, name, tenant_of(request))
        return await _drawn(known.spec, format)


async def _body(request: Request[Any, Any, Any]) -> FlowBody:
    return FlowBody(await request.body(), suffix_of(request.headers.get("content-type", "")), tenant_of(request))


def _apply(services: Services, body: FlowBody, name: str, allowed: Allowed) -> Applied:
    if not 1 <= len(name) <= 100 or not name.isascii() or not all(c.isalnum() or c in "._-" for c in name):
        raise InvalidInputError("name: expected 1 to 100 of the characters A-Z a-z 0-9 . _ -", path="name")
    spec = read_flow(body._replace(name=name))
    if spec.name != name:
        raise InvalidInputError(f"name: expected '{name}', as in the address, or none; got {spec.name!r}", path="name")
    return services.flows.apply(spec, allowed)


def _compared(body: FlowBody) -> tuple[FlowSpec | None, FlowSpec]:
    """The old and the new flow of a body; without an old one it is the new flow alone."""
    if body.suffix == ".json" and len(body.content) <= 2 * MAX_FILE_BYTES:
        try:
            both = msgspec.json.decode(body.content, type=Comparison)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            return read_flow(body._replace(content=bytes(both.old))), read_flow(body._replace(content=bytes(both.new)))
    return None, read_flow(body)


def _differences(new: FlowSpec, steps: list[Step] | None, allowed: Allowed) -> dict[str, Any]:
    outcome = "new" if steps is None else _OUTCOMES[exit_code(steps, allowed)]
    return {"name": new.name, "state": outcome, "processors": steps or []}


def _planned(processor: ProcessorSpec, summary: str) -> dict[str, Any]:
    return {
        "processor": processor.processor_name,
        "type": processor.processor_type.value,
        "reads": list(processor.sources.values()),
        "does": summary,
        "state": processor.state_name if has_state(processor) else None,
        "writes": processor.target_stream_id,
    }


def _counted(metrics: ProcessorMetrics) -> dict[str, Any]:
    return {
        "processor_id": metrics.processor_id,
        "processor_name": metrics.name,
        "events_processed": metrics.events_in,
        "events_passed": metrics.events_passed,
        "events_filtered": metrics.events_filtered,
        "events_late": metrics.events_late,
        "events_in_state": metrics.in_state,
        "events_out": metrics.events_out,
        "error_count": metrics.events_dead + metrics.events_skipped,
        "watermark": None if metrics.watermark_ms is None else rfc3339(metrics.watermark_ms),
        "last_processed_at": None if metrics.last_processed_at_ms is None else rfc3339(metrics.last_processed_at_ms),
    }


async def _drawn(spec: FlowSpec, form: str) -> Response[bytes]:
    if form not in _FORMS:
        raise InvalidInputError(f"format: expected one of {', '.join(_FORMS)}; got {form[:100]!r}", path="format")
    graph: Graph = graph_of(spec)
    if form == "json":
        return _answer(msgspec.to_builtins(graph))
    drawn = await asyncio.to_thread(svg if form == "svg" else mermaid, graph)
    return Response(drawn.encode(), media_type="image/svg+xml" if form == "svg" else "text/plain")


def _answer(told: Any, status_code: int = 200) -> Response[bytes]:
    return Response(msgspec.json.encode(told), media_type="application/json", status_code=status_code)
