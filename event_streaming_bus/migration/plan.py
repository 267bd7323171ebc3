"""What a migration would do, found out without doing it, and what stands in its way."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from event_streaming_bus.errors import BusError, InvalidInputError, StreamNotFoundError
from event_streaming_bus.migration import flow_states
from event_streaming_bus.migration.checking import count_events
from event_streaming_bus.migration.journal import JOURNAL_STREAM
from event_streaming_bus.migration.naming import is_kafka, name_of
from event_streaming_bus.migration.pairs import Pair, reached, told
from event_streaming_bus.migration.waiting import waiting
from event_streaming_bus.models import Split, StreamConfig, StreamInfo
from event_streaming_bus.store.history_records import HISTORY_STREAM
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.capabilities import capabilities_of
from event_streaming_bus.store.storage import Storage

_COUNTED: Final = 10_000
_NOT_CARRIED: Final = frozenset({HISTORY_STREAM, JOURNAL_STREAM})


class FlowOutputs(StrEnum):
    """What is done with the streams that flows write: made, empty, for the flows to fill them anew, or carried as all others."""

    REMAKE = "remake"
    CARRY = "carry"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be carried. ``only`` and ``without`` are names or ids of streams, of whichever tenant; ``only`` is everything if
    it is empty. ``flow_outputs`` must be said where flows write streams."""

    only: Sequence[str] = ()
    without: Sequence[str] = ()
    flow_outputs: FlowOutputs | None = None


class StreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is done with a stream. ``events`` are still to be copied; of a large stream on Kafka it is a bound. ``after`` is
    ``None`` as long as the target has no such stream. ``is_remade``: its flows fill it, so only the stream is made."""

    before: StreamInfo
    after: StreamInfo | None
    events: int
    is_continued: bool
    is_remade: bool
    written_by: list[str]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A migration as it would be now. ``scheduled`` counts events that wait for their time, ``groups`` consumer groups.
    ``obstacles`` are the reasons why it is refused; ``notes`` are good to know."""

    source: str
    target: str
    streams: list[StreamPlan]
    scheduled: int
    groups: int
    obstacles: list[str]
    notes: list[str]


def make_plan(source: Storage, target: Storage | None, target_name: str, choice: Choice) -> Plan:
    """The plan of a migration; ``target`` is ``None`` if there is nothing yet. Raises ``InvalidInputError`` if both are the same
    log, and ``StreamNotFoundError`` for a name that no stream has."""
    source_name = name_of(source)
    if source_name == target_name:
        raise InvalidInputError(f"FROM and TO are the same log, {source_name}")
    written = flow_states.writers(source)
    streams: list[StreamPlan] = []
    obstacles: list[str] = []
    notes: list[str] = []
    for before in _chosen(source, choice):
        after = None if target is None else _find(target, before)
        writers = written.get((before.tenant_id, before.name), []) + written.get((before.tenant_id, before.stream_id), [])
        done = {} if target is None or after is None else reached(target.log, Pair(source_name, before, after))
        begins, ends = source.log.begin_offsets(before.stream_id), source.log.end_offsets(before.stream_id)
        from_where = {s: max(begin, done[s].offset if s in done else 0) for s, begin in begins.items()}
        left = sum(_events_left(source.log, s, from_where[s], end) for s, end in ends.items())
        is_remade = bool(writers) and choice.flow_outputs is FlowOutputs.REMAKE
        each = StreamPlan(
            before=before,
            after=after,
            events=0 if is_remade else left,
            is_continued=any(there.has_begun for there in done.values()),
            is_remade=is_remade,
            written_by=writers,
        )
        streams.append(each)
        if after is not None and (differ := _different(before, after)):
            notes.append(f"{told(before)} keeps the settings that it has at TO: {differ} differ")
        if target is not None:
            obstacles += _in_the_way(source, target, target_name, each)
    obstacles += _outputs(streams, choice)
    chosen = {each.before.stream_id for each in streams if not each.is_remade}
    tenants = {each.before.tenant_id for each in streams}
    scheduled = sum(each.split.stream_id in chosen for each in waiting(source.log, tenants))
    obstacles += _scheduled(target, scheduled)
    with source.groups.reading("listing consumer groups") as tables:
        groups = sum(len(tables.groups(tenant_id)) for tenant_id in tenants)
    if target is None or source.place("log.db") != target.place("log.db"):
        obstacles += _left_behind(source, target)
    if target is not None and source.folder != target.folder:
        obstacles += _foreign_snapshots(target, streams)
    elif target is not None:
        obstacles += [f"the flow {flow} is running; stop it, and start it at TO then" for flow in flow_states.running(source)]
        notes.append("history begins anew at TO")
    return Plan(
        source=source_name,
        target=target_name,
        streams=streams,
        scheduled=scheduled,
        groups=groups,
        obstacles=obstacles,
        notes=notes,
    )


def _events_left(log: EventLog, split: Split, begin: int, end: int) -> int:
    """How many events lie between; where offsets are not dense and there are many, how many offsets."""
    if capabilities_of(log).dense_offsets or end - begin > _COUNTED:
        return max(0, end - begin)
    return count_events(log, split, begin, end)


