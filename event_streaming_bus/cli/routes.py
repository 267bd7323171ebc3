"""``esb routes``: routing rules from the command line."""

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import Settings, confirm
from event_streaming_bus.cli.schema_changes import change_lines
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.flows.flow_file import MAX_FILE_BYTES
from event_streaming_bus.models import EventPriority
from event_streaming_bus.routing.files import RouteFile, read_route_file, routes_of
from event_streaming_bus.routing.model import Route, Rule, Then, rule_data
from event_streaming_bus.routing.service import RouteChange, RoutingService, Verdict
from event_streaming_bus.routing.trial import DEFAULT_EVENTS, try_routes

_COLUMNS: Final = ["stream", "order", "name", "version", "match", "does", "then", "active"]
_TRIAL_COLUMNS: Final = ["rule", "stream", "matched", "taken", "not_evaluated", "to"]
_STDIN: Final = "standard input"
_CHANGED_BY: Final = "esb"


@click.group()
def routes() -> None:
    """Set, show and try the rules by which published events are sent on, changed, or put aside."""


def _service(settings: Settings) -> RoutingService:
    return RoutingService(settings.open())


# --- looking ----------------------------------------------------------------------------------------------------------


@routes.command(name="list")
@click.option("--stream", help="Only the rules of this stream; '*': those for every stream.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(settings: Settings, stream: str | None, as_json: bool) -> None:
    """List the rules, in the order in which they run."""
    rules = _service(settings).rules(settings.tenant, stream)
    if as_json:
        for rule in rules:
            click.echo(msgspec.json.encode(rule_data(rule)).decode())
    elif rules:
        print_table(_COLUMNS, map(_row, rules))
    else:
        click.echo("there are no routing rules yet; `esb routes set NAME` makes one", err=True)


def _row(rule: Rule) -> list[Any]:
    route = rule.route
    match = "(all)" if route.match is None else route.match
    return [route.stream, route.order, route.name, rule.version, match, _does(route), route.then.value, route.is_active]


def _does(route: Route) -> str:
    """What a rule does, in a few words."""
    if route.dead_letter is not None:
        done = [f"dead letter: {route.dead_letter}"]
    else:
        done = [f"{'move' if route.move else 'copy'} to {', '.join(route.to)}"] if route.to else []
        done += [f"priority {route.priority.value}"] if route.priority is not None else []
        done += [f"set {', '.join(route.set_metadata)}"] if route.set_metadata else []
        done += [f"remove {', '.join(route.remove_metadata)}"] if route.remove_metadata else []
    return "; ".join([*(done or ["nothing"]), *([f"{route.sample:.4g} of them"] if route.sample < 1 else [])])


@routes.command()
@click.argument("name")
@click.option("--version", type=int, help="As it was in this version.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def show(settings: Settings, name: str, version: int | None, as_json: bool) -> None:
    """Show the rule NAME."""
    told = rule_data(_service(settings).find(name, settings.tenant, version))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    for field, value in told.items():
        if value is not None and value not in ("", (), {}):
            click.echo(printable(f"{field:<16}  {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"))


# --- changing ---------------------------------------------------------------------------------------------------------


@routes.command(name="set")
@click.argument("name")
@click.option("--stream", required=True, help="The stream that events are published to; '*': every stream.")
@click.option("--match", help='An expression over the envelope, as in "payload.total > 100".  [default: all events]')
@click.option("--to", "targets", multiple=True, metavar="STREAM", help="Send matching events there; may be repeated.")
@click.option("--move", is_flag=True, help="They do not stay in their own stream.")
@click.option(
    "--priority",
    type=click.Choice([each.value for each in EventPriority], case_sensitive=False),
    help="Their priority from then on.",
)
@click.option("--set-metadata", "set_", multiple=True, metavar="KEY=EXPRESSION", help="Set metadata; may be repeated.")
@click.option("--remove-metadata", "removed", multiple=True, metavar="KEY", help="Remove metadata; may be repeated.")
@click.option("--sample", type=float, help="Only this share of them, 0 to 1.  [default: 1]")
@click.option("--dead-letter", metavar="REASON", help="Put them aside as dead letters instead.")
@click.option("--then", type=click.Choice([each.value for each in Then]), help="What comes after a match.  [default: continue]")
@click.option("--order", type=int, help="Rules of a stream run by this number.  [default: 100]")
@click.option("--inactive", is_flag=True, help="Keep the rule without running it.")
@click.option("--description", help="What the rule is for.")
@click.pass_obj
def set_(
    settings: Settings,
    /,
    name: str,
    targets: tuple[str, ...],
    set_: tuple[str, ...],
    removed: tuple[str, ...],
    inactive: bool,
    **options: Any,
) -> None:
    """Make the rule NAME, or replace it by what is said here. Making it again as it is does nothing."""
    config = {option: value for option, value in options.items() if value is not None and value is not False}
    config |= {"name": name, "to": list(targets), "remove_metadata": list(removed), "is_active": not inactive}
    config["set_metadata"] = dict(map(_assignment, set_))
    service = _service(settings)
    (change,) = service.apply(service.read([config], [""], settings.tenant), settings.tenant, _CHANGED_BY)
    _tell(change)


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"--set-metadata: expected KEY=EXPRESSION as in region=payload.country, got {text!r}")
    return key, value


@routes.command(name="apply")
@click.argument("file", metavar="FILE|-")
@click.option("--dry-run", is_flag=True, help="Only show what changes.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def apply_(settings: Settings, file: str, dry_run: bool, yes: bool) -> None:
    """Make the rules in FILE (YAML, JSON or TOML), or replace those of the same names, after showing what changes.

    It is done all at once, or if anything is wrong not at all. Rules that are not in FILE stay. Applying it again changes
    nothing.
    """
    service = _service(settings)
    wanted = routes_of(service, _read(file), settings.tenant)
    planned = service.preview(wanted, settings.tenant)
    for change in planned:
        _tell(change)
    counts = Counter(change.verdict for change in planned)
    told = ", ".join(f"{counts[verdict]:,} {verdict.value}" for verdict in Verdict if counts[verdict]) or "no rules"
    todo = counts[Verdict.NEW] + counts[Verdict.CHANGED]
    if dry_run or not todo:
        click.echo(f"{told}; nothing was changed", err=True)
        return
    confirm(f"{counted(todo, 'rule')} will be set.", yes)
    service.apply(wanted, settings.tenant, _CHANGED_BY)
    click.echo(told, err=True)


def _tell(change: RouteChange) -> None:
    click.echo(printable(f"{change.verdict.value:<9}  {change.name}@{change.version}"))
    for line in change_lines(change.changes):
        click.echo(printable(f"{'':<11}{line}"))


def _read(file: str) -> RouteFile:
    if file != "-":
        return read_route_file(Path(file))
    text = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    suffix = ".json" if text.lstrip()[:1] in (b"{", b"[") else ".yaml"
    with tempfile.NamedTemporaryFile(prefix="esb-", suffix=suffix) as kept:
        kept.write(text)
        kept.flush()
        try:
            return read_route_file(Path(kept.name))._replace(source=_STDIN)
        except BusError as error:
            raise type(error)(error.message.replace(kept.name, _STDIN), **error.details) from None


@routes.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def remove(settings: Settings, name: str, yes: bool) -> None:
    """Remove the rule NAME. What it did stays, and its versions can still be shown."""
    service = _service(settings)
    rule = service.find(name, settings.tenant)
    confirm(f"The rule {name} of {rule.route.stream} will be removed.", yes)
    service.remove(name, settings.tenant)
    click.echo(printable(f"{name} is removed"))


# --- trying -----------------------------------------------------------------------------------------------------------


@routes.command(name="try")
@click.argument("file", metavar="[FILE|-]", required=False)
@click.option("--stream", required=True, help="The stream whose newest events are taken.")
@click.option("--last", type=int, default=DEFAULT_EVENTS, show_default=True, help="How many of them.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def try_(settings: Settings, file: str | None, stream: str, last: int, as_json: bool) -> None:
    """Say what the rules would do with the newest events of a stream, with FILE as if it were applied. Nothing is written."""
    storage = settings.open_existing()
    if storage is None:
        raise InvalidInputError("there is no data folder yet, and so no events to try rules on")
    candidates = [] if file is None else routes_of(RoutingService(storage), _read(file), settings.tenant)
    told = try_routes(storage, stream, settings.tenant, last=last, candidates=candidates)
    if as_json:
        click.echo(msgspec.json.encode(told).decode())
        return
    if told["rules"]:
        print_table(_TRIAL_COLUMNS, map(_trial_row, told["rules"]))
    for name, count in told["events_to"].items():
        click.echo(printable(f"{counted(count, 'event')} to {name}"))
    for each in told["dead_letters"]:
        click.echo(printable(f"{'':<4}{counted(each['count'], 'event')}: {each['reason']}"))
    for rule in told["rules"]:
        for each in rule["examples"]:
            about = f"{rule['name']}: {each['place']}: not evaluated for {counted(each['count'], 'event')}"
            click.echo(printable(f"{about}, as {each['event_id']}: {each['message']}"))
    click.echo(
        f"{counted(told['events'], 'event')}: {told['stayed']:,} stay in {printable(told['stream'])}, "
        f"{told['unchanged']:,} of them as they are; nothing was written",
        err=True,
    )


def _trial_row(rule: dict[str, Any]) -> list[Any]:
    named = f"{rule['name']}@{rule['version']}"
    return [named, rule["stream"], rule["matched"], rule["taken"], rule["not_evaluated"], ", ".join(rule["to"])]
