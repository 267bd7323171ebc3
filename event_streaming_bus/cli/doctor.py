"""``esb doctor``: check a data folder, explain what is found, and make right what can be made anew."""

from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from event_streaming_bus.cli.auditing import os_user
from event_streaming_bus.cli.main import EXIT_ERROR, Settings
from event_streaming_bus.cli.progress import Bar, progress_bar
from event_streaming_bus.cli.tables import counted, printable
from event_streaming_bus.doctor.findings import Report
from event_streaming_bus.errors import BusError, InvalidInputError


@click.command()
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--repair", is_flag=True, help="Make anew what can be, and set aside what that replaces.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def doctor(settings: Settings, folder: Path | None, repair: bool, as_json: bool) -> int:
    """Check a data folder, by default that of --data, and say what is wrong, where, and what to do.

    Nothing is changed without --repair, and a server may be at work meanwhile. Exits with 1 if something
    is wrong.
    """
    from event_streaming_bus.doctor.examine import examine
    from event_streaming_bus.doctor.repairs import check_unused, record_repair
    from event_streaming_bus.doctor.repairs import repair as mend

    folder = local_folder(settings.data) if folder is None else folder.expanduser().resolve()
    if repair:
        check_unused(folder)
    with progress_bar("examining") as bar:
        report = examine(folder, shown(bar))
    if repair and any(finding.repair is not None for finding in report.findings):
        with progress_bar("repairing") as bar:
            report = mend(folder, report, shown(bar))
        try:
            record_repair(folder, report, f"cli:{os_user()}", settings.tenant)
        except BusError as error:
            click.echo(f"esb: the repair is not in the audit: {error.message}", err=True)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        tell(report)
    return 0 if report.is_sound else EXIT_ERROR


def local_folder(data: str | None) -> Path:
    """The data folder that ``--data`` names. Raises ``InvalidInputError`` where the log is on Kafka: it is not in the folder."""
    from event_streaming_bus.store.storage import data_folder, is_elsewhere

    if is_elsewhere(data):
        raise InvalidInputError(
            "the log is on Kafka, and the tables may be on PostgreSQL: these have their own tools for checks and backups. What "
            "is in the folder of this machine is worth nothing without them"
        )
    return data_folder(data)


def shown(bar: Bar) -> Callable[[int, int, str], None]:
    """A progress for a bar, in bytes."""
    return lambda done, total, what: bar.update(done, total, f"{done >> 20:,} of {total >> 20:,} MiB, {what}")


def tell(report: Report) -> None:
    """What was found, to a person: findings on stdout, the rest on stderr."""
    for done in report.repaired:
        click.echo(printable(f"repaired: {done}"), err=True)
    for finding in report.findings:
        click.echo(printable(f"{finding.file}: {finding.place}"))
        click.echo(printable(f"    {finding.problem}: {finding.meaning}"))
        click.echo(printable(f"    {finding.advice}"))
    if report.finding_count > len(report.findings):
        click.echo(f"and {report.finding_count - len(report.findings):,} more of the same kinds")
    for skipped in report.skipped:
        click.echo(printable(f"not checked: {skipped}"), err=True)
    looked_at = ", ".join(f"{number:,} {kind}" for kind, number in report.checked.items())
    told = "sound" if report.is_sound else counted(report.finding_count, "finding")
    click.echo(f"{report.folder}: {told} ({looked_at})", err=True)
