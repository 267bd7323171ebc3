"""``esb sql`` and ``esb history``: questions to the history.

DuckDB belongs to one process. While ``esb serve`` has it, the question goes to the server.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

import click
import msgspec

from event_streaming_bus.cli.auditing import os_user
from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.tables import print_table
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.store.questions import Batches, answer
from event_streaming_bus.store.saved_queries import SavedQueries

_TRUNCATED: Final = (
    "esb: the answer is longer than what is given; LIMIT or WHERE make it fit, --max-rows and --max-bytes let it be"
)
_FORMATS: Final = ("csv", "json", "ndjson", "arrow", "parquet")
_BINARY: Final = ("arrow", "parquet")


@click.command()
@click.argument("statement", required=False)
@click.option("--saved", metavar="NAME", help="The saved query NAME instead of a statement.")
@click.option("--save-as", metavar="NAME", help="Save the statement under a name, instead of asking it.")
@click.option("--description", default="", help="With --save-as: what the query is for.")
@click.option(
    "-p",
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=TEXT",
    help="The value of $NAME in the statement; NAME:=JSON for one that is no text. May be repeated.",
)
@click.option("--format", "form", type=click.Choice(_FORMATS), help="The form of the answer.  [default: a table]")
@click.option("-o", "--output", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the answer to a file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, as --format ndjson.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header, as --format csv.")
@click.option(
    "--parquet", "parquet_file", type=click.Path(dir_okay=False, path_type=Path), help="As --format parquet --output FILE."
)
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 300), default=60.0, show_default=True, metavar="SECONDS")
@click.option("--max-rows", type=click.IntRange(1, 100_000_000), help="Cut the answer there.  [default: 1,000,000]")
@click.option("--max-bytes", type=click.IntRange(1, 16 << 30), help="Cut the answer about there.  [default: 256 MiB]")
@click.pass_obj
def sql(
    settings: Settings,
    statement: str | None,
    saved: str | None,
    save_as: str | None,
    description: str,
    parameters: tuple[str, ...],
    form: str | None,
    file: Path | None,
    as_json: bool,
    as_csv: bool,
    parquet_file: Path | None,
    timeout_s: float,
    max_rows: int | None,
    max_bytes: int | None,
) -> None:
    """Ask the history a question in SQL.

    The tables are events, processing_history, dead_letters, processor_runs, late_events and
    rebalances.
    """
    from event_streaming_bus.store.history.asking import Bounds

    if (statement is None) == (saved is None):
        raise click.UsageError("give a STATEMENT, or --saved NAME")
    if save_as is not None and statement is None:
        raise click.UsageError("--save-as: give the STATEMENT to save")
    if sum([as_json, as_csv, parquet_file is not None, form is not None]) > 1:
        raise click.UsageError("choose one of --format, --json, --csv and --parquet")
    form = "ndjson" if as_json else "csv" if as_csv else "parquet" if parquet_file is not None else form
    file = parquet_file or file
    if file is not None and form is None:
        form = _form_of(file)
    if form in _BINARY and file is None and sys.stdout.isatty():
        raise click.UsageError(f"--format {form} is not for a terminal; add --output FILE")
    limits: dict[str, Any] = {name: value for name, value in (("max_rows", max_rows), ("max_bytes", max_bytes)) if value}
    values = dict(map(_parameter, parameters))
    storage, tenant_id = settings.open(), settings.tenant_given
    if saved is not None or save_as is not None:
        queries = SavedQueries(storage.place("log.db"))
        try:
            if save_as is not None and statement is not None:
                options: dict[str, Any] = {"description": description, "defaults": values, "changed_by": f"cli:{os_user()}"}
                made = queries.put(settings.tenant, save_as, statement, **options)
                click.echo(f"saved; `esb sql --saved {made.name}` asks it", err=True)
                return
            found = queries.find(settings.tenant, saved or "")
        finally:
            queries.close()
        statement, values, tenant_id = found.sql, found.values(values), settings.tenant
    assert statement is not None  # noqa: S101 - there is one, or --saved
    bounds = Bounds(timeout_s=timeout_s, **limits)
    with ExitStack() as stack:
        with progress_bar("loading history") as bar:
            loading = answer(
                storage,
                statement,
                tenant_id,
                parameters=values,
                bounds=bounds,
                progress=lambda done, total: bar.update(done, total, f"{done:,} of {total:,} records"),
            )
            batches = stack.enter_context(loading)
        if form is None:
            _print(batches)
        else:
            _write(batches, form, file)
    if batches.is_truncated:
        click.echo(_TRUNCATED, err=True)


def _print(batches: Batches) -> None:
    from event_streaming_bus.store.history.formats import rows_of

    print_table(batches.schema.names, [row for batch in batches.batches for row in rows_of(batch)])


def _write(batches: Batches, form: str, file: Path | None) -> None:
    from event_streaming_bus.store.history.formats import AnswerFormat, written

    rows = 0

    def counted() -> Iterator[Any]:
        nonlocal rows
        for batch in batches.batches:
            rows += batch.num_rows
            yield batch

    with _opened(file) as out:
        for piece in written(AnswerFormat(form), batches.schema, counted(), lambda: batches.is_truncated):
            out.write(piece)
        if form == "json":
            out.write(b"\n")
    if file is not None:
        click.echo(f"{rows:,} rows in {file}", err=True)


@contextmanager
def _opened(file: Path | None) -> Iterator[IO[bytes]]:
    """The file, which is only there under its name when all of it is."""
    if file is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as out:
            yield out
        part.replace(file)
    except OSError as error:
        raise InvalidInputError(f"--output, --parquet: {file} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _form_of(file: Path) -> str:
    form = {".csv": "csv", ".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".arrow": "arrow", ".parquet": "parquet"}
    found = form.get(file.suffix.lower())
    if found is None:
        raise click.UsageError(f"--output {file}: say in which --format")
    return found


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.rstrip(":"):
        raise click.UsageError(f"--param: expected NAME=TEXT or NAME:=JSON, got {text!r}")
    if not name.endswith(":"):
        return name.removeprefix("$"), value
    try:
        return name[:-1].removeprefix("$"), msgspec.json.decode(value)
    except msgspec.DecodeError:
        raise click.UsageError(f"--param {name}=: expected JSON, got {value!r}") from None


@click.group()
def history() -> None:
    """The history database: rebuild it from the log, roll it off, or see how far it has come."""


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


@history.command(name="roll-off")
@click.option("--days", type=click.IntRange(0), help="Move days that have been over for so long.  [default: ESB_HISTORY_DAYS]")
@click.option(
    "--keep-days", type=click.IntRange(0), help="Remove the files of days over for so long.  [default: ESB_HISTORY_KEEP_DAYS]"
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def roll_off(settings: Settings, days: int | None, keep_days: int | None, dry_run: bool, as_json: bool) -> None:
    """Move old rows into Parquet files, where SQL still finds them, and remove the oldest files."""
    from event_streaming_bus.store.questions import rolled_off
    from event_streaming_bus.store.settings import KEEP_DAYS, ROLL_OFF_DAYS

    storage = settings.open()
    if days is None and keep_days is None:
        days, keep_days = storage.settings.value(ROLL_OFF_DAYS), storage.settings.value(KEEP_DAYS)
    if days is None and keep_days is None:
        raise click.UsageError(f"say --days or --keep-days, or `esb settings set {ROLL_OFF_DAYS} N`")
    done = rolled_off(storage, days, keep_days, dry_run=dry_run)
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
        return
    would = "would be " if dry_run else ""
    for day, tables in done.days.items():
        told = ", ".join(f"{rows:,} {table}" for table, rows in tables.items() if rows)
        click.echo(f"{day}  {told or 'no rows'}")
    click.echo(f"{done.rows:,} rows of {len(done.days)} days {would}moved into {done.bytes:,} bytes of files")
    if done.removed_days:
        click.echo(f"{done.removed_rows:,} rows of {len(done.removed_days)} days {would}removed")
