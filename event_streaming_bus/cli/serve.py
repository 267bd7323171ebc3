"""``esb serve``: the API, the history writer and the supervisor in one process."""

import click

from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.modules import allow_module_option


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 picks a free one.")
@click.option("--allow-remote", is_flag=True, help="Listen on an address other than this machine's own, without a login.")
@allow_module_option
@click.pass_obj
def serve(settings: Settings, host: str, port: int, allow_remote: bool) -> int:
    """Serve the REST API and run the processors that were started through it."""
    from event_streaming_bus.api.server import serve as serve_

    return serve_(settings.open(), host, port, allow_remote=allow_remote)
