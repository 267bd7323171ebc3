"""``esb migrate``: everything that a log holds, carried to another log."""

import os
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.auditing import os_user
from event_streaming_bus.cli.main import EXIT_ERROR, Settings
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.migration.checking import LaneCheck
from event_streaming_bus.migration.pairs import told
from event_streaming_bus.migration.plan import Choice, FlowOutputs, Plan
from event_streaming_bus.migration.service import Report, plan_migration
from event_streaming_bus.migration.service import migrate as carry
from event_streaming_bus.models import DEFAULT_TENANT

_VARIABLE: Final = "env:"


def _place(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A log as it is named, or as an environment variable names it: what is on a command line can be read by others."""
    if not value.startswith(_VARIABLE):
        return value
    name = value.removeprefix(_VARIABLE)
    found = os.environ.get(name)
    if not found:
        raise click.BadParameter(f"the environment variable {name} is not set")
    return found


@click.command()
@click.argument("source", metavar="FROM", callback=_place)
@click.argument("target", metavar="TO", callback=_place)
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and what is in the way.")
@click.option("--stream", "only", metavar="STREAM", multiple=True, help="Only this stream.  [default: all, of all tenants]")
@click.option("--except", "without", metavar="STREAM", multiple=True, help="Not this stream.")
@click.option(
    "--flow-outputs",
    type=click.Choice([each.value for each in FlowOutputs]),
    help="Streams that flows write: make them for the flows to fill anew, or carry them as all others.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def migrate(
    _settings: Settings,
    source: str,
    target: str,
    dry_run: bool,
    only: tuple[str, ...],
    without: tuple[str, ...],
    flow_outputs: str | None,
    as_json: bool,
) -> int:
    """Carry everything from the log FROM to the log TO: a data folder, kafka://... or env:NAME for what a variable names.

    Streams with their settings, events, scheduled ones too, consumer groups, states of dead letters; then both ends are compared.
    It can be ended at any moment and run again. Stop those who publish before the last run: what they publish meanwhile is for
    the next. Exit code 1: refused, or the ends do not agree.
    """
    choice = Choice(
        only=only,
        without=without,
        flow_outputs=None if flow_outputs is None else FlowOutputs(flow_outputs),
    )
    if dry_run:
        plan = plan_migration(source, target, choice)
        _print_json(plan) if as_json else _print_plan(plan)
        return EXIT_ERROR if plan.obstacles else 0
    with progress_bar("carrying") as bar:

        def tell(phase: str, done: int, total: int, stream: str) -> None:
            bar.update(done, total, f"{phase} {stream}  {done:,} events")

        report = carry(source, target, choice, tell)
    _record(target, report)
    _print_json(report) if as_json else _print_report(report)
    return 0 if report.agrees else EXIT_ERROR


def _record(target: str, report: Report) -> None:
    """Tell the audit of TO, whatever folder the other commands use."""
    from event_streaming_bus.audit.service import AuditService
    from event_streaming_bus.store.audit_entries import Outcome
    from event_streaming_bus.store.storage import open_storage

    storage = open_storage(target)
    audit = AuditService(storage)
    try:
        audit.record(
            "log.migrate",
            tenant_id=DEFAULT_TENANT,
            actor=f"cli:{os_user()}",
            target=report.target,
            outcome=Outcome.DONE if report.agrees else Outcome.FAILED,
            after={"from": report.source, "events": report.copied},
        )
    finally:
        audit.close()
        storage.close()


def _print_json(what: Plan | Report) -> None:
    data: dict[str, Any] = msgspec.to_builtins(what)
    if isinstance(what, Report):
        data["agrees"] = what.agrees
    click.echo(msgspec.json.encode(data).decode())


def _print_plan(plan: Plan) -> None:
    click.echo(printable(f"{plan.source} -> {plan.target}"))
    rows = []
    for each in plan.streams:
        done = "made, empty" if each.is_remade else "goes on" if each.is_continued else "copied"
        rows.append([told(each.before), each.before.config.partitions, each.events, done, ", ".join(each.written_by)])
    if rows:
        print_table(["stream", "partitions", "events", "what is done", "written by"], rows)
    else:
        click.echo("there are no streams to carry")
    for count, what in ((plan.groups, "consumer group"), (plan.scheduled, "scheduled event")):
        if count:
            click.echo(counted(count, what))
    _print_notes(plan.notes)
    for obstacle in plan.obstacles:
        click.echo(printable(f"in the way: {obstacle}"))


def _print_report(report: Report) -> None:
    click.echo(printable(f"{report.source} -> {report.target}"))
    known = f", {report.known:,} of which TO had already" if report.known else ""
    total = sum(lane.target_events for lane in report.lanes)
    click.echo(f"{counted(report.copied, 'event')} carried in this run{known}; {total:,} in all; {report.seconds:.1f} s")
    shown = [lane for lane in report.lanes if not _is_empty(lane)]
    if shown:
        columns = ["stream", "lane", "at FROM", "at TO", "known", "dropped", "others", "checksum", ""]
        print_table(columns, [_lane_row(lane) for lane in shown], title="Compared")
    if report.groups:
        rows = [[g.group, g.stream, g.unread, g.again, "left as it is" if g.is_left else "set"] for g in report.groups]
        print_table(["group", "stream", "unread", "read again", "position"], rows, title="Consumer groups")
    if report.scheduled:
        click.echo(f"{counted(report.scheduled, 'scheduled event')} wait at TO now, and at FROM no more")
    if report.letters:
        click.echo(f"{counted(report.letters, 'dead letter')} kept their state")
    _print_notes(report.notes)
    if report.left:
        click.echo(f"{counted(report.left, 'event')} came to FROM meanwhile: stop those who publish there, and run this again")
    click.echo("both ends agree" if report.agrees else "THE ENDS DO NOT AGREE: positions of groups were not set for such streams")


def _is_empty(lane: LaneCheck) -> bool:
    return not (lane.source_events or lane.target_events or lane.known or lane.dropped or lane.untold or lane.others)


def _lane_row(lane: LaneCheck) -> list[Any]:
    stream = lane.stream if lane.tenant_id == DEFAULT_TENANT else f"{lane.stream} of {lane.tenant_id}"
    counts = [lane.source_events + lane.untold, lane.target_events, lane.known, lane.dropped, lane.others]
    sums = [lane.target_checksum[:16], "agrees" if lane.agrees else "DIFFERS"]
    return [stream, lane.lane.value, *counts, *sums]


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        click.echo(printable(f"note: {note}"))
