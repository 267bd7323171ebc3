"""``esb groups``: consumer groups from the command line."""

import asyncio
import time
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import Settings, confirm
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.consumers.coordinator import RANGES
from event_streaming_bus.consumers.model import AssignmentStrategy, OffsetReset
from event_streaming_bus.consumers.service import ConsumerManagementService, group_data
from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.models import LANES

_COLUMNS: Final = ["group_name", "state", "is_paused", "active_consumers", "generation", "last_rebalance", "group_id"]
_LAG_COLUMNS: Final = ["stream", "partition", "lane", "committed", "end_offset", "lag", "seconds_behind", "verdict", "member_id"]
_RESET_COLUMNS: Final = ["stream", "partition", "lane", "current_offset", "new_offset", "events", "effect"]
_LAG_TOLD: Final = [
    "total_lag",
    "verdict",
    "seconds_behind",
    "consumption_rate",
    "active_consumers",
    "state",
    "is_paused",
    "last_rebalance",
    "parked",
]
_WATCH_EVERY_S: Final = 2.0


@click.group()
def groups() -> None:
    """Make consumer groups, see how far behind they are, and set them right. GROUP is a name or an id."""


def _service(settings: Settings) -> ConsumerManagementService:
    return ConsumerManagementService(settings.open())


# --- looking ----------------------------------------------------------------------------------------------------------


