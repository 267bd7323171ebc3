"""``esb serve``: the API, the history writer and the supervisor in one process."""

from pathlib import Path
from typing import Any

import click

from event_streaming_bus.cli.folds import folds_option, load_folds
from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.modules import allow_module_option


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 picks a free one.")
@click.option(
    "--auth",
    type=click.Choice(["auto", "required", "off"]),
    envvar="ESB_AUTH",
    default="auto",
    show_default=True,
    help="Whether clients need a token. auto: as required; a first one for an administrator is made.",
)
@click.option(
    "--access",
    "access_file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="ESB_ACCESS_FILE",
    help="Whose signed tokens are accepted, in YAML.",
)
@click.option("--tls-certificate", type=click.Path(dir_okay=False, path_type=Path), help="Serve over TLS, with this certificate.")
@click.option("--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="The key of the certificate.")
@click.option("--allow-remote", is_flag=True, help="Listen on an address other than this machine's own without TLS.")
@click.option("--advertise", metavar="URL", envvar="ESB_ADVERTISE", help="Where other nodes reach this one, if there are any.")
@folds_option
@allow_module_option
@click.pass_obj
def serve(
    settings: Settings,
    host: str,
    port: int,
    auth: Any,
    access_file: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    allow_remote: bool,
    advertise: str | None,
    folds: tuple[str, ...],
) -> int:
    """Serve the REST API and run the processors that were started through it."""
    from event_streaming_bus.api.server import Tls
    from event_streaming_bus.api.server import serve as serve_

    tls = None
    if tls_certificate is not None and tls_key is not None:
        tls = Tls(tls_certificate, tls_key)
    elif tls_certificate is not None or tls_key is not None:
        raise click.UsageError("--tls-certificate and --tls-key go together.")

    return serve_(
        settings.open(),
        host,
        port,
        allow_remote=allow_remote,
        auth=auth,
        access_file=access_file,
        tls=tls,
        advertise=advertise,
        prepare=lambda services: load_folds(services.sourcing.folds, folds),
    )
