"""``esb tokens``: API tokens from the command line."""

import time
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.access.model import Limits, Role
from event_streaming_bus.access.tokens import TokenService, token_data
from event_streaming_bus.cli.auditing import os_user
from event_streaming_bus.cli.main import Settings, confirm
from event_streaming_bus.cli.tables import print_table, printable
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import time_ms

_COLUMNS: Final = ["token_id", "tenant_id", "principal", "roles", "status", "expires_at", "last_used_at", "description"]
_DAY_MS: Final = 86_400_000


@click.group()
def tokens() -> None:
    """Make, list and revoke the tokens by which clients of `esb serve` say who they are."""


def _service(settings: Settings) -> TokenService:
    return TokenService(settings.open())


@tokens.command()
@click.argument("principal")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    metavar="ROLE[:STREAM,...]",
    help=f"{', '.join(role.value for role in Role)}; for some streams only as in 'publisher:orders.*'; may be repeated.",
)
@click.option("--description", default="", help="What the token is for.")
@click.option("--expires", metavar="TIME", help="When it ends: RFC 3339, or a number of days as in 90d.  [default: never]")
@click.option("--requests-per-s", type=float, help="At most so many requests a second.")
@click.option("--max-body-bytes", type=int, help="No body larger than this.")
@click.option("--connections", type=int, help="At most so many requests and WebSockets at once.")
@click.option("--json", "as_json", is_flag=True, help="The token and what is known of it as one JSON object.")
@click.pass_obj
def create(
    settings: Settings,
    /,
    principal: str,
    roles: tuple[str, ...],
    description: str,
    expires: str | None,
    as_json: bool,
    **limits: Any,
) -> None:
    """Make a token for PRINCIPAL and print it. It is not shown again: only a hash of it is kept."""
    service = _service(settings)
    try:
        token, record = service.create(
            principal,
            roles,
            tenant_id=settings.tenant,
            description=description,
            expires_at_ms=None if expires is None else _end(expires),
            limits=Limits(**limits),
            created_by=f"cli:{os_user()}",
        )
    finally:
        service.close()
    if as_json:
        click.echo(msgspec.json.encode({"token": token, **token_data(record)}).decode())
        return
    click.echo(token)
    click.echo(
        printable(f"{record.token_id} of {record.principal}: {', '.join(record.roles)}; keep it, it is not shown again"), err=True
    )


def _end(text: str) -> int:
    if text.endswith("d") and text[:-1].isdecimal():
        return time.time_ns() // 1_000_000 + int(text[:-1]) * _DAY_MS
    return time_ms(int(text) if text.isdecimal() else text, "--expires")


@tokens.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List tokens: of all tenants, or of the one that --tenant names."""
    storage = settings.open_existing()
    if storage is None:
        raise InvalidInputError("there is no data folder yet, and so no tokens")
    service = TokenService(storage)
    try:
        rows = [token_data(record) for record in service.tokens(settings.tenant_given)]
    finally:
        service.close()
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row).decode())
    elif rows:
        print_table(_COLUMNS, [[_shown(row[column]) for column in _COLUMNS] for row in rows])
    else:
        click.echo("there are no tokens yet; `esb tokens create PRINCIPAL --role ROLE` makes one", err=True)


def _shown(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list | tuple) else value


@tokens.command()
@click.argument("token")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def revoke(settings: Settings, token: str, yes: bool) -> None:
    """Let the token with the id TOKEN count no more, from its next use on."""
    service = _service(settings)
    try:
        record = service.find(token, settings.tenant_given)
        confirm(f"The token of {record.principal} will be refused from now on.", yes)
        service.revoke(token, settings.tenant_given, by=f"cli:{os_user()}")
    finally:
        service.close()
    click.echo(printable(f"{record.token_id} of {record.principal} is revoked"))
