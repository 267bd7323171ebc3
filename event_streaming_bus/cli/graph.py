"""``esb graph``: a flow file drawn."""

from pathlib import Path
from typing import Final

import click

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.graph import graph_of, mermaid
from event_streaming_bus.flows.graph_svg import svg
from event_streaming_bus.flows.spec import load_flow

_DRAW: Final = {"mermaid": mermaid, "svg": svg}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--format", "form", type=click.Choice(sorted(_DRAW)), help="[default: svg for an --output that ends in .svg, else mermaid]"
)
@click.option("--output", metavar="PATH", type=click.Path(dir_okay=False), help="Write to this file instead of stdout.")
def graph(file: str, form: str | None, output: str | None) -> None:
    """Draw the flow in FILE: its streams, its processors, and how events go between them. Nothing is run or made."""
    if form is None:
        form = "svg" if output is not None and output.lower().endswith(".svg") else "mermaid"
    drawn = _DRAW[form](graph_of(load_flow(file)))
    if output is None:
        click.echo(drawn, nl=False)
        return
    try:
        Path(output).write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"--output {output}: cannot be written: {error.strerror or error}") from error
