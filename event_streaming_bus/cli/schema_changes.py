"""``esb schemas register``, ``check``, ``apply`` and ``export``: schemas in files, and what registering them does."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_ERROR, Settings, confirm
from event_streaming_bus.cli.schema_reading import read_files
from event_streaming_bus.cli.tables import counted, printable
from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.registry.compatibility import sentences
from event_streaming_bus.registry.json_diff import Change
from event_streaming_bus.registry.schema_files import FORMATS, SchemaFile, declared_in, exported, written
from event_streaming_bus.registry.schema_plans import LevelChange, Plan, Step, Verdict, apply, plan
from event_streaming_bus.registry.service import SchemaRegistryService

_SHOWN_CHANGES: Final = 20
_SHOWN_CHARACTERS: Final = 100


@click.command()
@click.argument("files", metavar="FILE|-...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per schema.")
@click.pass_obj
def register(settings: Settings, files: tuple[str, ...], as_json: bool) -> int:
    """Register the schemas in FILE..., all or none of them. What is registered already stays as it is."""
    registry = SchemaRegistryService(settings.open())
    made = plan(registry, settings.tenant, read_files(files))
    if made.refused:
        _tell(made, as_json)
        return EXIT_ERROR
    new = {(record.schema_name, record.schema_version): record for record in apply(registry, settings.tenant, made, "esb")}
    for step in made.steps:
        name, version = step.declared.name, step.schema_version
        record = new.get((name, version or "")) or registry.find(settings.tenant, name, version)
        if as_json:
            told = {"schema_name": name, "schema_version": version, "schema_id": record.schema_id, "id": record.id}
            click.echo(msgspec.json.encode({**told, "verdict": step.verdict.value}).decode())
        else:
            click.echo(printable(f"{step.verdict.value:<12}  {name}@{version}  {record.schema_id}"))
    return 0


@click.command()
@click.argument("files", metavar="FILE|-|DIR...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per schema.")
@click.pass_obj
def check(settings: Settings, files: tuple[str, ...], as_json: bool) -> int:
    """Say what registering the schemas in FILE... would do, and why it would be refused. Nothing is registered."""
    made = _plan(settings, read_files(files))
    _tell(made, as_json)
    return EXIT_ERROR if made.refused else 0


@click.command(name="apply")
@click.argument("folder", metavar="DIR")
@click.option("--dry-run", is_flag=True, help="Show the plan only.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per schema.")
@click.pass_obj
def apply_(settings: Settings, folder: str, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Register what the files below DIR declare and is not there yet, after showing what that would do.

    If anything is refused, nothing is registered. Applying the same files again changes nothing.
    """
    if not Path(folder).is_dir():
        raise InvalidInputError(f"{folder}: there is no such folder")
    files = read_files([folder])
    if dry_run:
        made = _plan(settings, files)
        _tell(made, as_json)
        return EXIT_ERROR if made.refused else 0
    registry = SchemaRegistryService(settings.open())
    made = plan(registry, settings.tenant, files)
    _tell(made, as_json)
    if made.refused:
        return EXIT_ERROR
    if made.changing or made.levels:
        versions, levels = len(made.changing), len(made.levels)
        told = [counted(versions, "version")] if versions else []
        told += [counted(levels, "compatibility level")] if levels else []
        confirm(f"{' and '.join(told)} will be {'registered' if versions else 'set'}.", yes)
        apply(registry, settings.tenant, made, "esb")
        click.echo(f"{' and '.join(told)} {'registered' if versions else 'set'}", err=True)
    return 0


