"""``esb dead-letters``: list, show, retry and drop dead letters."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_SKIPPED, Settings, confirm
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.flows.dead_letters import ALL, DeadLetterService, letter_data, letter_filter, whole_letter_data
from event_streaming_bus.flows.letter_destinations import Kind
from event_streaming_bus.flows.letter_retries import LetterReport, Result
from event_streaming_bus.store.letters import MAX_PAGE_LETTERS, Letter, LetterBox, LetterFilter, LetterStatus

_COLUMNS: Final = ["dead_letter_id", "status", "retries", "failed_at", "stream", "step", "key", "error_type", "error_message"]
_PREVIEW_COLUMNS: Final = [
    *("group", "step", "stream", "error_type", "letters", "keys", "oldest", "newest", "to", "would", "first"),
]
_KINDS: Final = {Kind.PROCESSOR: "processor", Kind.GROUP: "consumer group", Kind.STREAM: "stream"}
_SHOWN_CHARACTERS: Final = 80
_STATUSES: Final = [status.value.lower() for status in LetterStatus] + [ALL.lower()]

Command = Callable[..., Any]


def _filters(command: Command) -> Command:
    """The options that say which letters are meant."""
    for name, told in (
        ("--key", "Only letters whose event has this key."),
        ("--error-type", "Only letters of this error, as in TypeError."),
        ("--group", "Only letters of this consumer group, by its name or id."),
        (
            "--processor",
            "Only letters of this processor; `validation`: of events that broke their stream's schema; `routing`: that a rule "
            "set aside.",
        ),
        ("--stream", "Only letters whose event was read from this stream, or published to it."),
    ):
        command = click.option(name, help=told)(command)
    return command


def _meant(command: Command) -> Command:
    """The argument and the options that say which letters are to be retried or dropped."""
    command = click.option("--sql", help="Those that this query over the history finds: it answers with their dead_letter_id.")(
        _filters(command)
    )
    command = click.option("--all", "every", is_flag=True, help="All open ones, or with other options all of those.")(command)
    return click.argument("dead_letter_ids", nargs=-1)(command)


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
    storage = settings.open()
    letter = DeadLetterService(storage).box(settings.tenant).find(dead_letter_id)
    click.echo(msgspec.json.format(msgspec.json.encode(whole_letter_data(letter, storage.subject_keys))).decode())


@dead_letters.command()
@_meant
@click.option("--dry-run", is_flag=True, help="Only say what would be done with them, and where they would go.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def retry(settings: Settings, /, dry_run: bool, as_json: bool, **which: Any) -> int:
    """Retry dead letters, in order per key. What fails again stays open, and later ones of its key wait."""
    selected = _selected(**which)
    with _service(settings, selected) as service:
        told = service.preview(**selected, tenant_id=settings.tenant) if dry_run else None
        reports = service.retry(**selected, tenant_id=settings.tenant) if not dry_run else ()
    if told is not None:
        _print_preview(told, as_json)
        return 0
    return _tell(reports, Result.RETRIED, as_json)


@dead_letters.command()
@_meant
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def drop(settings: Settings, /, yes: bool, as_json: bool, **which: Any) -> int:
    """Drop dead letters: they are done with, and their events stay unprocessed."""
    selected = _selected(**which)
    ids, where, sql = selected["ids"], selected["where"], selected["sql"]
    with _service(settings, selected) as service:
        count = len(set(ids)) if ids is not None else service.count(where, settings.tenant, sql=sql)
    if count:
        confirm(f"{counted(count, 'dead letter')} will be dropped for good.", yes)
    with _service(settings, selected) as service:
        reports = service.drop(**selected, tenant_id=settings.tenant)
    return _tell(reports, Result.DROPPED, as_json)


@contextmanager
def _service(settings: Settings, selected: dict[str, Any]) -> Iterator[DeadLetterService]:
    """The service. Where history is asked there is a progress bar, for it may have to be loaded first."""
    if selected["sql"] is None:
        yield DeadLetterService(settings.open())
        return
    with progress_bar("asking history") as bar:
        yield DeadLetterService(
            settings.open(), progress=lambda done, total: bar.update(done, total, f"{done:,} of {total:,} records loaded")
        )


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


def _selected(dead_letter_ids: Sequence[str], every: bool, sql: str | None, **fields: str | None) -> dict[str, Any]:
    """What the service is told of which letters are meant."""
    filtered = any(value is not None for value in fields.values())
    if bool(dead_letter_ids) + every + (sql is not None) != 1 or (filtered and not every):
        raise click.UsageError(
            "Say which: the ids of dead letters, --sql, or --all, which can go with --stream, --processor, --group and so on."
        )
    return {"ids": dead_letter_ids or None, "where": letter_filter(**fields) if every else None, "sql": sql}


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


def _print_preview(preview: dict[str, Any], as_json: bool) -> None:
    """Print what a retry would do: a line for each group of letters, then why some would not be retried, and how many in all."""
    groups = preview["groups"]
    if as_json:
        for group in groups:
            click.echo(msgspec.json.encode(group).decode())
    elif groups:
        print_table(_PREVIEW_COLUMNS, [_preview_row(group, number) for number, group in enumerate(groups, 1)])
        for number, group in enumerate(groups, 1):
            for reason in group["reasons"]:
                ids = ", ".join(reason["dead_letter_ids"]) + (
                    ", ..." if reason["letters"] > len(reason["dead_letter_ids"]) else ""
                )
                told = f"{number}: would {reason['would']} {counted(reason['letters'], 'letter')}: {reason['message']} ({ids})"
                click.echo(printable(told))
    told = _would(preview["would"]) or "there are no such dead letters"
    click.echo(f"{told}; there are more groups" if preview["truncated"] else told, err=True)


def _preview_row(group: dict[str, Any], number: int) -> list[Any]:
    to = group["destination"]
    return [
        number,
        *(group[name] for name in ("step", "stream", "error_type", "letters")),
        group["keys"] if group["keys_are_complete"] else f"{group['keys']} or more",
        group["oldest_failed_at"],
        group["newest_failed_at"],
        to and f"{_KINDS[to['kind']]} {to['name']}",
        _would(group["would"]),
        group["dead_letter_ids"][0],
    ]


def _would(would: dict[str, int]) -> str:
    return ", ".join(f"{count:,} would {name}" for name, count in would.items() if count)


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        return value[: _SHOWN_CHARACTERS - 1] + "…"
    return value
