"""The commands of ``esb aggregates`` that end the lives of aggregates and their events."""

import asyncio
from typing import Final

import click
import msgspec

from event_streaming_bus.cli.folds import folds_option, opened
from event_streaming_bus.cli.main import EXIT_SKIPPED, Settings, confirm
from event_streaming_bus.cli.modules import allow_module_option
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.store.aggregate_lifecycle import LifecycleChange, Retention

_COLUMNS: Final = ["aggregate_type", "max_age_ms", "max_count", "fold"]


@click.command()
@click.argument("aggregate_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def archive(settings: Settings, aggregate_ids: tuple[str, ...], as_json: bool) -> None:
    """Close aggregates and pack their events. They can still be rebuilt, and opened again with `restore`."""
    service = opened(settings)
    for aggregate_id in aggregate_ids:
        _tell(asyncio.run(service.lifecycle.archive(aggregate_id, settings.tenant)), as_json)


@click.command()
@click.argument("aggregate_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def restore(settings: Settings, aggregate_ids: tuple[str, ...], as_json: bool) -> None:
    """Open archived aggregates again, with all their events where they were."""
    service = opened(settings)
    for aggregate_id in aggregate_ids:
        _tell(asyncio.run(service.lifecycle.restore(aggregate_id, settings.tenant)), as_json)


@click.command()
@click.argument("aggregate_id", metavar="ID")
@click.option("--hard", is_flag=True, help="For ever: nothing may be appended under this id any more.")
@click.option("--expected-version", type=click.IntRange(min=0), metavar="VERSION", help="Only if it is at this version.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def delete(settings: Settings, aggregate_id: str, hard: bool, expected_version: int | None, yes: bool, as_json: bool) -> None:
    """Delete the events, the archive and the snapshots of the aggregate ID. What is on its stream stays."""
    service = opened(settings)
    question = f"The events of the aggregate {printable(aggregate_id)} will be gone"
    confirm(f"{question}, and its id can never be used again." if hard else f"{question}.", yes)
    change = service.lifecycle.delete(aggregate_id, settings.tenant, hard=hard, expected_version=expected_version)
    _tell(asyncio.run(change), as_json)


def _tell(change: LifecycleChange, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(change).decode())
        return
    size = f", {change.archive_bytes:,} bytes in the archive" if change.archive_bytes else ""
    told = f"{change.aggregate_id}  {change.action} at version {change.version}: {counted(change.events, 'event')}{size}"
    click.echo(printable(told))


@click.command()
@click.argument("aggregate_type", metavar="[TYPE]", required=False)
@click.option("--max-age-ms", type=click.IntRange(min=1), help="Keep events for so long after they were recorded.")
@click.option("--max-count", type=click.IntRange(min=1), help="Keep so many events of each aggregate, the newest.")
@click.option("--unlimited", is_flag=True, help="Keep all events from now on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@folds_option
@allow_module_option
@click.pass_obj
def retention(
    settings: Settings,
    aggregate_type: str | None,
    max_age_ms: int | None,
    max_count: int | None,
    unlimited: bool,
    as_json: bool,
    folds: tuple[str, ...],
) -> None:
    """Say how long events of a TYPE are kept, or, without options, show it. What is not limited is kept.

    Dropping them is for `scavenge`, and for `esb serve`, every minute. State is not lost: it is in a snapshot that the fold makes
    before. So name the fold that is in force with --folds, here and there.
    """
    is_set = max_age_ms is not None or max_count is not None
    if is_set and unlimited:
        raise click.UsageError("--unlimited and limits exclude each other")
    if (is_set or unlimited) and aggregate_type is None:
        raise click.UsageError("name the TYPE whose events are meant")
    lifecycle = opened(settings, folds).lifecycle
    found: list[Retention]
    if aggregate_type is None:
        found = asyncio.run(lifecycle.retentions(settings.tenant))
    elif is_set or unlimited:
        found = [
            asyncio.run(lifecycle.set_retention(aggregate_type, settings.tenant, max_age_ms=max_age_ms, max_count=max_count))
        ]
    else:
        found = [asyncio.run(lifecycle.retention(aggregate_type, settings.tenant))]
    if as_json:
        for each in found:
            click.echo(msgspec.json.encode(each).decode())
    elif found:
        print_table(_COLUMNS, [[getattr(each, column) for column in _COLUMNS] for each in found])
    else:
        click.echo("events of all types are kept without end", err=True)


@click.command()
@click.argument("aggregate_type", metavar="[TYPE]", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@folds_option
@allow_module_option
@click.pass_obj
def scavenge(settings: Settings, aggregate_type: str | None, dry_run: bool, as_json: bool, folds: tuple[str, ...]) -> int:
    """Drop the events that are kept no longer, of a TYPE or of all. Exits with 3 if some that are due had to be kept."""
    lifecycle = opened(settings, folds).lifecycle
    report = asyncio.run(lifecycle.scavenge(settings.tenant, aggregate_type, preview=dry_run))
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        for each in report.scavenged:
            click.echo(printable(f"{each.aggregate_id}  {counted(each.events, 'event')}, up to version {each.gone_version}"))
        for refused in report.refused:
            name = refused.aggregate_id or f"all of the type {refused.aggregate_type}"
            click.echo(printable(f"esb: {name}: kept: {refused.reason}"), err=True)
        done = "would be dropped" if dry_run else "dropped"
        click.echo(f"{counted(report.events, 'event')} of {counted(report.aggregates, 'aggregate')} {done}", err=True)
    return EXIT_SKIPPED if report.refusals else 0


COMMANDS: Final = (archive, restore, delete, retention, scavenge)
