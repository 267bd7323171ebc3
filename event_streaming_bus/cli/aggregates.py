"""``esb aggregates``: append to aggregates, rebuild them, look at their events, and prove their snapshots."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.aggregate_lifecycle import COMMANDS
from event_streaming_bus.cli.folds import folds_option, opened
from event_streaming_bus.cli.main import EXIT_ERROR, Settings
from event_streaming_bus.cli.modules import allow_module_option
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.json_places import placed
from event_streaming_bus.models import rfc3339
from event_streaming_bus.sourcing.model import NewEvent
from event_streaming_bus.sourcing.plain import aggregate_data, event_data, recorded_data
from event_streaming_bus.sourcing.rebuilding import SnapshotCheck
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.aggregates import AggregateStatus
from event_streaming_bus.store.recorded import RecordedEvent

_COLUMNS: Final = ["aggregate_id", "status", "current_version", "gone_version", "created_at"]
_PAGE: Final = 1000
_MAX_BYTES: Final = 16 << 20


@click.group()
def aggregates() -> None:
    """Append to aggregates, rebuild them, look at their events, and end their lives."""


for _command in COMMANDS:
    aggregates.add_command(_command)


# --- appending --------------------------------------------------------------------------------------------------------


@aggregates.command()
@click.argument("aggregate_type", metavar="TYPE")
@click.argument("aggregate_id", metavar="ID")
@click.argument("event_type", metavar="EVENT")
@click.argument("data", metavar="[JSON|-]", required=False)
@click.option("--file", metavar="FILE", help="A file with the JSON object.")
@click.option(
    "--expected-version", metavar="VERSION", default="any", show_default=True, help="A version, any, no_stream or stream_exists."
)
@click.option("--event-id", help="The event's id: appended again with it, it is the same event.")
@click.option("--correlation-id")
@click.option("--causation-id")
@click.option("--metadata", metavar="JSON", help="A JSON object.")
@click.option("--time", "timestamp", help="The event time, as RFC 3339 text or epoch milliseconds.  [default: now]")
@click.option("--user", "user_id", help="On whose behalf.")
@click.option("--stream", help="The stream that gets the event.  [default: the one named as the type]")
@click.option("--json", "as_json", is_flag=True, help="What was recorded, as one JSON object.")
@click.pass_obj
def append(
    settings: Settings,
    aggregate_type: str,
    aggregate_id: str,
    event_type: str,
    data: str | None,
    file: str | None,
    expected_version: str,
    event_id: str | None,
    correlation_id: str | None,
    causation_id: str | None,
    metadata: str | None,
    timestamp: str | None,
    user_id: str | None,
    stream: str | None,
    as_json: bool,
) -> None:
    """Append one event to the aggregate ID. Its data are a JSON object: an argument, a --file, or - for standard input."""
    if (data is None) == (file is None):
        raise click.UsageError("give the event's data as an argument, as - for standard input, or with --file: one of them")
    event = NewEvent(
        event_type=event_type,
        event_data=_object(*_source(data, file)),
        event_id=event_id,
        correlation_id=correlation_id,
        causation_id=causation_id,
        metadata=None if metadata is None else _object("--metadata", metadata.encode()),
        timestamp=int(timestamp) if timestamp is not None and _is_number(timestamp) else timestamp,
    )
    expected = int(expected_version) if _is_number(expected_version) else expected_version
    service = opened(settings)
    [recorded] = asyncio.run(
        service.append_events(aggregate_id, aggregate_type, [event], expected, settings.tenant, user_id, stream=stream)
    )
    if as_json:
        click.echo(_json(recorded_data(recorded)))
    else:
        again = "  (it was there before)" if recorded.duplicate else ""
        click.echo(printable(f"version {recorded.version}  position {recorded.position}  {recorded.event_id}{again}"))


def _source(data: str | None, file: str | None) -> tuple[str, bytes]:
    if data == "-":
        return "standard input", sys.stdin.buffer.read(_MAX_BYTES)
    if data is not None:
        return "the event's data", data.encode()
    path = Path(file or "")
    try:
        return str(path), path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error


def _object(name: str, text: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{name}: not JSON: {placed(str(error), text)}") from None
    except RecursionError:
        raise InvalidInputError(f"{name}: nested too deep") from None
    if not isinstance(found, dict):
        raise InvalidInputError(f"{name}: expected a JSON object")
    return found


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


# --- looking ----------------------------------------------------------------------------------------------------------


@aggregates.command()
@click.argument("aggregate_id", metavar="ID")
@click.option("--type", "aggregate_type", help="Only if it is of this type.")
@click.option("--as-of-version", type=int, metavar="VERSION", help="As it was at this version.")
@click.option("--as-of-time", metavar="TIME", help="Made of its events up to this time: RFC 3339 text or epoch milliseconds.")
@click.option("--update-snapshot", is_flag=True, help="Leave a snapshot.")
@folds_option
@allow_module_option
@click.pass_obj
def show(
    settings: Settings,
    aggregate_id: str,
    aggregate_type: str | None,
    as_of_version: int | None,
    as_of_time: str | None,
    update_snapshot: bool,
    folds: tuple[str, ...],
) -> None:
    """Rebuild the aggregate ID and show it, as JSON."""
    told = asyncio.run(
        opened(settings, folds).reconstruct_aggregate(
            aggregate_id,
            aggregate_type,
            update_snapshot,
            settings.tenant,
            as_of_version=as_of_version,
            as_of_time=int(as_of_time) if as_of_time is not None and _is_number(as_of_time) else as_of_time,
        )
    )
    click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())


@aggregates.command()
@click.argument("aggregate_id", metavar="ID")
@click.option("--after-version", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with the whole envelope.")
@click.pass_obj
def events(settings: Settings, aggregate_id: str, after_version: int, limit: int | None, as_json: bool) -> None:
    """Print the events of the aggregate ID, in the order of versions."""
    service = opened(settings)
    info = asyncio.run(service.get_aggregate(aggregate_id, None, settings.tenant))
    begin = max(after_version, info.gone_version)
    if begin > after_version:
        click.echo(f"esb: the events up to version {info.gone_version} are no longer kept", err=True)
    end = info.version if limit is None else min(info.version, begin + limit)
    for first in range(begin, end, _PAGE):
        page = service.events(aggregate_id, settings.tenant, after_version=first, until_version=min(first + _PAGE, end))
        for event in asyncio.run(page):
            click.echo(_json(event_data(event)) if as_json else _line(event))


def _line(event: RecordedEvent) -> str:
    payload = _json(event.payload)
    return printable(f"{rfc3339(event.timestamp_ms)}  {event.version:>6}  {event.event_type}  {payload}")


@aggregates.command(name="list")
@click.argument("aggregate_type", metavar="[TYPE]", required=False)
@click.option("--status", type=click.Choice([each.value for each in AggregateStatus]), help="Only those.")
@click.option("--after", default="", help="Only ids behind this one.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(settings: Settings, aggregate_type: str | None, status: str | None, after: str, limit: int, as_json: bool) -> None:
    """List the aggregates of a TYPE by id; without one, the types."""
    service = opened(settings)
    if aggregate_type is None:
        types = asyncio.run(service.list_types(settings.tenant))
        for name in types:
            click.echo(_json({"aggregate_type": name}) if as_json else printable(name))
        if not types:
            click.echo("there are no aggregates yet; `esb aggregates append` makes one", err=True)
        return
    wanted = None if status is None else AggregateStatus(status)
    found: list[dict[str, Any]] = []
    while len(found) <= limit:
        count = min(_PAGE, limit + 1 - len(found))
        page = service.list_aggregates(aggregate_type, settings.tenant, status=wanted, after=after, limit=count)
        infos = asyncio.run(page)
        found += map(aggregate_data, infos)
        if len(infos) < count:
            break
        after = infos[-1].aggregate_id
    if as_json:
        for each in found[:limit]:
            click.echo(_json(each))
    elif found:
        print_table(_COLUMNS, [[each[column] for column in _COLUMNS] for each in found[:limit]])
    else:
        click.echo(printable(f"there are no such aggregates of the type {aggregate_type}"), err=True)
    if len(found) > limit:
        click.echo(
            f"esb: there are more than {limit:,}; --after {found[limit - 1]['aggregate_id']} shows the next ones", err=True
        )


# --- proving ----------------------------------------------------------------------------------------------------------


@aggregates.command()
@click.argument("aggregate_ids", metavar="[ID]...", nargs=-1)
@click.option("--type", "aggregate_type", help="All aggregates of this type.  [default: of all types]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@folds_option
@allow_module_option
@click.pass_obj
def verify(
    settings: Settings, aggregate_ids: tuple[str, ...], aggregate_type: str | None, as_json: bool, folds: tuple[str, ...]
) -> int:
    """Prove that each snapshot is what a full replay of the events gives. Exits with 1 if one is not, or cannot be replayed."""
    if aggregate_ids and aggregate_type is not None:
        raise click.UsageError("name aggregates, or their --type, but not both")
    return asyncio.run(_verify(opened(settings, folds), settings.tenant, aggregate_ids, aggregate_type, as_json))


async def _verify(
    service: EventSourcingService, tenant: str, ids: tuple[str, ...], aggregate_type: str | None, as_json: bool
) -> int:
    counts = {"aggregate": 0, "snapshot": 0, "problem": 0}
    async for aggregate_id in _named(service, tenant, ids, aggregate_type):
        counts["aggregate"] += 1
        try:
            checks = await service.verify_snapshots(aggregate_id, tenant)
        except BusError as error:
            if ids:
                raise
            counts["problem"] += 1
            told = {"aggregate_id": aggregate_id, "told": error.message}
            click.echo(_json(told) if as_json else printable(f"FAILED   {aggregate_id}  {error.message}"))
            continue
        for check in checks:
            counts["snapshot"] += 1
            counts["problem"] += check.is_equal is False
            click.echo(_json(msgspec.structs.asdict(check)) if as_json else _checked(check))
    found = f"{counted(counts['aggregate'], 'aggregate')}, {counted(counts['snapshot'], 'snapshot')}"
    click.echo(f"{found}: {counted(counts['problem'], 'problem') if counts['problem'] else 'no problem'}", err=True)
    return EXIT_ERROR if counts["problem"] else 0


async def _named(
    service: EventSourcingService, tenant: str, ids: tuple[str, ...], aggregate_type: str | None
) -> AsyncIterator[str]:
    for aggregate_id in ids:
        yield aggregate_id
    if ids:
        return
    for name in [aggregate_type] if aggregate_type is not None else await service.list_types(tenant):
        after = ""
        while page := await service.list_aggregates(name, tenant, after=after, limit=_PAGE):
            for info in page:
                if info.status in (AggregateStatus.ACTIVE, AggregateStatus.ARCHIVED):
                    yield info.aggregate_id
            after = page[-1].aggregate_id


def _checked(check: SnapshotCheck) -> str:
    verdict = "UNKNOWN" if check.is_equal is None else "EQUAL" if check.is_equal else "DIFFERS"
    return printable(f"{verdict:<8} {check.aggregate_id}  version {check.version}: {check.told}")


def _json(data: Any) -> str:
    return msgspec.json.encode(data).decode()
