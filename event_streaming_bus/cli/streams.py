"""``esb stream``: make, list, describe, grow and drop streams."""

from typing import Any

import click
import msgspec

from event_streaming_bus.cli.main import Settings, confirm
from event_streaming_bus.cli.tables import print_table
from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.models import CompressionType, InvalidEventPolicy, StreamConfig, StreamInfo, check_not_internal, rfc3339
from event_streaming_bus.store.log.growing import growing_log
from event_streaming_bus.store.storage import Storage


@click.group()
def stream() -> None:
    """Make, list, describe, grow and drop streams."""


@stream.command()
@click.argument("name")
@click.option("--partitions", type=click.IntRange(1, 4096), default=1, show_default=True)
@click.option("--compression", type=click.Choice([c.value for c in CompressionType], case_sensitive=False), default="LZ4")
@click.option("--retention-ms", type=click.IntRange(min=1), help="Drop events this long after they were appended.")
@click.option("--retention-bytes", type=click.IntRange(min=1), help="Drop the oldest events beyond this stored size.")
@click.option("--schema", metavar="NAME[@VERSION]", help="The registered schema that guards the stream.")
@click.option(
    "--on-invalid",
    type=click.Choice([p.value for p in InvalidEventPolicy], case_sensitive=False),
    default="REFUSE",
    show_default=True,
    help="What happens to an event that breaks the schema.",
)
@click.pass_obj
def create(
    settings: Settings,
    name: str,
    partitions: int,
    compression: str,
    retention_ms: int | None,
    retention_bytes: int | None,
    schema: str | None,
    on_invalid: str,
) -> None:
    """Make the stream NAME. Making it again with the same settings does nothing.

    With another version of its schema, it is moved to that version.
    """
    storage: Storage = settings.open()
    config = StreamConfig(
        name=name,
        tenant_id=settings.tenant,
        partitions=partitions,
        compression_type=CompressionType(compression.upper()),
        retention_ms=retention_ms,
        retention_bytes=retention_bytes,
        on_invalid=InvalidEventPolicy(on_invalid.upper()),
    )
    if schema is None:
        info = storage.log.create_stream(config)
    else:
        from event_streaming_bus.registry.service import SchemaRegistryService
        from event_streaming_bus.registry.streams import make_stream

        info = make_stream(storage.log, SchemaRegistryService(storage), config, schema)
    count = info.config.partitions  # it may have grown since it was made
    click.echo(f"{info.name}  {info.stream_id}  {count} partition{'s' if count > 1 else ''}")


@stream.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--internal", is_flag=True, help="The bus's own streams as well.")
@click.pass_obj
def list_(settings: Settings, as_json: bool, internal: bool) -> None:
    """List the streams."""
    storage: Storage = settings.open()
    rows = [_describe(storage, info) for info in storage.log.list_streams(settings.tenant, internal=internal)]
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row).decode())
        return
    if not rows:
        click.echo("there are no streams yet; `esb stream create NAME` makes one", err=True)
        return
    columns = ["name", "partitions", "events", "stored_bytes", "compression_type", "created_at", "stream_id"]
    print_table(columns, [[row[column] for column in columns] for row in rows])


@stream.command()
@click.argument("name")
@click.pass_obj
def describe(settings: Settings, name: str) -> None:
    """Show all settings of the stream NAME and its offsets, as JSON."""
    storage: Storage = settings.open()
    info = storage.log.find_stream(settings.tenant, name)
    begins, ends = storage.log.begin_offsets(info.stream_id), storage.log.end_offsets(info.stream_id)
    offsets = [
        {"partition": s.partition, "lane": s.lane.value, "begin_offset": begins.get(s, 0), "end_offset": end}
        for s, end in ends.items()
        if end
    ]
    told = _describe(storage, info) | {"offsets": offsets}
    click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())


@stream.command()
@click.argument("name")
@click.argument("partitions", type=click.IntRange(1, 4096))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def grow(settings: Settings, name: str, partitions: int, yes: bool) -> None:
    """Give the stream NAME so many PARTITIONS, in all. Only a log on Kafka can do it, and none can take them away again.

    Most keys go to another partition from then on. The events of such a key keep no order between its old partition and its
    new one.
    """
    storage: Storage = settings.open()
    info = storage.log.find_stream(settings.tenant, name)
    check_not_internal(info.name)
    log = growing_log(storage.log)
    if log is None:
        raise InvalidStateError(
            f"The stream {info.name} is in an embedded log, where it keeps the partitions that it was made with. Make another "
            "stream with more, or move to Kafka (docs/migration.md)."
        )
    if partitions > info.config.partitions:
        confirm(f"Keys of {info.name} will go to other partitions than before, and the new ones cannot be taken away again.", yes)
    info = log.grow_stream(info.stream_id, partitions)
    click.echo(f"{info.name} has {info.config.partitions} partitions")


@stream.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(settings: Settings, name: str, yes: bool) -> None:
    """Remove the stream NAME and its events."""
    storage: Storage = settings.open()
    info = storage.log.find_stream(settings.tenant, name)
    check_not_internal(info.name)
    events = _describe(storage, info)["events"]
    confirm(f"The stream {info.name} and its {events:,} events will be gone for good.", yes)
    storage.log.drop_stream(info.stream_id)
    click.echo(f"{info.name} and its {events:,} events are gone")


def _describe(storage: Storage, info: StreamInfo) -> dict[str, Any]:
    begins, ends = storage.log.begin_offsets(info.stream_id), storage.log.end_offsets(info.stream_id)
    return {
        "stream_id": info.stream_id,
        **msgspec.to_builtins(info.config),
        "created_at": rfc3339(info.created_at_ms),
        "events": sum(ends.values()) - sum(begins.values()),
        "stored_bytes": storage.log.stored_bytes(info.stream_id),
    }
