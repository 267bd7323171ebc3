"""``esb dry-run``: what a flow would do with the newest events, without doing it."""

from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.modules import allow_module_option
from event_streaming_bus.cli.run import print_metrics
from event_streaming_bus.cli.tables import print_table
from event_streaming_bus.errors import InvalidInputError, StreamNotFoundError
from event_streaming_bus.flows.spec import FlowSpec, load_flow
from event_streaming_bus.flows.trial import Trial, TrialResult, events_of, sources_of, streams_of, trial
from event_streaming_bus.models import Event, StreamInfo, rfc3339
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.storage import Storage

_SAMPLE: Final = 5
_MAX_TEXT: Final = 200


@click.command("dry-run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--from", "streams", metavar="STREAM", multiple=True, help="Only events of these streams.  [default: all it reads]")
@click.option(
    "--last", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="How many events of each stream."
)
@allow_module_option
@click.option("--json", "as_json", is_flag=True, help="Print all that would come out as one JSON object.")
@click.pass_obj
def dry_run(settings: Settings, file: str, streams: tuple[str, ...], last: int, as_json: bool) -> None:
    """Run the flow in FILE over the newest events of its streams, and print what would happen. Nothing is written.

    The events are copied to a log of their own, which is gone afterwards. Windows that began before the first of them show only
    a part of their events.
    """
    storage = settings.open_existing()
    if storage is None:
        raise InvalidInputError("There is no data folder, and so there are no events; esb test runs a flow without one.")
    spec = msgspec.structs.replace(load_flow(file), tests=())
    sources = sources_of(spec)
    for name in streams:
        if name not in sources:
            raise InvalidInputError(f"--from {name}: the flow does not read this stream; it reads {', '.join(sources)}")
    with trial() as tried:
        copied = _copy(spec, storage, tried, streams or sources, last)
        result = tried.run(spec)
    if as_json:
        click.echo(_as_json(copied, result))
    else:
        _print(copied, result)


def _copy(spec: FlowSpec, storage: Storage, tried: Trial, wanted: tuple[str, ...] | list[str], last: int) -> dict[str, int]:
    """Copy schemas, streams and events; returns how many events of each stream."""
    infos = _known_streams(spec, storage)
    for schema in storage.catalog.list_schemas(spec.tenant_id, None):
        tried.storage.catalog.add_schema(schema)
    tried.prepare(spec, {name: info.config for name, info in infos.items()})
    copied: dict[str, int] = {}
    for name in wanted:
        if name not in infos:
            raise StreamNotFoundError(f"There is no stream {name}, and so no events to run the flow over.", stream=name)
        events = _newest(storage, infos[name], last)
        target = tried.storage.log.find_stream(spec.tenant_id, name)
        tried.storage.log.append([Append(target.stream_id, events)])
        copied[name] = len(events)
    return copied


def _known_streams(spec: FlowSpec, storage: Storage) -> dict[str, StreamInfo]:
    infos: dict[str, StreamInfo] = {}
    for name in streams_of(spec):
        try:
            infos[name] = storage.log.find_stream(spec.tenant_id, name)
        except StreamNotFoundError:
            continue  # the flow would make it, or the trial does
    return infos


def _newest(storage: Storage, stream: StreamInfo, last: int) -> list[Event]:
    """The events of a stream with the latest times, in the order in which they were appended within each split."""
    ends, begins = storage.log.end_offsets(stream.stream_id), storage.log.begin_offsets(stream.stream_id)
    events = events_of(storage.log, stream, {split: max(begins[split], end - last) for split, end in ends.items()})
    newest = {event.event_id for event in sorted(events, key=lambda event: (event.timestamp_ms, event.event_id))[-last:]}
    return [event for event in events if event.event_id in newest]


def _as_json(copied: dict[str, int], result: TrialResult) -> str:
    told = {
        "read": copied,
        "processors": [msgspec.to_builtins(each) for each in result.metrics],
        "written": {stream: [_event_data(event) for event in events] for stream, events in result.outputs.items()},
        "late": [
            {
                "processor": each.processor,
                "window_start": rfc3339(each.window_start_ms),
                "window_end": rfc3339(each.window_end_ms),
                **_event_data(each.event),
            }
            for each in result.late
        ],
        "dead": [
            {"processor": each.processor, "error_type": each.error_type, "reason": each.reason, **_event_data(each.event)}
            for each in result.dead
        ],
    }
    return msgspec.json.encode(told).decode()


def _event_data(event: Event) -> dict[str, Any]:
    return {"timestamp": rfc3339(event.timestamp_ms), "key": event.key, "event_type": event.event_type, "payload": event.payload}


def _print(copied: dict[str, int], result: TrialResult) -> None:
    click.echo("Over " + " and ".join(f"the newest {count:,} events of {stream}" for stream, count in copied.items()) + ":")
    print_metrics(result.metrics)
    for stream, events in result.outputs.items():
        shown: list[list[Any]] = [
            [rfc3339(event.timestamp_ms), event.key, _short(event.data.decode())] for event in events[:_SAMPLE]
        ]
        print_table(["time", "key", "payload"], shown, title=f"{stream}: {len(events):,} events would be written")
    rows: list[list[Any]]
    if result.late:
        rows = [
            [late.processor, rfc3339(late.event.timestamp_ms), rfc3339(late.window_start_ms), _short(late.event.data.decode())]
            for late in result.late[:_SAMPLE]
        ]
        print_table(["processor", "time", "missed window from", "payload"], rows, title=f"{len(result.late):,} times too late")
    if result.dead:
        rows = [[dead.processor, _short(dead.reason), _short(dead.event.data.decode())] for dead in result.dead[:_SAMPLE]]
        print_table(["processor", "why", "payload"], rows, title=f"{len(result.dead):,} dead letters")
    click.echo("\nNothing was written.")


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 3]}..."