@click.command()
@click.argument("folder", metavar="DIR")
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--format", "form", type=click.Choice(FORMATS), default="yaml", show_default=True)
@click.option("--force", is_flag=True, help="Overwrite files that are there with other contents.")
@click.pass_obj
def export(settings: Settings, folder: str, names: tuple[str, ...], form: str, force: bool) -> int:
    """Write every version of the schemas NAME..., or of all, to files below DIR; `esb schemas apply` makes the same ones of them.

    What they refer to is written too. Files that are there with other contents are only overwritten with --force.
    """
    registry = SchemaRegistryService(settings.open())
    contents = exported(registry, settings.tenant, names)
    if not contents:
        click.echo("there are no schemas yet; `esb schemas register FILE` makes one", err=True)
        return 0
    texts = {Path(folder) / f"{path}.{form}": written(each, form) for path, each in contents.items()}
    there = {path: path.read_text(encoding="utf-8") for path in texts if path.exists()}
    differing = [path for path, text in there.items() if text != texts[path]]
    if differing and not force:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        named = ", ".join(map(str, differing[:5]))
        raise BusError(f"{named}{more}: there with other contents; --force overwrites them (nothing was written)")
    try:
        for path, text in texts.items():
            if there.get(path) != text:
                _write(path, text)
    except OSError as error:
        raise InvalidInputError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from error
    new = len(texts) - len(there)
    click.echo(f"{counted(new, 'file')} written, {len(differing):,} overwritten, {len(there) - len(differing):,} unchanged")
    _warn(registry, [declared_in(each, str(path)) for path, each in zip(texts, contents.values(), strict=True)])
    return 0


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def _warn(registry: SchemaRegistryService, files: Sequence[SchemaFile]) -> None:
    """Say what could not be made again from the files: versions between that are deleted may be what the others went by."""
    nobody = "\0"  # a tenant that has nothing
    for step in plan(registry, nobody, files).refused:
        click.echo(f"esb: apply would refuse this in an empty registry: {printable(step.reason)}", err=True)


def _plan(settings: Settings, files: Iterable[SchemaFile]) -> Plan:
    """The plan for the data folder, or where there is none, for an empty one; none is made."""
    storage = settings.open_existing()
    if storage is not None:
        return plan(SchemaRegistryService(storage), settings.tenant, files)
    from event_streaming_bus.testing import temporary_bus

    with temporary_bus() as bus:
        return plan(bus.schemas, settings.tenant, files)


# --- telling ----------------------------------------------------------------------------------------------------------


def _tell(made: Plan, as_json: bool) -> None:
    for step in made.steps:
        click.echo(_as_json(step) if as_json else _as_lines(step))
    for level in made.levels:
        click.echo(msgspec.json.encode(level).decode() if as_json else _as_line(level))
    counts = Counter(step.verdict for step in made.steps)
    told = ", ".join(f"{counts[verdict]:,} {verdict.value}" for verdict in Verdict if counts[verdict]) or "no schemas"
    click.echo(f"{told}{'; nothing is registered' if made.refused else ''}", err=True)


def _as_json(step: Step) -> str:
    told: dict[str, Any] = {"schema_name": step.declared.name, "file": step.declared.file, "verdict": step.verdict.value}
    for name in ("schema_version", "before", "change", "level", "reason", "changes", "incompatibilities"):
        told[name] = msgspec.to_builtins(getattr(step, name))
    return msgspec.json.encode(told).decode()


def _as_lines(step: Step) -> str:
    name = step.declared.name or "(a schema without a name)"
    if step.verdict is Verdict.NEW_VERSION:
        named = f"{name} {step.before} -> {step.schema_version} ({step.change})"
    else:
        named = name if step.schema_version is None else f"{name} {step.schema_version}"
    lines = [f"{step.verdict.value:<12}  {named}  {step.declared.file}"]
    if step.reason:
        lines.append(step.reason)
    lines += change_lines(step.changes)
    lines += sentences(step.incompatibilities)
    first, *others = (printable(line) for line in lines for line in line.splitlines())
    return "\n".join([first, *(f"{'':<14}{line}" for line in others)])


def change_lines(changes: Sequence[Change]) -> list[str]:
    """What changed, one change a line."""
    lines = []
    for each in changes[:_SHOWN_CHANGES]:
        before, after = _short(each.before), _short(each.after)
        value = f"{before} -> {after}" if each.change == "changed" else after if each.change == "added" else before
        lines.append(f"{each.change} {each.pointer}: {value}")
    if len(changes) > _SHOWN_CHANGES:
        lines.append(f"and {len(changes) - _SHOWN_CHANGES} more changes")
    return lines


def _short(value: Any) -> str:
    if value is msgspec.UNSET:
        return ""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def _as_line(level: LevelChange) -> str:
    subject = level.subject or "(all others)"
    return printable(f"{'level':<12}  {subject} {level.before or 'inherited'} -> {level.after or 'inherited'}")
