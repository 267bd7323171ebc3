"""``esb projections``: read models from the command line.

While ``esb serve`` runs, it keeps projections up to date. Otherwise a command that reads one brings it up to date first.
"""

import asyncio
import json
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_ERROR, Settings, confirm
from event_streaming_bus.cli.modules import allow_module_option
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.tables import print_table, printable
from event_streaming_bus.errors import BusError, InUseError, QueryError
from event_streaming_bus.flows.flow_file import MAX_FILE_BYTES
from event_streaming_bus.sourcing.projection_errors import ProjectionLagError
from event_streaming_bus.sourcing.projections import ProjectionService
from event_streaming_bus.store.server_calls import asked, server_of

_COLUMNS: Final = ["name", "state", "store", "position", "lag", "seconds_behind", "events", "skipped"]
_STDIN: Final = "standard input"
_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.1


@click.group()
def projections() -> None:
    """Declare read models, which are kept up to date with the events of aggregates, and ask them."""


@contextmanager
def _service(settings: Settings) -> Iterator[ProjectionService]:
    service = ProjectionService(settings.open())
    try:
        yield service
    finally:
        service.close()


def _catch_up(service: ProjectionService, name: str, tenant: str) -> None:
    """Have the projection see all events of now; if nobody runs it, it is run here until it has."""
    service.start(only=name)
    try:
        with progress_bar(f"projecting {name}") as bar:
            while True:
                try:
                    asyncio.run(service.wait_for(name, None, _POLL_S * 5, tenant))
                    return
                except ProjectionLagError as lagging:
                    done, total = lagging.details["position"], lagging.details["wanted"]
                    bar.update(done, total, f"position {done:,} of {total:,}")
    finally:
        service.stop_running()


# --- looking ----------------------------------------------------------------------------------------------------------


