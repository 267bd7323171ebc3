"""``esb check``: flow files looked over before they run."""

from collections import Counter
from pathlib import Path
from typing import Final

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_ERROR, Settings
from event_streaming_bus.cli.tables import counted, printable
from event_streaming_bus.flows.findings import Severity
from event_streaming_bus.flows.lint import Located, check_file

_PLURAL: Final = {Severity.ERROR: "errors", Severity.WARNING: "warnings", Severity.INFO: "remarks"}
_SINGULAR: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "remark"}


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per finding.")
@click.pass_obj
def check(settings: Settings, files: tuple[str, ...], strict: bool, as_json: bool) -> int:
    """Say what is wrong with the flows in FILE..., or may be. Nothing is run or made.

    If there is a data folder, its streams, schemas and newest events are looked at as well.
    """
    storage = settings.open_existing()
    counts: Counter[Severity] = Counter()
    for file in files:
        for finding in check_file(Path(file), storage):
            counts[finding.severity] += 1
            click.echo(_as_json(file, finding) if as_json else _as_line(file, finding))
    told = ", ".join(_counted(severity, counts[severity]) for severity in Severity if counts[severity]) or "nothing found"
    click.echo(f"{counted(len(files), 'file')} checked: {told}", err=True)
    return EXIT_ERROR if counts[Severity.ERROR] or (strict and counts[Severity.WARNING]) else 0


def _counted(severity: Severity, count: int) -> str:
    return f"{count} {(_SINGULAR if count == 1 else _PLURAL)[severity]}"


def _as_line(file: str, finding: Located) -> str:
    place = f"{file}:{finding.line}" if finding.line is not None else file
    parts = [place, finding.where, f"{finding.severity}: {finding.message} [{finding.code}]"]
    return "\n    ".join(printable(line) for line in ": ".join(part for part in parts if part).splitlines())


def _as_json(file: str, finding: Located) -> str:
    told = {
        "file": file,
        "line": finding.line,
        "path": finding.where,
        "severity": finding.severity.value,
        "code": finding.code,
        "message": finding.message,
    }
    return msgspec.json.encode(told).decode()
