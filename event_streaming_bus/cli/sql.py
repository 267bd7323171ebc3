"""``esb sql`` and ``esb history``: questions to the history.

DuckDB belongs to one process. While ``esb serve`` has it, the question goes to the server.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.tables import print_table
from event_streaming_bus.errors import InUseError, InvalidInputError, QueryError
from event_streaming_bus.store.storage import Storage

SERVER_FILE: Final = "serve.json"
_TIMEOUT_S: Final = 120.0
_TRUNCATED: Final = "esb: the answer is longer than what is given; LIMIT or WHERE make it fit"


@click.command()
@click.argument("statement")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
@click.option("--parquet", "parquet_file", type=click.Path(dir_okay=False), help="Write the answer to a Parquet file.")
@click.pass_obj
def sql(settings: Settings, statement: str, as_json: bool, as_csv: bool, parquet_file: str | None) -> None:
    """Ask the history a question in SQL.

    The tables are events, processing_history, dead_letters, processor_runs, late_events and
    rebalances.
    """
    if sum([as_json, as_csv, parquet_file is not None]) > 1:
        raise click.UsageError("choose one of --json, --csv and --parquet")
    columns, rows, table = _ask(settings.open(), statement, settings.tenant_given)
    if parquet_file is not None:
        _write_parquet(parquet_file, columns, rows, table)
    elif as_json:
        for row in rows:
            told = {name: _json_value(value) for name, value in zip(columns, row, strict=True)}
            sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    elif as_csv:
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_csv_value(value) for value in row] for row in rows)
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


def _ask(storage: Storage, statement: str, tenant: str | None) -> tuple[Sequence[str], Iterable[Sequence[Any]], Any]:
    """``(columns, rows, Arrow table or None)`` of the answer."""
    from event_streaming_bus.store.history import History

    try:
        database = History(storage)
    except InUseError as error:
        answer = _ask_server(storage, statement, tenant, error)
        readers = [_READERS.get(kind.split("[")[0].split("(")[0], _as_it_is) for kind in answer["types"]]
        rows = [[None if v is None else read(v) for read, v in zip(readers, row, strict=True)] for row in answer["rows"]]
        if answer.get("truncated"):
            click.echo(_TRUNCATED, err=True)
        return answer["columns"], rows, None
    try:
        with progress_bar("loading history") as bar:
            database.catch_up(lambda done, total: bar.update(done, total, f"{done:,} of {total:,} records"))
        result = database.query(statement, tenant_id=tenant)
        if result.truncated:
            click.echo(_TRUNCATED, err=True)
        return result.columns, result.rows(), result.table
    finally:
        database.close()


def _ask_server(storage: Storage, statement: str, tenant: str | None, error: InUseError) -> dict[str, Any]:
    try:
        server = json.loads((storage.folder / SERVER_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        raise error from None
    request = urllib.request.Request(  # noqa: S310 - our own server, by the address it wrote down
        f"{server['url']}/api/v1/history/query",
        data=json.dumps({"sql": statement, "all_tenants": tenant is None}).encode(),
        headers={"Content-Type": "application/json"} | ({} if tenant is None else {"X-Tenant-Id": tenant}),
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            decoded: dict[str, Any] = json.load(answer)
            return decoded
    except urllib.error.HTTPError as refused:
        try:
            problem = json.load(refused)
            told = problem.get("detail") or problem.get("title")
        except (ValueError, AttributeError):
            told = None
        raise QueryError(told or f"the server at {server['url']} answered {refused.code} {refused.reason}") from None
    except OSError:
        raise error from None


def _write_parquet(file: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], table: Any) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    if table is None:
        values = list(rows)
        table = pa.table({name: [row[i] for row in values] for i, name in enumerate(columns)})
    try:
        parquet.write_table(table, Path(file))
    except OSError as error:
        raise InvalidInputError(f"--parquet: {file} cannot be written: {error}") from error
    click.echo(f"{table.num_rows:,} rows in {file}", err=True)


def _as_it_is(value: Any) -> Any:
    return value


# What a server's answer has as text, by the Arrow type of its column.
_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "timestamp": datetime.fromisoformat,
    "date32": date.fromisoformat,
    "decimal128": Decimal,
}


def _json_value(value: Any) -> Any:
    """A value as JSON has it: whole decimals (sums of integers) as integers, times as RFC 3339 text in UTC."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds") + ("" if value.tzinfo else "Z")
    if isinstance(value, list):
        return [_json_value(each) for each in value]
    if isinstance(value, dict):
        return {name: _json_value(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _csv_value(value: Any) -> Any:
    if isinstance(value, list | dict):
        return msgspec.json.encode(_json_value(value)).decode()
    return value if isinstance(value, Decimal) else _json_value(value)