@projections.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the projections and how they do."""
    with _service(settings) as service:
        told = asyncio.run(service.list_projections(settings.tenant))
    if as_json:
        for each in told:
            click.echo(msgspec.json.encode(each).decode())
    elif told:
        print_table(_COLUMNS, [[each[column] for column in _COLUMNS] for each in told])
    else:
        click.echo("there are no projections yet; `esb projections apply FILE` makes some", err=True)


@projections.command()
@click.argument("name")
@click.pass_obj
def show(settings: Settings, name: str) -> None:
    """Show how NAME does, its definition and the events that it skipped, as JSON."""
    with _service(settings) as service:
        told = asyncio.run(_described(service, name, settings.tenant))
    click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())


async def _described(service: ProjectionService, name: str, tenant: str) -> dict[str, Any]:
    told = await service.describe(name, tenant)
    return {key: value for key, value in told.items() if value is not None}


# --- asking -----------------------------------------------------------------------------------------------------------


@projections.command()
@click.argument("name")
@click.option("--table", help="Which of its tables.  [default: the only one]")
@click.option("--where", "conditions", multiple=True, metavar="COLUMN=VALUE", help="Only rows with this value; may be repeated.")
@click.option("--order", help="By these columns, separated by commas; with - in front the highest first.  [default: the key]")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@allow_module_option
@click.pass_obj
def rows(
    settings: Settings, name: str, table: str | None, conditions: tuple[str, ...], order: str | None, limit: int, as_json: bool
) -> None:
    """Print rows of NAME. A VALUE is JSON, or else text."""
    where = dict(map(_condition, conditions))
    with _service(settings) as service:
        _catch_up(service, name, settings.tenant)
        try:
            asked = service.rows(name, settings.tenant, table=table, where=where, order=order, limit=limit)
            told = asyncio.run(asked)
        except InUseError as error:
            parameters = {"where": json.dumps(where), "limit": limit, "table": table, "order": order}
            given = {key: value for key, value in parameters.items() if value is not None}
            told = _ask_server(settings, f"{name}/rows?{urllib.parse.urlencode(given)}", None, error)
    if as_json:
        for row in told["rows"]:
            click.echo(msgspec.json.encode(row).decode())
    elif told["rows"]:
        columns = list(told["rows"][0])
        print_table(columns, [[_shown(row[column]) for column in columns] for row in told["rows"]])
    if told["cursor"] is not None:
        click.echo(f"esb: there are more than {limit:,} rows", err=True)


def _condition(text: str) -> tuple[str, Any]:
    column, equals, value = text.partition("=")
    if not column or not equals:
        raise click.UsageError(f"--where: expected COLUMN=VALUE as in status=open, got {text!r}")
    try:
        return column, json.loads(value)
    except ValueError:
        return column, value


@projections.command()
@click.argument("name")
@click.argument("statement")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
@allow_module_option
@click.pass_obj
def sql(settings: Settings, name: str, statement: str, as_json: bool, as_csv: bool) -> None:
    """Ask the tables of NAME a question in SQL: one SELECT."""
    if as_json and as_csv:
        raise click.UsageError("choose one of --json and --csv")
    with _service(settings) as service:
        _catch_up(service, name, settings.tenant)
        try:
            told = asyncio.run(service.sql(name, statement, settings.tenant, timeout_s=_TIMEOUT_S))
        except InUseError as error:
            told = _ask_server(settings, f"{name}/query", {"sql": statement, "timeout_s": _TIMEOUT_S}, error)
    columns, found = told["columns"], told["rows"]
    if as_json:
        for row in found:
            click.echo(msgspec.json.encode(dict(zip(columns, row, strict=True))).decode())
    elif as_csv:
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([columns, *([_shown(value) for value in row] for row in found)])
    else:
        print_table(columns, [[_shown(value) for value in row] for row in found])
    if told["truncated"]:
        click.echo("esb: the answer is longer than what is given; LIMIT or WHERE make it fit", err=True)


def _shown(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value


def _ask_server(settings: Settings, path: str, body: dict[str, Any] | None, error: InUseError) -> Any:
    """What the server that has a DuckDB file open answers."""
    server = server_of(settings.open().folder, error)
    answer = asked(
        server,
        f"projections/{path}",
        error,
        body=body,
        tenant_id=settings.tenant,
        timeout_s=_TIMEOUT_S * 2,
        refusal=lambda status: QueryError,
    )
    return json.loads(answer)


# --- changing ---------------------------------------------------------------------------------------------------------


@projections.command(name="apply")
@click.argument("file", metavar="FILE|-")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@allow_module_option
@click.pass_obj
def apply_(settings: Settings, file: str, dry_run: bool) -> None:
    """Declare the projections in FILE (YAML, JSON or TOML).

    Those whose rows change are built anew in the background, and answer as before until then. Applying it again changes nothing.
    """
    with _service(settings) as service, _file(file) as path:
        try:
            told = asyncio.run(service.preview(path, settings.tenant) if dry_run else service.apply(path, settings.tenant))
        except BusError as error:
            raise type(error)(error.message.replace(str(path), _STDIN if file == "-" else file), **error.details) from None
    for each in told:
        click.echo(printable(f"{each.verdict.value:<9}  {each.name}"))


@contextmanager
def _file(file: str) -> Iterator[Path]:
    if file != "-":
        yield Path(file)
        return
    content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    suffix = ".json" if content.lstrip()[:1] in (b"{", b"[") else ".yaml"
    with tempfile.NamedTemporaryFile(prefix="esb-", suffix=suffix) as kept:
        kept.write(content)
        kept.flush()
        yield Path(kept.name)


@projections.command()
@click.argument("name")
@allow_module_option
@click.pass_obj
def rebuild(settings: Settings, name: str) -> int:
    """Build NAME anew from the first event. Its present rows answer until that is done."""
    with _service(settings) as service:
        asyncio.run(service.rebuild(name, settings.tenant))
        service.start(only=name)
        if not service.is_owner:
            click.echo(printable(f"{name} is built anew; `esb projections show {name}` tells how far it is"))
            return 0
        told = _until(service, name, settings.tenant, lambda state: state not in ("REBUILDING", "STOPPED", "CATCHING_UP"))
    if told["failure"] is not None:
        click.echo(printable(f"esb: {name} has failed: {told['failure']['message']}"), err=True)
        return EXIT_ERROR
    click.echo(printable(f"{name} is built anew, of {told['events']:,} events"))
    return 0


def _until(service: ProjectionService, name: str, tenant: str, is_over: Callable[[str], bool]) -> dict[str, Any]:
    with progress_bar(f"building {name}") as bar:
        while True:
            told = asyncio.run(service.describe(name, tenant))
            if is_over(told["state"]):
                return told
            done = told["rebuild"]["position"] if told["rebuild"] else told["position"]
            bar.update(done, told["head"], f"position {done:,} of {told['head']:,}")
            time.sleep(_POLL_S)


@projections.command()
@click.argument("name")
@click.pass_obj
def pause(settings: Settings, name: str) -> None:
    """Let NAME rest. It still answers."""
    with _service(settings) as service:
        asyncio.run(service.pause(name, settings.tenant))
    click.echo(printable(f"{name} is paused"))


@projections.command()
@click.argument("name")
@click.option("--skip-event", is_flag=True, help="Without the event that it has failed at.")
@click.pass_obj
def resume(settings: Settings, name: str, skip_event: bool) -> None:
    """Let NAME go on that rests or has failed."""
    with _service(settings) as service:
        asyncio.run(service.resume(name, settings.tenant, skip_event=skip_event))
    click.echo(printable(f"{name} goes on"))


@projections.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def skipped(settings: Settings, name: str, as_json: bool) -> None:
    """List the newest events that NAME has passed over, and why."""
    with _service(settings) as service:
        told = asyncio.run(service.skipped(name, settings.tenant))
    if as_json:
        for each in told:
            click.echo(msgspec.json.encode(each).decode())
    elif told:
        print_table(list(told[0]), [list(each.values()) for each in told])
    else:
        click.echo(printable(f"{name} has skipped nothing"), err=True)


@projections.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(settings: Settings, name: str, yes: bool) -> None:
    """Delete NAME and its rows. The events stay."""
    with _service(settings) as service:
        asyncio.run(service.describe(name, settings.tenant))
        confirm(f"The projection {name} and its rows will be gone.", yes)
        asyncio.run(service.delete(name, settings.tenant))
    click.echo(printable(f"{name} is gone"))


@projections.command()
@click.option("--until-end", is_flag=True, help="Catch up with the events of now, and end.")
@allow_module_option
@click.pass_obj
def run(settings: Settings, until_end: bool) -> int:
    """Run the projections here, as `esb serve` does; Ctrl-C stops them."""
    with _service(settings) as service:
        service.start(must=True)
        failed = 0
        try:
            while not until_end:
                time.sleep(_POLL_S)
            for each in asyncio.run(service.list_projections(settings.tenant)):
                told = _until(service, each["name"], settings.tenant, lambda state: state in ("LIVE", "FAILED", "PAUSED"))
                failed += told["state"] == "FAILED"
                click.echo(printable(f"{told['name']}  {told['state']}  {told['events']:,} events"))
        except KeyboardInterrupt:
            click.echo("esb: stopped; the same command goes on from here", err=True)
    if failed:
        click.echo("esb: some projections have failed; `esb projections show NAME` says why", err=True)
    return EXIT_ERROR if failed else 0
