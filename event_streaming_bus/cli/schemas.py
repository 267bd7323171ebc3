"""``esb schemas``: the schema registry from the command line."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_ERROR, Settings, confirm
from event_streaming_bus.cli.schema_changes import apply_, change_lines, check, export, register
from event_streaming_bus.cli.schema_reading import STDIN, as_time, placed, read_one
from event_streaming_bus.cli.schema_trial import try_
from event_streaming_bus.cli.tables import counted, print_table, printable
from event_streaming_bus.errors import ExpressionError, InvalidInputError, SchemaError
from event_streaming_bus.models import rfc3339
from event_streaming_bus.registry import semantic_versions
from event_streaming_bus.registry.compatibility import CompatibilityLevel, incompatibilities, sentences
from event_streaming_bus.registry.replay.trial import candidate_of
from event_streaming_bus.registry.schema_configs import read_config
from event_streaming_bus.registry.schema_files import LEVEL, own_level
from event_streaming_bus.registry.schema_plans import config_changes
from event_streaming_bus.registry.schema_references import with_references
from event_streaming_bus.registry.service import SchemaRegistryService, describe
from event_streaming_bus.registry.settings import ALL_SUBJECTS
from event_streaming_bus.store.schemas import SchemaRecord

_MAX_LINE_BYTES: Final = 64 << 20
_COLUMNS: Final = ["schema_name", "latest", "format", "versions", "level", "state", "registered"]
_VERSION_COLUMNS: Final = ["version", "schema_version", "format", "strategy", "level", "state", "registered", "schema_id"]


@click.group()
def schemas() -> None:
    """Register, compare, retire and try schemas."""


for command in (apply_, check, export, register, try_):
    schemas.add_command(command)


def _registry(settings: Settings) -> SchemaRegistryService:
    return SchemaRegistryService(settings.open())


# --- looking ----------------------------------------------------------------------------------------------------------


@schemas.command(name="list")
@click.argument("name", required=False)
@click.option("--deleted", is_flag=True, help="Those that are deleted as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(settings: Settings, name: str | None, deleted: bool, as_json: bool) -> None:
    """List the schemas, or the versions of the schema NAME."""
    registry = _registry(settings)
    if name is None:
        records = registry.subjects.store.versions(settings.tenant, deleted=deleted)
        rows = list(_subjects(registry, settings.tenant, records))
        columns = _COLUMNS
    else:
        records = registry.subjects.versions(settings.tenant, name, deleted=deleted)
        rows = [_version(record) for record in records]
        columns = _VERSION_COLUMNS
    if as_json:
        for row in rows if name is None else map(describe, records):
            click.echo(msgspec.json.encode(row).decode())
    elif rows:
        print_table(columns, [[row[column] for column in columns] for row in rows])
    else:
        click.echo("there are no schemas yet; `esb schemas register FILE` makes one", err=True)


def _subjects(registry: SchemaRegistryService, tenant_id: str, records: list[SchemaRecord]) -> Iterator[dict[str, Any]]:
    by_name: dict[str, list[SchemaRecord]] = {}
    for record in records:
        by_name.setdefault(record.schema_name, []).append(record)
    for name, versions in by_name.items():
        latest = versions[-1]
        yield {
            "schema_name": name,
            "latest": latest.schema_version,
            "format": latest.format,
            "versions": len(versions),
            "level": registry.subjects.settings.level(tenant_id, name).value,
            "state": _state(latest),
            "registered": rfc3339(latest.created_at_ms),
        }


def _version(record: SchemaRecord) -> dict[str, Any]:
    return {
        "version": record.version,
        "schema_version": record.schema_version,
        "format": record.format,
        "strategy": record.evolution_strategy,
        "level": record.compatibility_level,
        "state": _state(record),
        "registered": rfc3339(record.created_at_ms),
        "schema_id": record.schema_id,
    }


def _state(record: SchemaRecord) -> str:
    if record.is_deleted:
        return "deleted"
    if not record.is_active:
        return "inactive"
    return "active" if record.deprecation is None else "deprecated"


@schemas.command()
@click.argument("reference", metavar="NAME[@VERSION]")
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
@click.pass_obj
def show(settings: Settings, reference: str, as_json: bool) -> None:
    """Show a version of a schema, by default the newest active one."""
    record = _registry(settings).find_reference(settings.tenant, reference)
    told = describe(record)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    inner = {name: told.pop(name) for name in list(told) if isinstance(told[name], dict | list)}
    for name, value in told.items():
        if value is not None:
            click.echo(printable(f"{name:<20}  {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"))
    for name, value in inner.items():
        click.echo(f"\n{name}\n{msgspec.json.format(msgspec.json.encode(value)).decode()}")


# --- comparing and validating -----------------------------------------------------------------------------------------


@schemas.command()
@click.argument("first", metavar="NAME@VERSION")
@click.argument("second", metavar="NAME@VERSION|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def diff(settings: Settings, first: str, second: str, as_json: bool) -> None:
    """Say what changed from one version to another, or to the schema in FILE, and which one reads what the other one wrote."""
    registry = _registry(settings)
    before = registry.find_reference(settings.tenant, first)
    if second == "-" or Path(second).is_file():
        declared = read_one(second)
        try:
            config = read_config(with_references(registry, settings.tenant, declared.config))
            after, parsed = candidate_of(registry, settings.tenant, config)
        except (SchemaError, ExpressionError) as error:
            raise placed(error, declared) from error
    else:
        after = registry.find_reference(settings.tenant, second)
        parsed = registry.subjects.parse(settings.tenant, after.text)
    earlier = [(before, registry.subjects.parse(settings.tenant, before.text))]
    found = incompatibilities(parsed, after.format, earlier, CompatibilityLevel.FULL)
    changes = config_changes(before, after)
    if as_json:
        told = {
            "from": {"schema_name": before.schema_name, "schema_version": before.schema_version},
            "to": {"schema_name": after.schema_name, "schema_version": after.schema_version},
            "changes": changes,
            "is_backward_compatible": all(each.direction != "BACKWARD" for each in found),
            "is_forward_compatible": all(each.direction != "FORWARD" for each in found),
            "incompatibilities": found,
        }
        click.echo(msgspec.json.encode(told).decode())
        return
    for line in change_lines(changes) or ["nothing changed"]:
        click.echo(printable(line))
    directions = {each.direction for each in found}
    for direction, told_ in (("BACKWARD", "the second reads what the first wrote"), ("FORWARD", "and the other way round")):
        click.echo(f"{direction:<8}  {'no' if direction in directions else 'yes'}: {told_}")
    for line in sentences(found):
        click.echo(printable(f"    {line}"))


@schemas.command()
@click.argument("reference", metavar="NAME[@VERSION]")
@click.argument("file", metavar="FILE|-")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per violation.")
@click.pass_obj
def validate(settings: Settings, reference: str, file: str, as_json: bool) -> int:
    """Validate the payloads in FILE, one JSON value a line, against a schema and its rules. Exit code 1 if one is not valid."""
    registry = _registry(settings)
    record = registry.find_reference(settings.tenant, reference)
    guard = registry.guard(settings.tenant, record.schema_id)
    count = invalid = 0
    for number, line in _lines(file):
        count += 1
        try:
            found = [msgspec.to_builtins(each) for each in guard.check(msgspec.json.decode(line))]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            told = f"not JSON: {error}"
            found = [{"path": "", "pointer": "", "rule": "json", "message": told, "kind": "schema", "severity": "error"}]
        invalid += any(each["severity"] == "error" for each in found)
        for each in found:
            click.echo(_violation(file, number, each, as_json))
    told = f"{invalid:,} not valid" if invalid else "all valid"
    click.echo(f"{counted(count, 'payload')} against {record.schema_name} {record.schema_version}: {told}", err=True)
    return EXIT_ERROR if invalid else 0


def _violation(file: str, number: int, found: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return msgspec.json.encode({"line": number, **found}).decode()
    warning = "" if found["severity"] == "error" else "warning: "
    place = f"{STDIN if file == '-' else file}:{number}: {found['path'] or '(the payload)'}"
    return printable(f"{place}: {warning}{found['message']} [{found['rule']}]")


def _lines(file: str) -> Iterator[tuple[int, bytes]]:
    """The lines with something in them, with their numbers."""
    try:
        with _opened(file) as lines:
            number = 0
            while line := lines.readline(_MAX_LINE_BYTES):
                number += 1
                if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                    raise InvalidInputError(f"{file}:{number}: longer than {_MAX_LINE_BYTES:,} bytes")
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise InvalidInputError(f"{file}: there is no such file") from None
    except OSError as error:
        raise InvalidInputError(f"{file}: cannot be read: {error.strerror or error}") from error


@contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as opened:
        yield opened


# --- the life of a version --------------------------------------------------------------------------------------------


def _named_version(registry: SchemaRegistryService, tenant_id: str, reference: str) -> SchemaRecord:
    """The version that ``NAME@VERSION`` names."""
    name, _, version = reference.rpartition("@")
    if not name or not semantic_versions.is_version(version):
        raise click.UsageError(f"expected NAME@VERSION as in order@1.0, got {reference!r}")
    return registry.find(tenant_id, name, version)


@schemas.command()
@click.argument("reference", metavar="NAME@VERSION")
@click.option("--refuse-after", callback=as_time, metavar="TIME", help="From this time on producers that use it are refused.")
@click.option("--message", default="", help="What producers are told.")
@click.pass_obj
def deprecate(settings: Settings, reference: str, refuse_after: int | None, message: str) -> None:
    """Mark a version as one that should not be used any more. What was written with it is read as before."""
    registry = _registry(settings)
    record = _named_version(registry, settings.tenant, reference)
    asyncio.run(
        registry.deprecate_schema(record.schema_id, settings.tenant, refuse_producers_after_ms=refuse_after, message=message)
    )
    until = "" if refuse_after is None else f"; producers are refused from {rfc3339(refuse_after)} on"
    click.echo(printable(f"{reference} is deprecated{until}"))


@schemas.command()
@click.argument("reference", metavar="NAME@VERSION")
@click.pass_obj
def activate(settings: Settings, reference: str) -> None:
    """Make a version one that can be used: active, and not deprecated."""
    _set_active(settings, reference, True)


@schemas.command()
@click.argument("reference", metavar="NAME@VERSION")
@click.pass_obj
def deactivate(settings: Settings, reference: str) -> None:
    """Make a version one that nothing new is written with."""
    _set_active(settings, reference, False)


def _set_active(settings: Settings, reference: str, active: bool) -> None:
    registry = _registry(settings)
    record = _named_version(registry, settings.tenant, reference)
    change = registry.activate_schema if active else registry.deactivate_schema
    asyncio.run(change(record.schema_id, settings.tenant))
    click.echo(printable(f"{reference} is {'active' if active else 'inactive'}"))


@schemas.command()
@click.argument("reference", metavar="NAME[@VERSION]")
@click.option("--permanent", is_flag=True, help="Remove for good what is deleted already.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(settings: Settings, reference: str, permanent: bool, yes: bool) -> None:
    """Delete a version of a schema, or all: nothing new can use it, and what was written with it can still be read.

    With --permanent, what is deleted is removed for good, and payloads in Avro that were written with it cannot be read any more.
    """
    registry, tenant_id = _registry(settings), settings.tenant
    name, records, number = _meant(registry, tenant_id, reference)
    gone = "will be removed for good" if permanent else "will be deleted"
    confirm(f"{reference} ({counted(len(records), 'version')}) {gone}.", yes)
    if number is None:
        registry.subjects.delete_subject(tenant_id, name, permanent=permanent)
    else:
        registry.subjects.delete_version(tenant_id, name, number, permanent=permanent)
    click.echo(printable(f"{reference} is {'removed' if permanent else 'deleted'}"))


def _meant(registry: SchemaRegistryService, tenant_id: str, reference: str) -> tuple[str, list[SchemaRecord], int | None]:
    """``(the schema's name, the versions that are meant, the number of the one if one is named)``, deleted ones included."""
    name, _, version = reference.rpartition("@")
    if not name or not semantic_versions.is_version(version):
        return reference, registry.subjects.versions(tenant_id, reference, deleted=True), None
    records = [each for each in registry.subjects.versions(tenant_id, name, deleted=True) if each.schema_version == version]
    if not records:
        registry.find(tenant_id, name, version)  # raises, and says which versions there are
    return name, records, records[-1].version


@schemas.command()
@click.argument("words", metavar="NAME [LEVEL]", nargs=-1)
@click.option("--all", "every", is_flag=True, help="The level of all schemas that have none of their own, without NAME.")
@click.pass_obj
def level(settings: Settings, words: tuple[str, ...], every: bool) -> None:
    """Show or set the compatibility level of new versions of the schema NAME."""
    most = 1 if every else 2
    if len(words) > most or (not words and not every):
        raise click.UsageError("expected NAME, NAME LEVEL, --all, or --all LEVEL")
    name = ALL_SUBJECTS if every else words[0]
    wanted = words[-1] if len(words) == most else None
    registry, tenant_id = _registry(settings), settings.tenant
    if name and not registry.subjects.store.versions(tenant_id, name):
        hint = registry.subjects.near(tenant_id, name)
        click.echo(f"esb: there is no schema {name!r} yet.{hint}", err=True)
    if wanted is not None:
        registry.subjects.settings.set_config(tenant_id, name, {LEVEL: wanted.upper()})
    inherited = " (inherited)" if name and own_level(registry, tenant_id, name) is None else ""
    counts = registry.subjects.settings.level(tenant_id, name).value
    click.echo(printable(f"{name or 'all schemas'}: {counts}{inherited}"))
