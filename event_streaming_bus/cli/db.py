"""``esb db``: the PostgreSQL database that several nodes share beside a log on Kafka."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from event_streaming_bus.cli.main import Settings, confirm
from event_streaming_bus.cli.tables import print_table
from event_streaming_bus.errors import InvalidInputError

if TYPE_CHECKING:
    from event_streaming_bus.store.database import PostgresPlace

_url = click.option(
    "--url",
    envvar="ESB_DATABASE",
    metavar="URL",
    help="postgresql://user:password@host:5432/name; a password is better in ESB_DATABASE, where others cannot read it.",
)


@click.group()
def db() -> None:
    """Make, upgrade and fill the tables of a PostgreSQL database that nodes share."""


@db.command()
@_url
@click.pass_obj
def upgrade(settings: Settings, url: str | None) -> None:
    """Bring the tables to the version that this bus needs. Run it once before nodes of a new version start; running it again
    changes nothing."""
    from event_streaming_bus.store.postgres import connected, postgres_errors
    from event_streaming_bus.store.postgres_migrations import migrations
    from event_streaming_bus.store.postgres_migrations import upgrade as upgraded

    place = _place(settings, url)
    with connected(place) as connection, postgres_errors(place, "upgrading"):
        done = upgraded(connection, place)
    for step in done:
        click.echo(f"version {step.version}: {step.name}")
    click.echo(f"{place} is at version {migrations()[-1].version}" + ("" if done else "; there was nothing to do"))


@db.command()
@_url
@click.pass_obj
def status(settings: Settings, url: str | None) -> None:
    """Say which version the tables have, and which this bus needs. Ends with exit code 1 if they differ."""
    from event_streaming_bus.store.postgres import connected, postgres_errors
    from event_streaming_bus.store.postgres_migrations import check_version, migrations, version_of

    place = _place(settings, url)
    with connected(place) as connection, postgres_errors(place, "looking at the version"):
        click.echo(f"{place}: version {version_of(connection)}, needed: {migrations()[-1].version}")
        check_version(connection, place)


@db.command(name="import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_url
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def import_(settings: Settings, folder: Path, url: str | None, dry_run: bool, yes: bool) -> None:
    """Copy what a data FOLDER has beside its log (processors, schemas, routes, settings, aggregates, tokens, audit, keys) into a
    database whose tables are empty. Stop what uses the folder first. Events are not copied: `esb migrate` does that."""
    from event_streaming_bus.store.postgres_import import import_folder

    place = _place(settings, url)
    if not dry_run:
        confirm(f"Copy the tables of {folder} to {place}? Nothing may use the folder meanwhile.", yes)
    done = import_folder(folder, place, is_dry=dry_run)
    print_table(["file", "table", "rows"], ([each.file, each.table, str(each.rows)] for each in done if each.rows))
    click.echo("nothing was copied, as was asked" if dry_run else f"copied to {place}")


def _place(settings: Settings, url: str | None) -> "PostgresPlace":
    from event_streaming_bus.store.database import postgres_place
    from event_streaming_bus.store.log.kafka_settings import is_kafka_url, parse_url

    if url:
        return postgres_place(url)
    data = settings.data or os.environ.get("ESB_DATA") or ""
    place = parse_url(data, "./esb-data").database if is_kafka_url(data) else None
    if place is None:
        raise InvalidInputError("which database? Expected ESB_DATABASE, --url, or database=... in the URL of the log", path="url")
    return place