def _chosen(source: Storage, choice: Choice) -> list[StreamInfo]:
    there = [info for info in source.log.list_streams(internal=True) if info.name not in _NOT_CARRIED]
    for wanted in (*choice.only, *choice.without):
        if not any(wanted in (info.name, info.stream_id) for info in there):
            raise StreamNotFoundError(f"There is no stream '{wanted}' to carry, or to leave out.", stream=wanted)
    return [
        info
        for info in there
        if (not choice.only or info.name in choice.only or info.stream_id in choice.only)
        and info.name not in choice.without
        and info.stream_id not in choice.without
    ]


def _find(target: Storage, before: StreamInfo) -> StreamInfo | None:
    try:
        return target.log.find_stream(before.tenant_id, before.name)
    except StreamNotFoundError:
        return None


def _different(before: StreamInfo, after: StreamInfo) -> str:
    """The names of the settings in which a stream at TO is another, but for those that are in the way."""
    names = [name for name in StreamConfig.__struct_fields__ if getattr(before.config, name) != getattr(after.config, name)]
    return ", ".join(name for name in names if name != "partitions")


def _in_the_way(source: Storage, target: Storage, target_name: str, each: StreamPlan) -> Iterable[str]:
    """Why a stream cannot be carried to what is there."""
    before, after, name = each.before, each.after, told(each.before)
    if after is None:
        if is_kafka(target):
            yield from _bad_name(target, before)
        return
    if after.stream_id != before.stream_id:
        yield f"TO has another stream of the name {name}: drop it there, or leave this one out with --except {before.name}"
        return
    if after.config.partitions != before.config.partitions:
        yield f"{name} has {after.config.partitions} partitions at TO, not {before.config.partitions}: drop it there"
        return
    begins, ends = target.log.begin_offsets(after.stream_id), target.log.end_offsets(after.stream_id)
    is_empty = all(begin == ends[split] for split, begin in begins.items())
    if is_empty or each.is_remade:
        return
    if is_kafka(target):  # where the ids of old events are forgotten
        back = reached(source.log, Pair(target_name, after, before))
        if any(there.has_begun for there in back.values()):
            yield f"{name} has been carried back from TO since it was carried there: drop it at TO, or give TO another prefix"
        elif not each.is_continued:
            yield f"{name} holds events at TO that did not come from FROM: drop it there, or give TO another prefix"
    elif not each.is_continued and any(begins.values()):
        yield (
            f"{name} is at TO, where retention has dropped old events that FROM may still hold: they would come behind newer "
            "ones. Drop it there"
        )


def _bad_name(target: Storage, before: StreamInfo) -> Iterable[str]:
    from event_streaming_bus.store.log.kafka_settings import parse_url
    from event_streaming_bus.store.log.kafka_topics import check_names

    try:
        check_names(parse_url(target.url, "unused").prefix, before.config)
    except BusError as error:
        yield f"{error.message}; leave it out with --except {before.name}"


def _outputs(streams: Sequence[StreamPlan], choice: Choice) -> Iterable[str]:
    outputs = [each for each in streams if each.written_by]
    if outputs and choice.flow_outputs is None:
        named = ", ".join(f"{told(each.before)} ({', '.join(each.written_by)})" for each in outputs)
        yield (
            f"flows write to {named}. At TO they begin at the beginning of their streams: say --flow-outputs remake to leave "
            "their output to them, or --flow-outputs carry if they are not to run there"
        )


def _scheduled(target: Storage | None, count: int) -> Iterable[str]:
    if count and target is not None and not capabilities_of(target.log).scheduling:
        yield f"{count:,} events wait at FROM for their time, and TO cannot keep events aside: cancel them (`esb scheduled list`)"


def _foreign_snapshots(target: Storage, streams: Sequence[StreamPlan]) -> Iterable[str]:
    """Snapshots that came with a copied folder hold places of the log that was there."""
    folder = flow_states.snapshots_of(target)
    if is_kafka(target) and folder.exists() and not any(each.is_continued for each in streams):
        yield f"{folder} holds snapshots of flows over another log: move it away"


def _left_behind(source: Storage, target: Storage | None) -> Iterable[str]:
    """What is beside the log of the source, and would be missed at the target, which keeps such things elsewhere."""
    tenants = sorted({info.tenant_id for info in source.log.list_streams()})
    there = {} if target is None else _beside(target, tenants)
    found = [kind for kind, names in _beside(source, tenants).items() if names - there.get(kind, set())]
    if found:
        yield (
            f"FROM keeps {', '.join(found)} in {source.folder}, and TO keeps such things elsewhere and lacks them. Name the same "
            f"folder in TO (kafka://...?data={source.folder}), or copy or import what is in it first"
        )


def _beside(storage: Storage, tenants: Sequence[str]) -> dict[str, set[str]]:
    """The names of what a storage has beside its log, by its kind."""
    processors = {f"{tenant}/{flow}/{name}" for (tenant, flow), names in flow_states.flows_of(storage).items() for name in names}
    found = {"processors": processors, "schemas": set[str](), "routes": set[str](), "aggregates": set[str]()}
    for tenant in tenants:
        found["schemas"] |= {record.schema_id for record in storage.schemas.versions(tenant, deleted=True)}
        found["routes"] |= {f"{tenant}/{route.name}" for route in storage.routes.current(tenant)}
        found["aggregates"] |= {f"{tenant}/{category}" for category in storage.aggregates.categories(tenant)}
    found["keys of personal data"] = {"some"} if storage.subject_keys.is_used else set()
    return found
