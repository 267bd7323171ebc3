"""``esb settings``: what can be changed in a data folder while it is in use."""

import click
import msgspec

from event_streaming_bus.cli.auditing import os_user
from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.tables import print_table

_NONE = "none"


@click.group()
def settings() -> None:
    """List and change settings of the data folder; every process that uses it goes by them within a second."""


@settings.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the settings, with where their values come from."""
    found = settings.open().settings.told()
    if as_json:
        for each in found:
            click.echo(msgspec.json.encode(each).decode())
        return
    columns = ["name", "value", "source", "description"]
    print_table(columns, ([_NONE if each[name] is None else each[name] for name in columns] for each in found))


@settings.command(name="set")
@click.argument("name")
@click.argument("value")
@click.pass_obj
def set_(settings: Settings, name: str, value: str) -> None:
    """Set NAME to VALUE, a whole number or none."""
    number = None if value == _NONE else int(value) if value.lstrip("-").isdecimal() else value
    settings.open().settings.set(name, number, changed_by=os_user())
    click.echo(f"{name} is {value}")


@settings.command()
@click.argument("name")
@click.pass_obj
def reset(settings: Settings, name: str) -> None:
    """Forget what NAME was set to: the environment counts again, or the default."""
    kept = settings.open().settings
    kept.reset(name)
    (told,) = kept.told(name)
    click.echo(f"{name} is {_NONE if told['value'] is None else told['value']} ({told['source']})")
