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
@click.option(
    "--max-connections",
    type=click.IntRange(1, 1_000_000),
    envvar="ESB_MAX_CONNECTIONS",
    default=10_000,
    show_default=True,
    help="Connections that are open at the same time; fewer if no more files may be open.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(1, 100_000),
    envvar="ESB_MAX_REQUESTS",
    default=1_000,
    show_default=True,
    help="Requests that publish and are worked on at once; as many that consume, a quarter of that of each other kind.",
)
@click.option(
    "--max-buffered-mb",
    type=click.IntRange(32, 1_000_000),
    envvar="ESB_MAX_BUFFERED_MB",
    default=64,
    show_default=True,
    help="MiB of the bodies of requests that are held in memory.",
)
@click.option(
    "--stall-s",
    type=click.FloatRange(0.1, 3600),
    envvar="ESB_STALL_S",
    default=30,
    show_default=True,
    help="Seconds after which a client is given up that stands still in the middle of a request or an answer.",
)
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
    max_connections: int,
    max_requests: int,
    max_buffered_mb: int,
    stall_s: float,
    folds: tuple[str, ...],
) -> int:
    """Serve the REST API and run the processors that were started through it."""
    from event_streaming_bus.api.load import LoadLimits
    from event_streaming_bus.api.server import Tls
    from event_streaming_bus.api.server import serve as serve_

    tls = None
    if tls_certificate is not None and tls_key is not None:
        tls = Tls(tls_certificate, tls_key)
    elif tls_certificate is not None or tls_key is not None:
        raise click.UsageError("--tls-certificate and --tls-key go together.")

    limits = LoadLimits(
        max_connections=max_connections,
        max_requests=max_requests,
        max_buffered_bytes=max_buffered_mb << 20,
        stall_s=stall_s,
    )
    return serve_(
        settings.open(),
        host,
        port,
        allow_remote=allow_remote,
        auth=auth,
        access_file=access_file,
        tls=tls,
        advertise=advertise,
        limits=limits,
        prepare=lambda services: load_folds(services.sourcing.folds, folds),
    )
