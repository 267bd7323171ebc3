"""``esb sql`` and ``esb history``: questions to the history.

DuckDB belongs to one process. While ``esb serve`` has it, the question goes to the server.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import click

from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.tables import print_table
from event_streaming_bus.errors import InUseError, QueryError
from event_streaming_bus.store.storage import Storage

SERVER_FILE: Final = "serve.json"
_TIMEOUT_S: Final = 120.0


@click.command()
@click.argument("statement")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
@click.option("--parquet", "parquet_file", type=click.Path(dir_okay=False), help="Write the answer to a Parquet file.")
@click.pass_obj
def sql(settings: Settings, statement: str, as_json: bool, as_csv: bool, parquet_file: str | None) -> None:
    """Ask the history a question in SQL.

    The tables are events, processing_history, dead_letters, processor_runs and late_events.
    """
    if sum([as_json, as_csv, parquet_file is not None]) > 1:
        raise click.UsageError("choose one of --json, --csv and --parquet")
    columns, rows, table = _ask(settings.open(), statement)
    if parquet_file is not None:
        _write_parquet(parquet_file, columns, rows, table)
    elif as_json:
        for row in rows:
            click.echo(json.dumps(dict(zip(columns, row, strict=True)), default=_plain, ensure_ascii=False))
    elif as_csv:
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_plain(v) if isinstance(v, date | bytes) else v for v in row] for row in rows)
    else:
        print_table(columns, rows)


@click.group()
def history() -> None:
    """The history database: rebuild it from the log, or see how far it has come."""


@history.command()
@click.pass_obj
def rebuild(settings: Settings) -> None:
    """Make every row of the history anew from the log."""
    from event_streaming_bus.store.history import History

    database = History(settings.open())
    with progress_bar("rebuilding history") as bar:
        rows = database.rebuild(lambda done, total: bar.update(done, total, f"{done:,} of {total:,} records"))
    database.close()
    click.echo(f"{rows:,} rows")


@history.command()
@click.pass_obj
def status(settings: Settings) -> None:
    """Tell how many records of the log are not in the history yet."""
    from event_streaming_bus.store.history import History

    database = History(settings.open())
    click.echo(f"{database.backlog():,} records to load")
    database.close()


def _ask(storage: Storage, statement: str) -> tuple[Sequence[str], Iterable[Sequence[Any]], Any]:
    """``(columns, rows, Arrow table or None)`` of the answer."""
    from event_streaming_bus.store.history import History

    try:
        database = History(storage)
    except InUseError as error:
        answer = _ask_server(storage, statement, error)
        return answer["columns"], answer["rows"], None
    try:
        with progress_bar("loading history") as bar:
            database.catch_up(lambda done, total: bar.update(done, total, f"{done:,} of {total:,} records"))
        result = database.query(statement)
        if result.truncated:
            click.echo("esb: the answer is longer; only its first million rows are given", err=True)
        return result.columns, result.rows(), result.table
    finally:
        database.close()


def _ask_server(storage: Storage, statement: str, error: InUseError) -> dict[str, Any]:
    try:
        server = json.loads((storage.folder / SERVER_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        raise error from None
    request = urllib.request.Request(  # noqa: S310 - our own server, by the address it wrote down
        f"{server['url']}/api/v1/history/query",
        data=json.dumps({"sql": statement, "all_tenants": True}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            decoded: dict[str, Any] = json.load(answer)
            return decoded
    except urllib.error.HTTPError as refused:
        problem = json.load(refused)
        raise QueryError(problem.get("detail") or problem.get("title") or str(refused)) from None
    except OSError:
        raise error from None


def _write_parquet(file: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], table: Any) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    if table is None:
        values = list(rows)
        table = pa.table({name: [row[i] for row in values] for i, name in enumerate(columns)})
    parquet.write_table(table, Path(file))
    click.echo(f"{table.num_rows:,} rows in {file}", err=True)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds") + "Z"
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
