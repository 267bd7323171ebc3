"""``esb why``: the story of an event.

The history belongs to one process. While ``esb serve`` has it, the question goes to the server.
"""

import asyncio
from typing import Final
from urllib.parse import quote

import click
import msgspec

from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.tables import printable
from event_streaming_bus.errors import BusError, InUseError, NotFoundError
from event_streaming_bus.store.server_calls import asked, server_of
from event_streaming_bus.store.storage import Storage
from event_streaming_bus.story.forms import as_data, lines
from event_streaming_bus.story.model import Story
from event_streaming_bus.story.service import DEFAULT_ITEMS, MAX_ITEMS, StoryService

_TIMEOUT_S: Final = 120.0


@click.command()
@click.argument("event_id")
@click.option("--max-items", type=click.IntRange(1, MAX_ITEMS), default=DEFAULT_ITEMS, show_default=True, help="Of each list.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def why(settings: Settings, event_id: str, max_items: int, as_json: bool) -> None:
    """Say why an event is where it is: validation, routes, waits, processors, deliveries, and what it was made of."""
    storage: Storage = settings.open()
    try:
        story = asyncio.run(StoryService(storage).story(event_id, settings.tenant, max_items=max_items))
    except InUseError as error:
        story = _ask_server(storage, settings.tenant, event_id, max_items, error)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(as_data(story), enc_hook=str)).decode())
        return
    for line in lines(story):
        click.echo(printable(line))


def _ask_server(storage: Storage, tenant_id: str, event_id: str, max_items: int, error: InUseError) -> Story:
    server = server_of(storage.folder, error)
    path = f"events/{quote(event_id, safe='')}/story?max_items={max_items}"
    told = asked(
        server,
        path,
        error,
        tenant_id=tenant_id,
        timeout_s=_TIMEOUT_S,
        refusal=lambda status: NotFoundError if status == 404 else BusError,
    )
    return msgspec.json.decode(told, type=Story)
