"""The ``esb`` command: its groups, its options for all, and what an error looks like.

Exit codes: 0 done, 1 an error (told on stderr in one message), 2 wrong usage, 3 done but some input was skipped,
130 interrupted.
"""

import os
import sys
from importlib import import_module
from typing import Any, Final

import click

from event_streaming_bus.cli.auditing import audited
from event_streaming_bus.errors import BusError
from event_streaming_bus.models import DEFAULT_TENANT

EXIT_ERROR: Final = 1
EXIT_SKIPPED: Final = 3
EXIT_INTERRUPTED: Final = 130

# Commands are imported when they are called, so that `esb stream list` does not wait for Bytewax, DuckDB and Litestar.
_COMMANDS: Final = {
    "aggregates": ("event_streaming_bus.cli.aggregates", "Append to aggregates, rebuild them, and end their lives."),
    "audit": ("event_streaming_bus.cli.audit", "List, verify and export who did what."),
    "backup": ("event_streaming_bus.cli.backup", "Copy the data folder while it is in use."),
    "check": ("event_streaming_bus.cli.check", "Say what is wrong with flow files, or may be."),
    "db": ("event_streaming_bus.cli.db", "Make, upgrade and fill the PostgreSQL database that nodes share."),
    "dead-letters": ("event_streaming_bus.cli.dead_letters", "List, show, retry and drop dead letters."),
    "doctor": ("event_streaming_bus.cli.doctor", "Check a data folder, and make right what can be made anew."),
    "dry-run": ("event_streaming_bus.cli.dry_run", "Say what a flow would do with the newest events."),
    "erase": ("event_streaming_bus.cli.erasure", "Make a subject's personal data unreadable for good."),
    "erasures": ("event_streaming_bus.cli.erasure", "List and verify the certificates of erasures."),
    "graph": ("event_streaming_bus.cli.graph", "Draw a flow file."),
    "groups": ("event_streaming_bus.cli.groups", "Make consumer groups, see their lag, and set them right."),
    "history": ("event_streaming_bus.cli.sql", "Rebuild the history, roll it off, or see how far it has come."),
    "migrate": ("event_streaming_bus.cli.migrate", "Carry everything from one log to another."),
    "plan": ("event_streaming_bus.cli.plan", "Say what a changed flow does to its state."),
    "projections": ("event_streaming_bus.cli.projections", "Declare read models, see how they do, and ask them."),
    "publish": ("event_streaming_bus.cli.publish", "Publish the rows of a file to a stream."),
    "read": ("event_streaming_bus.cli.read", "Print the events of a stream."),
    "registry": ("event_streaming_bus.cli.registry", "Serve the schema registry to clients of a Confluent one."),
    "restore": ("event_streaming_bus.cli.backup", "Make a data folder of a backup."),
    "routes": ("event_streaming_bus.cli.routes", "Set, show and try the rules by which events are routed."),
    "run": ("event_streaming_bus.cli.run", "Run a flow file."),
    "scheduled": ("event_streaming_bus.cli.scheduled", "List and cancel events that are to be delivered later."),
    "schemas": ("event_streaming_bus.cli.schemas", "Register, compare, retire and try schemas."),
    "serve": ("event_streaming_bus.cli.serve", "Serve the REST API and run processors."),
    "settings": ("event_streaming_bus.cli.settings", "List and change settings of the data folder."),
    "sql": ("event_streaming_bus.cli.sql", "Ask the history a question in SQL."),
    "stream": ("event_streaming_bus.cli.streams", "Make, list, describe and drop streams."),
    "test": ("event_streaming_bus.cli.flow_test", "Run the tests that flow files carry."),
    "tokens": ("event_streaming_bus.cli.tokens", "Make, list and revoke the tokens of clients."),
    "trace": ("event_streaming_bus.cli.trace", "Say what followed from an event, or what led to it."),
    "version": ("event_streaming_bus.cli.version", "Tell the version."),
    "why": ("event_streaming_bus.cli.why", "Say why an event is where it is."),
}


class ReaderGoneError(Exception):
    """Whoever read our output has closed it, as `head` does; that is no failure."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        return audited(cmd_name, command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise ReaderGoneError from None  # click would end with exit code 1
        return result


class Settings:
    """What the options for all commands say."""

    def __init__(self, data: str | None, tenant: str | None) -> None:
        self.data = data
        self.tenant = tenant or DEFAULT_TENANT
        self.tenant_given = tenant

    def open(self) -> Any:
        """The storage of the data folder."""
        from event_streaming_bus.registry.readers import StorageReaders
        from event_streaming_bus.store.storage import check_database, open_storage

        check_database(self.data)
        storage = open_storage(self.data)
        self._readers = StorageReaders(storage)
        return storage

    def open_existing(self) -> Any:
        """The storage of the data folder if there is one, else None: none is made. With the log on Kafka there always is one,
        whatever the folder on this machine holds yet."""
        from event_streaming_bus.store.storage import data_folder

        is_elsewhere = (self.data or "").startswith("kafka://")
        return self.open() if is_elsewhere or (data_folder(self.data) / "log.db").exists() else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", metavar="FOLDER", envvar="ESB_DATA", help="The data folder.  [default: ./esb-data]")
@click.option("--tenant", help="The tenant whose streams are meant.  [default: default; `sql`: all tenants]")
@click.version_option(package_name="event-streaming-bus", prog_name="esb")
@click.pass_context
def cli(ctx: click.Context, data: str | None, tenant: str | None) -> None:
    """Publish events to streams, run flows over them, and question their history with SQL."""
    ctx.obj = Settings(data, tenant)


def confirm(question: str, yes: bool) -> None:
    """Go on if ``yes``, or if the person at the terminal agrees; without a terminal there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Add --yes to say so.")
    if not click.confirm(question, err=True):
        raise BusError("nothing was changed")


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
    except ReaderGoneError:
        # What is still buffered has nowhere to go; Python must not complain of it when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
