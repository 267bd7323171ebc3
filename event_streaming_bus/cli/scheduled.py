"""``esb scheduled``: the events that are to be delivered later."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_SKIPPED, Settings
from event_streaming_bus.cli.tables import counted, print_table
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.scheduled import MAX_PAGE_EVENTS
from event_streaming_bus.store.storage import Storage

_COLUMNS: Final = ["deliver_at", "event_id", "stream", "event_type", "key", "expires_at"]


@click.group()
def scheduled() -> None:
    """List and cancel events that are to be delivered later."""


@scheduled.command(name="list")
@click.option("--stream", help="Only events for this stream.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="List at most so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(settings: Settings, stream: str | None, limit: int, as_json: bool) -> None:
    """List the events that wait for their time, those that are due first in front."""
    storage: Storage = settings.open()
    only = None if stream is None else storage.log.find_stream(settings.tenant, stream).stream_id
    waiting = _listed(storage.log, settings.tenant, only, limit + 1)
    shown = [row for _, row in zip(range(limit), waiting, strict=False)]
    if as_json:
        for row in shown:
            click.echo(msgspec.json.encode(row).decode())
    elif shown:
        print_table(_COLUMNS, [[row[column] for column in _COLUMNS] for row in shown])
    else:
        click.echo("no events wait for their time", err=True)
    if next(waiting, None) is not None:
        click.echo(f"there are more than {limit:,}; --limit says how many to list", err=True)


@scheduled.command()
@click.argument("event_ids", nargs=-1, required=True)
@click.pass_obj
def cancel(settings: Settings, event_ids: Sequence[str]) -> int:
    """Cancel events that wait for their time: they are never delivered, and their ids may be used again."""
    storage: Storage = settings.open()
    cancelled = 0
    for event_id in event_ids:
        if storage.log.cancel_scheduled(settings.tenant, event_id):
            cancelled += 1
        else:
            click.echo(f"esb: no event '{event_id}' waits for its time; it may have been delivered", err=True)
    click.echo(f"{counted(cancelled, 'event')} cancelled")
    return 0 if cancelled == len(event_ids) else EXIT_SKIPPED


def _listed(log: EventLog, tenant_id: str, stream_id: str | None, limit: int) -> Iterator[dict[str, Any]]:
    """The first ``limit`` events that wait, page by page."""
    names = {info.stream_id: info.name for info in log.list_streams(tenant_id, internal=True)}
    cursor: str | None = None
    while limit > 0:
        page = log.scheduled(tenant_id, stream_id, limit=min(limit, MAX_PAGE_EVENTS), cursor=cursor)
        for each in page.events:
            yield each.as_data(names.get(each.split.stream_id, each.split.stream_id))
        limit -= len(page.events)
        cursor = page.next_cursor
        if cursor is None:
            return
