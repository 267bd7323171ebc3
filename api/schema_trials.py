"""The contract time machine over REST: a schema tried on the events that a stream holds already."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import msgspec
from litestar import Controller, Request, post

from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import time_ms
from event_streaming_bus.registry.replay.trial import DEFAULT_EXAMPLES, Report, try_schema

DEFAULT_LIMIT: Final = 1_000_000
MAX_LIMIT: Final = 10_000_000
_MAX_BODY_BYTES: Final = 2 << 20
# Trials take seconds: they have threads of their own, so that other requests do not wait for one. More trials wait in line.
_TRIALS: Final = ThreadPoolExecutor(2, "esb-schema-trial")


class SchemaTrial(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A schema to try on the events of ``stream`` whose time is ``since`` or later and before ``until``: RFC 3339 or epoch
    milliseconds. At most ``limit`` events are looked at; each reason for a failure has up to ``examples`` of them."""

    schema: dict[str, Any]
    stream: str
    since: str | int | None = None
    until: str | int | None = None
    limit: int = DEFAULT_LIMIT
    examples: int = DEFAULT_EXAMPLES


class SchemaTrialsController(Controller):
    """Try schemas on stored events."""

    path = "/api/v1/schemas/try"
    tags = ["schemas"]  # noqa: RUF012 - as the base class has it

    @post("/", status_code=200, summary="Which stored events of a stream a schema would refuse, and why; nothing is registered")
    async def try_schema(self, request: Request[Any, Any, Any], services: Services) -> Report:
        trial = decode(await request.body(), SchemaTrial, _MAX_BODY_BYTES)
        if trial.limit > MAX_LIMIT:
            raise InvalidInputError(f"limit: at most {MAX_LIMIT:,} events are looked at, got {trial.limit:,}")
        run = partial(
            try_schema,
            services.storage,
            trial.schema,
            trial.stream,
            tenant_of(request),
            since_ms=_time("since", trial.since),
            until_ms=_time("until", trial.until),
            limit=trial.limit,
            examples=trial.examples,
        )
        return await asyncio.get_running_loop().run_in_executor(_TRIALS, run)


def _time(name: str, value: str | int | None) -> int | None:
    try:
        return None if value is None else time_ms(value)
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error.message.removeprefix('timestamp: ')}") from None
