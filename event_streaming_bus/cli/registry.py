"""``esb registry``: the schema registry alone, as existing clients know it."""

from typing import Any

import click

from event_streaming_bus.cli.main import Settings


@click.command()
@click.option("--data", metavar="FOLDER", help="The data folder, as the option of this name in front of the command.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8081, show_default=True, help="0 picks a free one.")
@click.option(
    "--auth",
    type=click.Choice(["auto", "required", "off"]),
    envvar="ESB_AUTH",
    default="auto",
    show_default=True,
    help="Whether clients need a token (as `esb serve` says it; clients send it as the password of Basic).",
)
@click.option("--allow-remote", is_flag=True, help="Listen on an address other than this machine's own, without TLS.")
@click.pass_obj
def registry(settings: Settings, data: str | None, host: str, port: int, auth: Any, allow_remote: bool) -> int:
    """Serve the schema registry to clients of a Confluent registry.

    It takes no other part of the data folder, which `esb serve` or a second registry may serve at the same time.
    """
    from event_streaming_bus.api.confluent.server import serve_registry

    storage = (Settings(data, settings.tenant_given) if data else settings).open()
    return serve_registry(storage, host, port, allow_remote=allow_remote, auth=auth)
