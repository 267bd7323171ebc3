"""The ``esb`` command: its groups, its options for all, and what an error looks like.

Exit codes: 0 done, 1 an error (told on stderr in one message), 2 wrong usage, 3 done but some input was skipped,
130 interrupted.
"""

import sys
from importlib import import_module
from typing import Any, Final

import click

from event_streaming_bus.errors import BusError

EXIT_ERROR: Final = 1
EXIT_SKIPPED: Final = 3
EXIT_INTERRUPTED: Final = 130

# Commands are imported when they are called, so that `esb stream list` does not wait for Bytewax, DuckDB and Litestar.
_COMMANDS: Final = {
    "history": ("event_streaming_bus.cli.sql", "Rebuild the history, or see how far it has come."),
    "publish": ("event_streaming_bus.cli.publish", "Publish the rows of a file to a stream."),
    "read": ("event_streaming_bus.cli.read", "Print the events of a stream."),
    "run": ("event_streaming_bus.cli.run", "Run a flow file."),
    "serve": ("event_streaming_bus.cli.serve", "Serve the REST API and run processors."),
    "sql": ("event_streaming_bus.cli.sql", "Ask the history a question in SQL."),
    "stream": ("event_streaming_bus.cli.streams", "Make, list, describe and drop streams."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in _COMMANDS.items()])


class Settings:
    """What the options for all commands say."""

    def __init__(self, data: str | None, tenant: str) -> None:
        self.data = data
        self.tenant = tenant

    def open(self) -> Any:
        """The storage of the data folder."""
        from event_streaming_bus.store.storage import open_storage

        return open_storage(self.data)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", metavar="FOLDER", envvar="ESB_DATA", help="The data folder.  [default: ./esb-data]")
@click.option("--tenant", default="default", show_default=True, help="The tenant whose streams are meant.")
@click.version_option(package_name="event-streaming-bus", prog_name="esb")
@click.pass_context
def cli(ctx: click.Context, data: str | None, tenant: str) -> None:
    """Publish events to streams, run flows over them, and question their history with SQL."""
    ctx.obj = Settings(data, tenant)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its code."""
    try:
        code = cli.main(arguments, prog_name="esb", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("esb: interrupted", err=True)
        code = EXIT_INTERRUPTED
    except BusError as error:
        click.echo(f"esb: {error.message}", err=True)
        code = EXIT_ERROR
    sys.exit(code if isinstance(code, int) else 0)
