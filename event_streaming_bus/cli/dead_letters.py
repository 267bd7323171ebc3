"""``esb dead-letters``: list, show, retry and drop dead letters."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_SKIPPED, Settings, confirm
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.flows.dead_letters import ALL, DeadLetterService, letter_data, letter_filter, whole_letter_data
from event_streaming_bus.flows.letter_retries import LetterReport, Result
from event_streaming_bus.store.letters import MAX_PAGE_LETTERS, Letter, LetterBox, LetterFilter, LetterStatus

_COLUMNS: Final = ["dead_letter_id", "status", "retries", "failed_at", "stream", "step", "key", "error_type", "error_message"]
_SHOWN_CHARACTERS: Final = 80
_STATUSES: Final = [status.value.lower() for status in LetterStatus] + [ALL.lower()]

Command = Callable[..., Any]


def _filters(command: Command) -> Command:
    """The options that say which letters are meant."""
    for name, told in (
        ("--key", "Only letters whose event has this key."),
        ("--error-type", "Only letters of this error, as in TypeError."),
        ("--processor", "Only letters of this processor; `validation`: of events that broke their stream's schema."),
        ("--stream", "Only letters whose event was read from this stream, or published to it."),
    ):
        command = click.option(name, help=told)(command)
    return command


@click.group()
def dead_letters() -> None:
    """List, show, retry and drop dead letters: events that could not be processed, kept with the reason."""


@dead_letters.command(name="list")
@_filters
@click.option("--status", type=click.Choice(_STATUSES, case_sensitive=False), default="open", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="List at most so many.")
@click.option("--newest-first", is_flag=True, help="The letters written last in front.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(settings: Settings, /, status: str, limit: int, newest_first: bool, as_json: bool, **fields: str | None) -> None:
    """List dead letters: the most urgent lane first, within a lane in the order in which they were written."""
    wanted = letter_filter(status, **fields)
    letters = _listed(DeadLetterService(settings.open()).box(settings.tenant), wanted, limit + 1, newest_first)
    shown = [letter_data(letter) for _, letter in zip(range(limit), letters, strict=False)]
    if as_json:
        for row in shown:
            click.echo(msgspec.json.encode(row).decode())
    elif shown:
        print_table(_COLUMNS, [[_short(row[column]) for column in _COLUMNS] for row in shown])
    else:
        click.echo("there are no such dead letters", err=True)
    if next(letters, None) is not None:
        click.echo(f"there are more than {limit:,}; --limit says how many to list", err=True)


@dead_letters.command()
@click.argument("dead_letter_id")
@click.pass_obj
def show(settings: Settings, dead_letter_id: str) -> None:
    """Show a dead letter with its event, as JSON."""
    letter = DeadLetterService(settings.open()).box(settings.tenant).find(dead_letter_id)
    click.echo(msgspec.json.format(msgspec.json.encode(whole_letter_data(letter))).decode())


@dead_letters.command()
@click.argument("dead_letter_ids", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All open ones, or with other options all of those.")
@_filters
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def retry(settings: Settings, /, dead_letter_ids: tuple[str, ...], every: bool, as_json: bool, **fields: str | None) -> int:
    """Retry dead letters, in order per key. What fails again stays open, and later ones of its key wait."""
    where = _meant(dead_letter_ids, every, fields)
    service = DeadLetterService(settings.open())
    reports = service.retry(dead_letter_ids if where is None else None, where=where, tenant_id=settings.tenant)
    return _tell(reports, Result.RETRIED, as_json)


@dead_letters.command()
@click.argument("dead_letter_ids", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All open ones, or with other options all of those.")
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def drop(
    settings: Settings, /, dead_letter_ids: tuple[str, ...], every: bool, yes: bool, as_json: bool, **fields: str | None
) -> int:
    """Drop dead letters: they are done with, and their events stay unprocessed."""
    where = _meant(dead_letter_ids, every, fields)
    service = DeadLetterService(settings.open())
    count = len(set(dead_letter_ids)) if where is None else service.count(where, settings.tenant)
    if count:
        confirm(f"{counted(count, 'dead letter')} will be dropped for good.", yes)
    reports = service.drop(dead_letter_ids if where is None else None, where=where, tenant_id=settings.tenant)
    return _tell(reports, Result.DROPPED, as_json)


def _listed(box: LetterBox, wanted: LetterFilter, limit: int, newest_first: bool) -> Iterator[Letter]:
    """The first ``limit`` letters, page by page."""
    cursor: str | None = None
    while limit > 0:
        page = box.page(wanted, limit=min(limit, MAX_PAGE_LETTERS), cursor=cursor, newest_first=newest_first)
        yield from page.letters
        limit -= len(page.letters)
        cursor = page.next_cursor
        if cursor is None:
            return


def _meant(dead_letter_ids: Sequence[str], every: bool, fields: dict[str, str | None]) -> LetterFilter | None:
    """The filter that the options say, or ``None`` where ids are given."""
    filtered = any(value is not None for value in fields.values())
    if bool(dead_letter_ids) == every or (dead_letter_ids and filtered):
        raise click.UsageError("Say which: the ids of dead letters, or --all, which can go with --stream, --processor and so on.")
    return letter_filter(**fields) if every else None


def _tell(reports: Iterable[LetterReport], done: Result, as_json: bool) -> int:
    """Print each report as it comes, and the counts; returns the exit code."""
    counts: Counter[Result] = Counter()
    for report in reports:
        counts[report.result] += 1
        if as_json:
            click.echo(msgspec.json.encode(report).decode())
            continue
        told = report.message
        if report.result is Result.RETRIED:
            told = f"{counted(report.events_written, 'event')} written"
        click.echo(printable("  ".join(filter(None, (report.dead_letter_id, report.result.value, told)))))
    total = [f"{counts[result]:,} {result.value.lower()}" for result in Result if counts[result]]
    click.echo(", ".join(total) or "there are no such dead letters", err=True)
    return 0 if counts.total() == counts[done] else EXIT_SKIPPED


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        return value[: _SHOWN_CHARACTERS - 1] + "…"
    return value
