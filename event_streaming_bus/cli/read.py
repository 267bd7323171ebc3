"""``esb read``: events of a stream, one line each."""

import heapq
import sys
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.tables import printable
from event_streaming_bus.errors import OffsetOutOfRangeError
from event_streaming_bus.models import Event, Position, Split, StreamInfo, rfc3339
from event_streaming_bus.registry.protection import reveal_events
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.storage import Storage

_WAIT_S: Final = 1.0


@click.command()
@click.argument("stream")
@click.option("--limit", type=click.IntRange(min=0), help="Stop after so many events.")
@click.option("--follow", is_flag=True, help="Go on with new events as they come.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with the whole envelope.")
@click.option("--from", "start", default="beginning", show_default=True, help="beginning, end, or an offset in each split.")
@click.option("--partition", type=click.IntRange(min=0), help="Only this partition.")
@click.pass_obj
def read(
    settings: Settings, stream: str, limit: int | None, follow: bool, as_json: bool, start: str, partition: int | None
) -> None:
    """Print the events of STREAM, in the order in which they were appended."""
    storage: Storage = settings.open()
    info = storage.log.find_stream(settings.tenant, stream)
    if partition is not None and partition >= info.config.partitions:
        raise click.BadParameter(f"{info.name} has the partitions 0 to {info.config.partitions - 1}", param_hint="--partition")
    splits = [s for s in info.splits() if partition is None or s.partition == partition]
    positions = _positions(storage.log, info, splits, start)
    left = limit if limit is not None else -1
    while left != 0:
        try:
            for event, position in _merged(storage, positions):
                sys.stdout.write((to_json(event, info, position) if as_json else _line(event, position)) + "\n")
                left -= 1
                if left == 0:
                    return
        except OffsetOutOfRangeError:
            _skip_dropped(storage.log, info, positions)
            continue
        if not follow:
            return
        sys.stdout.flush()
        storage.log.wait(positions, _WAIT_S)


def _positions(log: EventLog, info: StreamInfo, splits: list[Split], start: str) -> dict[Split, int]:
    begins, ends = log.begin_offsets(info.stream_id), log.end_offsets(info.stream_id)
    if start == "beginning":
        return {s: begins[s] for s in splits}
    if start == "end":
        return {s: ends[s] for s in splits}
    if not start.isdigit():
        raise click.BadParameter(f"expected beginning, end or an offset, got {start!r}", param_hint="--from")
    return {s: min(max(int(start), begins[s]), ends[s]) for s in splits}


def _skip_dropped(log: EventLog, info: StreamInfo, positions: dict[Split, int]) -> None:
    """Move on to the oldest events that are kept: retention may drop events faster than a slow reader takes them."""
    dropped = 0
    for split, begin in log.begin_offsets(info.stream_id).items():
        if split in positions and positions[split] < begin:
            dropped += begin - positions[split]
            positions[split] = begin
    click.echo(f"esb: {dropped:,} events were dropped by retention before they were read", err=True)


def _merged(storage: Storage, positions: dict[Split, int]) -> Iterator[tuple[Event, Position]]:
    """The events of all splits from ``positions`` on, by the time they were appended; ``positions`` moves along."""

    def batches(split: Split) -> Iterator[tuple[int, str, int, RecordBatch]]:
        offset = positions[split]
        while found := storage.log.read(split, offset):
            for batch in found:
                yield batch.appended_at_ms, str(split), batch.offset, batch
            offset = found[-1].end_offset

    for _, _, _, batch in heapq.merge(*(batches(split) for split in positions)):
        for i, event in enumerate(reveal_events(storage.subject_keys, batch.events())):
            positions[batch.split] = batch.offset + i + 1
            yield event, batch.position(i)


def to_json(event: Event, info: StreamInfo, position: Position) -> str:
    """The whole envelope as JSON, the payload as it was published."""
    envelope: dict[str, Any] = {"event_id": event.event_id, "event_type": event.event_type}
    envelope["timestamp"] = rfc3339(event.timestamp_ms)  # here for the order of the members
    envelope["stream"] = info.name
    envelope["partition"] = position.split.partition
    envelope["lane"] = position.split.lane.value
    envelope["offset"] = position.offset
    for name in Event.__struct_fields__:
        value = getattr(event, name)
        if name.endswith("_ms"):
            envelope[name.removesuffix("_ms")] = None if value is None else rfc3339(value)
        elif name != "data":
            envelope[name] = value
    return msgspec.json.encode(envelope | event.payload_data()).decode()


def _line(event: Event, position: Position) -> str:
    place = f"{position.split.partition}/{position.offset}"
    told = (rfc3339(event.timestamp_ms), f"{place:>9}", event.event_type, event.key or "-", event.payload_text())
    return printable("  ".join(told))
