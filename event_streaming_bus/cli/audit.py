"""``esb audit``: who did what, and whether all of it is still there."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
import msgspec

from event_streaming_bus.audit import export as exports
from event_streaming_bus.audit.service import AuditService, entry_data, report_data, verify_export
from event_streaming_bus.audit.verification import AuditReport
from event_streaming_bus.cli.main import EXIT_ERROR, Settings
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import rfc3339, time_ms
from event_streaming_bus.store.audit import MAX_PAGE_ENTRIES, AuditFilter
from event_streaming_bus.store.audit_entries import AuditEntry, Checkpoint, Outcome
from event_streaming_bus.store.audit_key import PublicKey, read_public_key

_COLUMNS: Final = ["seq", "at", "tenant_id", "actor", "address", "action", "target", "outcome", "reason"]
_STDOUT: Final = "-"


@click.group()
def audit() -> None:
    """Look at the audit, verify it, and take it elsewhere."""


def _service(settings: Settings) -> AuditService:
    storage = settings.open_existing()
    if storage is None:
        raise InvalidInputError("there is no data folder yet, and so no audit")
    return AuditService(storage)


@audit.command(name="list")
@click.option("--action", help="Only this one, as in stream.create, or all of a noun, as in 'stream.*'.")
@click.option("--actor", help="Only what this one did.")
@click.option("--target", help="Only what was done to this.")
@click.option("--outcome", type=click.Choice([each.value for each in Outcome], case_sensitive=False))
@click.option("--since", metavar="TIME", help="From this time on: RFC 3339 or epoch milliseconds.")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE_ENTRIES), default=50, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with what was before and after.")
@click.pass_obj
def list_(
    settings: Settings,
    action: str | None,
    actor: str | None,
    target: str | None,
    outcome: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List entries, newest first: of all tenants, or of the one that --tenant names."""
    wanted = AuditFilter(
        tenant_id=settings.tenant_given,
        action=action,
        actor=actor,
        target=target,
        outcome=None if outcome is None else Outcome(outcome.upper()),
        since_ms=_time("--since", since),
        until_ms=_time("--until", until),
    )
    found = _service(settings).page(wanted, limit=limit).entries
    if as_json:
        for entry in found:
            click.echo(msgspec.json.encode(entry_data(entry)).decode())
    elif found:
        print_table(_COLUMNS, map(_row, found))
    else:
        click.echo("there are no such entries", err=True)


def _time(name: str, text: str | None) -> int | None:
    return None if text is None else time_ms(int(text) if text.isdecimal() else text, name)


def _row(entry: AuditEntry) -> list[Any]:
    told = {"at": rfc3339(entry.at_ms), "outcome": entry.outcome.value}
    row = [told[name] if name in told else getattr(entry, name) for name in _COLUMNS]
    if entry.repeated > 1:
        row[-1] = f"{entry.reason or ''} ({entry.repeated:,} times)"
    return row


@audit.command()
@click.option("--file", "file", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="An export, not the folder.")
@click.option(
    "--public-key",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="What checkpoints must be signed with, as `esb audit key` prints it.  [default: the folder's own key; --file: none]",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    multiple=True,
    help="One that was kept elsewhere, as `esb audit checkpoint` prints it; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def verify(settings: Settings, file: Path | None, public_key: Path | None, checkpoints: tuple[Path, ...], as_json: bool) -> int:
    """Say whether every entry is there, unchanged and in its place. Exits with 1 if not."""
    key = None if public_key is None else read_public_key(public_key.read_text("utf-8", "replace"))
    known = [_checkpoint(path) for path in checkpoints]
    if file is None:
        report = _service(settings).verify(key, known)
    else:
        with file.open("rb") as lines:
            report = verify_export(exports.read(lines), key, known)
    if as_json:
        click.echo(msgspec.json.encode(report_data(report)).decode())
    else:
        _tell(report)
    return 0 if report.is_intact else EXIT_ERROR


def _checkpoint(path: Path) -> Checkpoint:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{path} has no checkpoint, as `esb audit checkpoint` prints it: {error}") from None


def _tell(report: AuditReport) -> None:
    for problem in report.problems:
        click.echo(printable(f"{problem.kind:<10}  {problem.seq:>8}  {problem.message}"))
    if report.problem_count > len(report.problems):
        click.echo(f"and {report.problem_count - len(report.problems):,} more")
    told = "intact" if report.is_intact else counted(report.problem_count, "problem")
    if not report.is_signature_checked and report.entries:
        told += "; signatures were not checked, for want of a public key"
    elif report.is_intact and report.signed_seq is not None:
        told += f"; signed up to entry {report.signed_seq:,}"
    click.echo(f"{report.entries:,} {'entry' if report.entries == 1 else 'entries'}: {told}", err=True)


@audit.command()
@click.argument("file", required=False, default=_STDOUT)
@click.option("--from", "first_seq", type=click.IntRange(min=1), default=1, show_default=True, help="Begin with this entry.")
@click.pass_obj
def export(settings: Settings, file: str, first_seq: int) -> None:
    """Write entries with their hashes and checkpoints to FILE, as lines of JSON that `esb audit verify --file` verifies.

    With --tenant, entries of other tenants are only there by their places in the chain.
    """
    lines = _service(settings).export(tenant_id=settings.tenant_given, first_seq=first_seq)
    if file == _STDOUT:
        _write(lines, sys.stdout.buffer)
        return
    try:
        with Path(file).open("xb") as output:
            count = _write(lines, output)
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be written: {error.strerror}") from error
    click.echo(f"{count:,} lines written to {file}", err=True)


def _write(lines: Iterable[bytes], output: BinaryIO) -> int:
    count = 0
    for line in lines:
        output.write(line)
        count += 1
    return count


@audit.command()
@click.pass_obj
def key(settings: Settings) -> None:
    """Print the public key that checkpoints are verified with."""
    found: PublicKey | None = _service(settings).public_key()
    if found is None:
        raise InvalidInputError("there is no key yet: it is made with the first entry")
    click.echo(found.pem(), nl=False)


@audit.command()
@click.pass_obj
def checkpoint(settings: Settings) -> None:
    """Print the newest checkpoint. Kept elsewhere, it finds an end that was cut off later."""
    found = _service(settings).last_checkpoint()
    if found is None:
        raise InvalidInputError("there is no entry yet")
    click.echo(msgspec.json.encode(found).decode())
