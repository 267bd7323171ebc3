"""``esb schemas try``: which stored events a schema would refuse."""

import time
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_ERROR, Settings
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.schema_reading import as_time, placed, read_one
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.errors import InvalidInputError, StreamNotFoundError
from event_streaming_bus.registry.compatibility import sentences
from event_streaming_bus.registry.replay.tally import Failure
from event_streaming_bus.registry.replay.trial import DEFAULT_EXAMPLES, MAX_EXAMPLES, MAX_WORKERS, Report, try_schema

_SHOWN_REASONS: Final = 20


@click.command(name="try")
@click.argument("file", metavar="FILE|-")
@click.option("--against", "stream", metavar="STREAM", required=True, help="The stream whose events are checked.")
@click.option(
    "--since",
    "since_ms",
    callback=as_time,
    metavar="TIME",
    help="Only events of this time or later.",
)
@click.option("--until", "until_ms", callback=as_time, metavar="TIME", help="Only events before this time.")
@click.option("--limit", type=click.IntRange(min=1), help="Look at so many events at most, the oldest ones.")
@click.option("--workers", type=click.IntRange(1, MAX_WORKERS), help="How many processes check.  [default: one for each CPU]")
@click.option("--examples", type=click.IntRange(0, MAX_EXAMPLES), default=DEFAULT_EXAMPLES, help="Events shown for each reason.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def try_(
    settings: Settings,
    file: str,
    stream: str,
    since_ms: int | None,
    until_ms: int | None,
    limit: int | None,
    workers: int | None,
    examples: int,
    as_json: bool,
) -> int:
    """Try the schema in FILE, with its rules and its migration, on the events that STREAM holds. Nothing is registered.

    Exit code 0: every event would be accepted, and the schema is compatible with the versions before it, or declared to break.
    Exit code 1: not so.
    """
    declared = read_one(file)
    storage = settings.open_existing()
    if storage is None:
        raise StreamNotFoundError("There is no data folder, and so there are no events.")
    started_s = time.monotonic()
    with progress_bar(f"trying {declared.name or file} on {stream}") as bar:

        def progress(done: int, total: int) -> None:
            rate = done / max(1e-9, time.monotonic() - started_s)
            bar.update(done, total, f"{done:,} events  {rate:,.0f}/s")

        try:
            report = try_schema(
                storage,
                declared.config,
                stream,
                settings.tenant,
                since_ms=since_ms,
                until_ms=until_ms,
                limit=limit,
                workers=workers,
                examples=examples,
                progress=progress,
            )
        except InvalidInputError as error:
            if error.message.startswith("until: "):
                raise click.UsageError(f"--{error.message}") from None
            raise placed(error, declared) from error
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        _print(report)
    return 0 if report.passes else EXIT_ERROR


def _print(report: Report) -> None:
    version = printable(f"{report.schema_name} {report.schema_version}" if report.schema_version else report.schema_name)
    if not report.checked:
        click.echo(printable(f"{report.stream} holds no such events: nothing was checked."))
    else:
        click.echo(printable(f"{version} on {counted(report.checked, 'event')} of {report.stream}:"))
        names = ("valid", "invalid", "unreadable", "warnings")
        print_table(names, [[getattr(report, name) for name in names]])
    if report.failures:
        _print_failures(report.failures)
    if report.unlisted:
        click.echo(f"\n{report.unlisted:,} more failures were counted, but not told apart by their reason.")
    if report.dropped:
        click.echo(f"\n{counted(report.dropped, 'event')} were dropped by retention before they were read.")
    if report.is_limited:
        click.echo(f"\nThe stream holds more events than the {report.checked:,} that were checked: --limit left them out.")
    _print_compatibility(report, version)


def _print_failures(failures: list[Failure]) -> None:
    shown = failures[:_SHOWN_REASONS]
    rows: list[list[Any]] = [[f.count, f.severity, f.rule, f.path or "(the payload)"] for f in shown]
    print_table(["events", "severity", "rule", "path"], rows, title="Why")
    for failure in shown:
        if failure.examples:
            place = f" at {failure.path}" if failure.path else ""
            examples = [[e.timestamp, f"{e.partition}/{e.lane}/{e.offset}", e.event_id, e.message] for e in failure.examples]
            print_table(["time", "partition/lane/offset", "event_id", "message"], examples, title=f"{failure.rule}{place}")
    if len(failures) > len(shown):
        click.echo(f"\nand {len(failures) - len(shown)} more reasons; --json lists them")


def _print_compatibility(report: Report, version: str) -> None:
    level = f"level {report.compatibility_level}"
    if report.is_compatible:
        click.echo(f"\n{version} is compatible with what is registered, at {level}.")
        return
    declared = "; it is declared to break" if report.is_breaking_declared else ""
    click.echo(f"\n{version} is not compatible at {level}{declared}:")
    for line in sentences(report.incompatibilities):
        click.echo(f"    {printable(line)}")
