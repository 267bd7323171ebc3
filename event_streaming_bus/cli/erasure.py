"""``esb erase`` and ``esb erasures``: make a subject's personal data unreadable, and look at the certificates."""

from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_ERROR, Settings, confirm
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.erasure.certificates import ErasureCertificate, certificate_data
from event_streaming_bus.erasure.service import ErasureService
from event_streaming_bus.models import rfc3339

_COLUMNS: Final = ["number", "certificate_id", "erased_at", "erased_by", "keys", "events", "reason"]


def _service(settings: Settings) -> ErasureService:
    return ErasureService(settings.open())


@click.command()
@click.argument("subject")
@click.option("--reason", required=True, help="Why; it is kept for ever, and should name nobody.")
@click.option("--by", "user_id", default="esb", show_default=True, help="Who does it.")
@click.option("--count", is_flag=True, help="Read every stream beforehand, to say how many events it is about.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="The certificate as one JSON object.")
@click.pass_obj
def erase(settings: Settings, subject: str, reason: str, user_id: str, count: bool, yes: bool, as_json: bool) -> str:
    """Make all personal data of SUBJECT unreadable for good, everywhere at once."""
    service = _service(settings)
    report = service.report(subject, settings.tenant, count_events=count)
    if report.has_key:  # else there is nothing to agree to, and the service tells why
        about = "" if report.events is None else f" in {counted(sum(report.events.values()), 'event')}"
        confirm(f"All personal data of this subject{about} will be unreadable for good.", yes)
    certificate = service.erase(subject, settings.tenant, reason, user_id, count_events=count)
    if as_json:
        click.echo(_json(certificate_data(certificate)))
    else:
        click.echo(f"erased  {certificate.certificate_id}")
    return certificate.certificate_id  # for the audit


@click.group()
def erasures() -> None:
    """Look at the certificates of erasures, and verify them."""


@erasures.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the certificates, oldest first."""
    certificates = _service(settings).certificates(settings.tenant)
    if as_json:
        for each in certificates:
            click.echo(_json(certificate_data(each)))
    elif certificates:
        print_table(_COLUMNS, map(_row, certificates))
    else:
        click.echo("nobody was erased yet", err=True)


@erasures.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def verify(settings: Settings, as_json: bool) -> int:
    """Say whether the certificates are all there, unchanged and true. Exits with 1 if not."""
    found = _service(settings).verify(settings.tenant)
    if as_json:
        click.echo(_json({"is_intact": found.is_intact, **msgspec.to_builtins(found)}))
    else:
        for problem in found.problems:
            click.echo(printable(f"{problem.kind:<10}  {problem.certificate_id}  {problem.message}"))
        told = "intact" if found.is_intact else counted(len(found.problems), "problem")
        click.echo(f"{counted(found.certificates, 'certificate')}: {told}", err=True)
    return 0 if found.is_intact else EXIT_ERROR


@erasures.command()
@click.pass_obj
def reapply(settings: Settings) -> None:
    """Destroy again the keys that certificates say were destroyed, after an older keys.db was restored."""
    done = _service(settings).reapply(settings.tenant)
    for certificate_id in done:
        click.echo(f"reapplied  {certificate_id}")
    click.echo(f"{counted(len(done), 'key')} destroyed", err=True)


@erasures.command()
@click.argument("subject")
@click.option("--count", is_flag=True, help="Count the events, which reads every stream.")
@click.pass_obj
def report(settings: Settings, subject: str, count: bool) -> None:
    """Show what there is of SUBJECT, as JSON; nothing is changed."""
    told = _service(settings).report(subject, settings.tenant, count_events=count)
    click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())


def _row(certificate: ErasureCertificate) -> list[Any]:
    at, keys = rfc3339(certificate.erased_at_ms), len(certificate.key_hashes)
    return [
        certificate.number,
        certificate.certificate_id,
        at,
        certificate.erased_by,
        keys,
        certificate.events,
        certificate.reason,
    ]


def _json(data: Any) -> str:
    return msgspec.json.encode(data).decode()