@groups.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the consumer groups."""
    found = asyncio.run(_service(settings).list_consumer_groups(settings.tenant))
    rows = [group_data(group) for group in found]
    if as_json:
        _print_lines(rows)
    elif rows:
        print_table(_COLUMNS, [[row[column] for column in _COLUMNS] for row in rows])
    else:
        click.echo("there are no consumer groups yet; `esb groups create NAME` makes one", err=True)


@groups.command()
@click.argument("group")
@click.pass_obj
def describe(settings: Settings, group: str) -> None:
    """Show the settings of GROUP, its state, and its members, as JSON."""
    told = asyncio.run(_service(settings).describe_consumer_group(group, settings.tenant))
    click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())


@groups.command()
@click.argument("group")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def members(settings: Settings, group: str, as_json: bool) -> None:
    """List the members of GROUP and the partitions that each of them reads."""
    told = asyncio.run(_service(settings).describe_consumer_group(group, settings.tenant))
    if as_json:
        _print_lines(told["members"])
    elif told["members"]:
        columns = ["member_id", "client_id", "host", "pid", "generation", "last_heartbeat", "last_poll"]
        rows = [[each[column] for column in columns] + [_partitions(each["assignment"])] for each in told["members"]]
        print_table([*columns, "partitions"], rows)
    else:
        click.echo(f"nobody is in the group {told['group_name']}", err=True)


@groups.command()
@click.argument("group")
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
@click.option("--watch", is_flag=True, help="Every two seconds anew, until Ctrl-C.")
@click.pass_obj
def lag(settings: Settings, group: str, as_json: bool, watch: bool) -> None:
    """Say how far behind GROUP is on each lane, and whether that is a cause for concern."""
    service = _service(settings)
    while True:
        told = asyncio.run(service.get_consumer_lag(group, settings.tenant))
        if as_json:
            _print_lines([told])
        else:
            _print_lag(told)
        if not watch:
            return
        time.sleep(_WATCH_EVERY_S)
        if not as_json:
            click.echo()


def _print_lag(told: dict[str, Any]) -> None:
    for name in _LAG_TOLD:
        value = msgspec.json.encode(told[name]).decode() if not isinstance(told[name], str) else told[name]
        more = "+" if name == "parked" and not told["parked_is_complete"] else ""
        if told[name] is not None:
            click.echo(printable(f"{name:<16}  {value}{more}"))
    click.echo(printable(f"{'evidence':<16}  {told['evidence']['sentence']}"))
    if told["splits"]:
        click.echo()
        print_table(_LAG_COLUMNS, [[each[column] for column in _LAG_COLUMNS] for each in told["splits"]])


def _partitions(assignment: list[dict[str, Any]]) -> str:
    """``orders 0 1, payments 1``."""
    by_stream: dict[str, list[str]] = {}
    for each in assignment:
        by_stream.setdefault(each["stream"], []).append(str(each["partition"]))
    return ", ".join(" ".join([stream, *partitions]) for stream, partitions in by_stream.items())


def _print_lines(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        click.echo(msgspec.json.encode(row).decode())


# --- the life of a group ----------------------------------------------------------------------------------------------


def _range(name: str) -> str:
    low, high = RANGES[name]
    return f"{low} to {high}."


@groups.command()
@click.argument("name")
@click.option("--description", "group_description", help="What the group is for.")
@click.option(
    "--session-timeout-ms", type=int, help=f"After so long without a heartbeat a member is out: {_range('session_timeout_ms')}"
)
@click.option("--heartbeat-interval-ms", type=int, help=f"How often members send one: {_range('heartbeat_interval_ms')}")
@click.option(
    "--max-poll-interval-ms",
    type=int,
    help=f"After so long without asking for events a member is out: {_range('max_poll_interval_ms')}",
)
@click.option("--rebalance-timeout-ms", type=int, help=f"How long members have to rejoin: {_range('rebalance_timeout_ms')}")
@click.option(
    "--strategy",
    "partition_assignment_strategy",
    type=click.Choice([each.value for each in AssignmentStrategy]),
    help="How partitions are shared out.  [default: range]",
)
@click.option(
    "--auto-offset-reset",
    type=click.Choice([each.value for each in OffsetReset]),
    help="Where to begin if nothing is committed.  [default: earliest]",
)
@click.option("--max-retries", type=int, help=f"How often an event that failed is delivered again: {_range('max_retries')}")
@click.pass_obj
def create(settings: Settings, /, name: str, **options: Any) -> None:
    """Make the consumer group NAME. Making it again with the same settings does nothing."""
    given = {option: value for option, value in options.items() if value is not None}
    group_id = asyncio.run(_service(settings).create_consumer_group({"group_name": name, **given}, settings.tenant))
    click.echo(printable(f"{name}  {group_id}"))


@groups.command()
@click.argument("group")
@click.pass_obj
def rebalance(settings: Settings, group: str) -> None:
    """Let all members of GROUP join anew, so that partitions are shared out again."""
    asked = asyncio.run(_service(settings).trigger_rebalance(group, settings.tenant))
    joining = f"{counted(len(asked.members), 'member')} will join anew" if asked.members else "nobody is in it"
    click.echo(printable(f"{asked.name}: {joining}"))


@groups.command()
@click.argument("group")
@click.pass_obj
def pause(settings: Settings, group: str) -> None:
    """Give the members of GROUP no events until it is resumed."""
    paused = asyncio.run(_service(settings).pause(group, settings.tenant))
    click.echo(printable(f"{paused.name} is paused"))


@groups.command()
@click.argument("group")
@click.pass_obj
def resume(settings: Settings, group: str) -> None:
    """Let a paused GROUP go on from what it has committed."""
    resumed = asyncio.run(_service(settings).resume(group, settings.tenant))
    click.echo(printable(f"{resumed.name} goes on"))


@groups.command()
@click.argument("group")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(settings: Settings, group: str, yes: bool) -> None:
    """Delete GROUP and what it has committed. The streams stay."""
    service = _service(settings)
    found = asyncio.run(service.get_consumer_group(group, settings.tenant))
    confirm(f"The group {found.name}, with {counted(len(found.members), 'member')}, and what it has committed will be gone.", yes)
    asyncio.run(service.delete_consumer_group(found.group_id, settings.tenant))
    click.echo(printable(f"{found.name} is gone"))


# --- resetting --------------------------------------------------------------------------------------------------------


@groups.command()
@click.argument("group")
@click.option("--to", "place", type=click.Choice(["earliest", "latest"]), help="To the beginning, or behind the last event.")
@click.option("--to-offset", type=int, metavar="N", help="To this offset.")
@click.option("--to-time", metavar="TIME", help="To the first event of this time or later: RFC 3339 or epoch milliseconds.")
@click.option("--stream", "streams", multiple=True, help="Only on this stream; may be repeated.  [default: all that it reads]")
@click.option("--partition", "partitions", type=int, multiple=True, help="Only in this partition; may be repeated.")
@click.option("--lane", "lanes", type=click.Choice(LANES, case_sensitive=False), multiple=True, help="Only in this lane.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="What is done as one JSON object.")
@click.pass_obj
def reset(
    settings: Settings,
    group: str,
    place: str | None,
    to_offset: int | None,
    to_time: str | None,
    streams: tuple[str, ...],
    partitions: tuple[int, ...],
    lanes: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Let GROUP go on elsewhere: says what that means, then asks. Its members must be stopped, or the group paused."""
    target = _target(place, to_offset, to_time)
    service = _service(settings)
    chosen: dict[str, Any] = {"streams": streams or None, "partitions": partitions or None, "lanes": lanes or None}
    told = asyncio.run(service.preview_reset(group, settings.tenant, to=target, **chosen))
    if as_json:
        _print_lines([told])
    else:
        print_table(_RESET_COLUMNS, [[each[column] for column in _RESET_COLUMNS] for each in told["splits"]])
    again, skipped = told["events_read_again"], told["events_skipped"]
    summary = f"{counted(again, 'event')} will be read again, {counted(skipped, 'event')} skipped"
    if dry_run:
        click.echo(f"{summary}; nothing was changed", err=True)
        return
    if not told["is_allowed"]:
        raise InvalidStateError(told["refusal"])
    confirm(f"{told['group_name']}: {summary}.", yes)
    asyncio.run(service.reset_offsets(told["group_id"], settings.tenant, to=target, **chosen))
    click.echo(f"reset: {summary.replace(' will be', '')}", err=True)


def _target(place: str | None, offset: int | None, at: str | None) -> object:
    if sum(value is not None for value in (place, offset, at)) != 1:
        raise click.UsageError("Say where to, once: --to earliest, --to latest, --to-offset N or --to-time TIME.")
    if offset is not None:
        return {"offset": offset}
    if at is not None:
        return {"timestamp": int(at) if at.isdecimal() else at}
    return place
