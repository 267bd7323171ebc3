"""``esb trace``: what followed from an event, what led to it, and what belongs together.

The history belongs to one process. While ``esb serve`` has it, the question goes to the server.
"""

import asyncio
import json
from typing import Final
from urllib.parse import quote

import click
import msgspec

from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.tables import printable
from event_streaming_bus.correlation.forms import drawn, mermaid, nested
from event_streaming_bus.correlation.model import Trace, TracedEvent
from event_streaming_bus.correlation.service import DEFAULT_DEPTH, DEFAULT_EVENTS, MAX_DEPTH, MAX_EVENTS, CorrelationService
from event_streaming_bus.errors import BusError, InUseError, NotFoundError
from event_streaming_bus.store.server_calls import asked, server_of
from event_streaming_bus.store.storage import Storage

_TIMEOUT_S: Final = 120.0


@click.command()
@click.argument("event_id")
@click.option("--back", is_flag=True, help="What led to the event, instead of what followed from it.")
@click.option("--correlation", is_flag=True, help="EVENT_ID is a correlation id: all events that have it.")
@click.option("--max-events", type=click.IntRange(1, MAX_EVENTS), default=DEFAULT_EVENTS, show_default=True)
@click.option("--max-depth", type=click.IntRange(1, MAX_DEPTH), default=DEFAULT_DEPTH, show_default=True, help="So many steps.")
@click.option("--mermaid", "as_mermaid", is_flag=True, help="A picture as text, for Mermaid.")
@click.option("--json", "as_json", is_flag=True, help="JSON: each event with those that followed from it.")
@click.pass_obj
def trace(
    settings: Settings,
    event_id: str,
    back: bool,
    correlation: bool,
    max_events: int,
    max_depth: int,
    as_mermaid: bool,
    as_json: bool,
) -> None:
    """Say what followed from an event: what names it as its cause, what names that, and so on."""
    for one, other in ((("--back", back), ("--correlation", correlation)), (("--mermaid", as_mermaid), ("--json", as_json))):
        if one[1] and other[1]:
            raise click.UsageError(f"choose one of {one[0]} and {other[0]}")
    storage: Storage = settings.open()
    service, tenant_id = CorrelationService(storage), settings.tenant
    if correlation:
        asked = service.by_correlation(event_id, tenant_id, max_events=max_events)
        path, options = f"correlations/{quote(event_id, safe='')}", {"max_events": max_events}
    elif back:
        asked = service.ancestors(event_id, tenant_id, max_depth=max_depth)
        path, options = f"events/{quote(event_id, safe='')}/ancestors", {"max_depth": max_depth}
    else:
        asked = service.tree(event_id, tenant_id, max_events=max_events, max_depth=max_depth)
        path, options = f"events/{quote(event_id, safe='')}/tree", {"max_events": max_events, "max_depth": max_depth}
    try:
        found = asyncio.run(asked)
    except InUseError as error:
        found = _ask_server(storage, tenant_id, path, options, error)
    if as_mermaid:
        click.echo(mermaid(found), nl=False)
    elif as_json:
        click.echo(msgspec.json.encode(nested(found)))
    else:
        for line in drawn(found):
            click.echo(printable(line))


def _ask_server(storage: Storage, tenant_id: str, path: str, options: dict[str, int], error: InUseError) -> Trace:
    server = server_of(storage.folder, error)
    query = "&".join(f"{name}={value}" for name, value in options.items())
    answer = asked(
        server,
        f"{path}?format=list&{query}",
        error,
        tenant_id=tenant_id,
        timeout_s=_TIMEOUT_S,
        refusal=lambda status: NotFoundError if status == 404 else BusError,
    )
    told = json.loads(answer)
    return Trace(events=tuple(msgspec.convert(told["events"], list[TracedEvent])), is_cut_off=told["is_cut_off"])
