"""``esb version``."""

import click

from event_streaming_bus import __version__


@click.command()
def version() -> None:
    """Print the version of the bus."""
    click.echo(__version__)
