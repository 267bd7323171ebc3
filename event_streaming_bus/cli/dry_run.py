"""``esb dry-run``: what a flow would do with the newest events, without doing it."""

from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.modules import allow_module_option
from event_streaming_bus.cli.run import print_metrics
from event_streaming_bus.cli.tables import counted, print_table
from event_streaming_bus.errors import InvalidInputError, StreamNotFoundError
from event_streaming_bus.flows.samples import copy_events, newest
from event_streaming_bus.flows.spec import FlowSpec, load_flow
from event_streaming_bus.flows.trial import Trial, TrialResult, sources_of, trial
from event_streaming_bus.models import Event, Split, StreamInfo, rfc3339
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.storage import Storage

_LAST: Final = 1000
_SAMPLE: Final = 5
_MAX_TEXT: Final = 200
_PARTIAL: Final = "Windows and joins that began before these events show only a part of theirs."


class _Extent(msgspec.Struct, frozen=True):
    """Which events of each stream: the ``last`` ones, those from an offset on, or all."""

    last: int | None
    from_offset: int | None
    all: bool

    def begins(self, log: EventLog, stream: StreamInfo) -> dict[Split, int]:
        """Where it begins in each split."""
        begins, ends = log.begin_offsets(stream.stream_id), log.end_offsets(stream.stream_id)
        if self.all:
            return begins
        if self.from_offset is not None:
            return {split: min(max(self.from_offset, begin), ends[split]) for split, begin in begins.items()}
        return newest(log, stream, self.last or _LAST)


class _Copied(msgspec.Struct, frozen=True):
    """How many events of a stream the flow is run over, and whether there are older ones."""

    count: int
    older: bool


@click.command("dry-run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--from", "streams", metavar="STREAM", multiple=True, help="Only events of these streams.  [default: all it reads]")
@click.option("--last", type=click.IntRange(1, 1_000_000), help=f"How many events of each stream.  [default: {_LAST}]")
@click.option("--from-offset", type=click.IntRange(0), help="Or those from this offset on, in each split.")
@click.option("--all", "everything", is_flag=True, help="Or all events that are kept.")
@allow_module_option
@click.option("--json", "as_json", is_flag=True, help="Print all that would come out as one JSON object.")
@click.pass_obj
def dry_run(
    settings: Settings,
    file: str,
    streams: tuple[str, ...],
    last: int | None,
    from_offset: int | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Run the flow in FILE over the newest events of its streams, and print what would happen. Nothing is written.

    The events are copied to a log of their own, with their places and the times they were appended, which is gone afterwards.
    Functions of CUSTOM processors are called.
    """
    if sum((last is not None, from_offset is not None, everything)) > 1:
        raise click.UsageError("--last, --from-offset and --all exclude one another")
    storage = settings.open_existing()
    if storage is None:
        raise InvalidInputError("There is no data folder, and so there are no events; esb test runs a flow without one.")
    spec = msgspec.structs.replace(load_flow(file), tests=())
    sources = sources_of(spec)
    for name in streams:
        if name not in sources:
            raise InvalidInputError(f"--from {name}: the flow does not read this stream; it reads {', '.join(sources)}")
    with trial() as tried:
        copied = _copy(spec, storage, tried, streams or sources, _Extent(last, from_offset, everything))
        result = tried.run(most=None if as_json else _SAMPLE)
    if as_json:
        click.echo(_as_json(copied, result))
    else:
        _print(copied, result)


def _copy(spec: FlowSpec, storage: Storage, tried: Trial, wanted: Sequence[str], extent: _Extent) -> dict[str, _Copied]:
    """Copy schemas, streams and events, and deploy the flow; returns how much of each stream."""
    infos = _known_streams(spec, storage)
    found = [name for name in wanted if name in infos]
    if not found:
        raise StreamNotFoundError(f"There is no stream {wanted[0]}, and so no events to run the flow over.", stream=wanted[0])
    storage.schemas.copy_to(tried.storage.schemas, spec.tenant_id)
    undeclared = [name for name in sources_of(spec) if name not in infos.keys() | {stream.name for stream in spec.streams}]
    if undeclared:
        raise StreamNotFoundError(
            f"There is no stream {undeclared[0]}, which the flow reads and does not declare: it would not start.",
            stream=undeclared[0],
        )
    tried.prepare(spec, infos.values())
    copied: dict[str, _Copied] = {}
    for info in {infos[name].stream_id: infos[name] for name in found}.values():
        ends = storage.log.end_offsets(info.stream_id)
        begins = extent.begins(storage.log, info)
        older = begins != storage.log.begin_offsets(info.stream_id)
        copied[info.name] = _Copied(copy_events(storage.log, tried.log, begins, ends), older)
    return copied


def _known_streams(spec: FlowSpec, storage: Storage) -> dict[str, StreamInfo]:
    """The streams of the flow that are there, by what the flow calls them."""
    changelogs = [p.state_store_config.changelog_topic for p in spec.processors if p.state_store_config is not None]
    infos: dict[str, StreamInfo] = {}
    for name in (*(stream.name for stream in spec.streams), *spec.streams_used(), *changelogs):
        if name is None:
            continue
        try:
            infos[name] = storage.log.find_stream(spec.tenant_id, name)
        except StreamNotFoundError:
            continue  # the flow would make it, or the trial does
    return infos


def _as_json(copied: dict[str, _Copied], result: TrialResult) -> str:
    told = {
        "read": {stream: each.count for stream, each in copied.items()},
        "partial": any(each.older for each in copied.values()),
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
            {
                "processor": each.processor,
                "stream": each.stream,
                "error_type": each.error_type,
                "reason": each.reason,
                **_event_data(each.event),
            }
            for each in result.dead
        ],
    }
    return msgspec.json.encode(told).decode()


def _event_data(event: Event) -> dict[str, Any]:
    data = {"event_id": event.event_id, "timestamp": rfc3339(event.timestamp_ms), "key": event.key}
    return data | {"event_type": event.event_type} | event.payload_data()


def _print(copied: dict[str, _Copied], result: TrialResult) -> None:
    click.echo("Over " + " and ".join(_extent_told(stream, each) for stream, each in copied.items()) + ":")
    print_metrics(result.metrics)
    for stream, events in result.outputs.items():
        rows: list[list[Any]] = [[rfc3339(event.timestamp_ms), event.key, _payload(event)] for event in events]
        print_table(
            ["time", "key", "payload"], rows, title=f"{stream}: {counted(result.written[stream], 'event')} would be written"
        )
    if result.late:
        rows = [
            [
                late.processor,
                rfc3339(late.event.timestamp_ms),
                f"{rfc3339(late.window_start_ms)} to {rfc3339(late.window_end_ms)}",
                _payload(late.event),
            ]
            for late in result.late
        ]
        title = f"{counted(result.late_count, 'time')} an event was too late for a window"
        print_table(["processor", "time", "missed window", "payload"], rows, title=title)
    if result.dead:
        rows = [
            [dead.processor or f"schema of {dead.stream}", _short(f"{dead.error_type}: {dead.reason}"), _payload(dead.event)]
            for dead in result.dead
        ]
        print_table(["processor", "why", "payload"], rows, title=counted(result.dead_count, "dead letter"))
    click.echo()
    if any(each.older for each in copied.values()):
        click.echo(_PARTIAL)
    click.echo("Nothing was written.")


def _extent_told(stream: str, copied: _Copied) -> str:
    newest = "the newest" if copied.older else "all"
    return f"{newest} {counted(copied.count, 'event')} of {stream}"


def _payload(event: Event) -> str:
    return _short(event.payload_text())


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 3]}..."
