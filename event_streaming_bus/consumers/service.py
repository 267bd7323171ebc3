"""Managing consumer groups: make them, see how far behind they are, rebalance, pause, reset and delete them.

The same service is behind the REST API and ``esb groups``. Who reads the events is in other modules; this one only looks after
the groups. Wherever a group is asked for, its id or its name will do.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.consumers import lag, resets
from event_streaming_bus.consumers.coordination import coordinator_of
from event_streaming_bus.consumers.group_settings import RANGES
from event_streaming_bus.consumers.lag import SEVERITY, SplitLag, Verdict
from event_streaming_bus.consumers.model import AssignmentStrategy, Group, GroupConfig, Member, OffsetReset
from event_streaming_bus.errors import InvalidInputError, StreamNotFoundError
from event_streaming_bus.models import DEFAULT_TENANT, LANES, Split, rfc3339
from event_streaming_bus.store.letters import MAX_PAGE_LETTERS, LetterBox, LetterFilter
from event_streaming_bus.store.storage import Storage, open_storage
from event_streaming_bus.struct_errors import path_and_reason

_CHOICES: Final = {"partition_assignment_strategy": AssignmentStrategy, "auto_offset_reset": OffsetReset}


class ConsumerManagementService:
    """Manages consumer groups. Safe to use from any thread and any number of processes."""

    def __init__(self, storage: Storage | None = None, *, clock_ms: Callable[[], int] | None = None) -> None:
        self._storage = storage or open_storage()
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)
        self._coordinator = coordinator_of(self._storage, clock_ms=clock_ms)

    # --- the life of a group ------------------------------------------------------------------------------------------

    async def create_consumer_group(
        self, group_config: Mapping[str, Any] | GroupConfig, tenant_id: str = DEFAULT_TENANT, user_id: str | None = None
    ) -> str:
        """Make a group; returns its id. Making it again with the same settings returns the same id.

        Raises ``InvalidInputError`` naming the setting and what is accepted, and ``AlreadyExistsError`` if there is a group of
        this name with other settings.
        """
        config = group_config if isinstance(group_config, GroupConfig) else read_config(group_config)
        group = await asyncio.to_thread(self._coordinator.create, tenant_id, config, created_by=user_id)
        return group.group_id

    async def get_consumer_group(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> Group:
        """The group, with its members. Raises ``GroupNotFoundError``."""
        return await asyncio.to_thread(self._coordinator.get, tenant_id, group_id)

    async def list_consumer_groups(self, tenant_id: str = DEFAULT_TENANT) -> list[Group]:
        """The tenant's groups by name."""
        return await asyncio.to_thread(self._coordinator.list_groups, tenant_id)

    async def describe_consumer_group(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """The group as plain data: its settings, its state and generation, and its members with what each of them reads."""
        group = await self.get_consumer_group(group_id, tenant_id)
        return await asyncio.to_thread(lambda: group_data(group) | {"members": self._members(group)})

    async def delete_consumer_group(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> Group:
        """Forget a group, what it has committed, and what is on its way to it of retried dead letters; returns it as it was. Its
        members are told so when they next ask."""
        return await asyncio.to_thread(self._coordinator.delete, tenant_id, group_id)

    async def pause(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> Group:
        """Give the group's members no events until it is resumed. They stay members, and keep their partitions."""
        return await asyncio.to_thread(self._coordinator.set_paused, tenant_id, group_id, True)

    async def resume(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> Group:
        """Let a paused group go on from what it has committed."""
        return await asyncio.to_thread(self._coordinator.set_paused, tenant_id, group_id, False)

    async def trigger_rebalance(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> Group:
        """Let all members join anew, so that partitions are shared out again. A group without members stays as it is."""
        return await asyncio.to_thread(self._coordinator.trigger_rebalance, tenant_id, group_id)

    # --- lag ----------------------------------------------------------------------------------------------------------

    async def get_consumer_lag(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """How far behind the group is, computed now from the log.

        ``total_lag`` events wait; ``partition_lags``, ``stream_lags`` and ``lane_lags`` say where, each adding up to it, and
        ``splits`` has everything on each lane that ever held an event. ``consumption_rate``: events a second over the last
        commits, see ``lag.rate_of``. ``seconds_behind``: how long ago the oldest event that waits was appended. ``verdict`` is
        that of the split that is worst off, ``evidence`` its reason and its last commits. ``parked``: how many dead letters of
        the group are open; the newest 100,000 letters of the tenant are looked at and at most 1000 counted, and if that was not
        all, ``parked_is_complete`` is false.
        """
        return await asyncio.to_thread(self._lag, group_id, tenant_id)

    def _lag(self, group_id: str, tenant_id: str) -> dict[str, Any]:
        group = self._coordinator.get(tenant_id, group_id)
        committed, commits = self._coordinator.committed(group.group_id), self._coordinator.commits(group.group_id)
        splits = lag.measured(self._storage.log, group, committed, commits, self._clock_ms())
        parked, is_complete = self._parked(group)
        last_rebalance_ms = group.last_rebalance_at_ms
        return {
            "group_id": group.group_id,
            "group_name": group.name,
            "total_lag": sum(each.lag for each in splits),
            "partition_lags": _lags(
                sorted(splits, key=lambda each: each.split.partition), lambda each: str(each.split.partition)
            ),
            "consumption_rate": round(sum(each.rate for each in splits), 3),
            "active_consumers": len(group.members),
            "last_rebalance": None if last_rebalance_ms is None else rfc3339(last_rebalance_ms),
            "state": group.state.value,
            "is_paused": group.is_paused,
            "seconds_behind": max((each.seconds_behind for each in splits), default=0.0),
            **_verdict_data(group, splits),
            "parked": parked,
            "parked_is_complete": is_complete,
            "stream_lags": _lags(splits, lambda each: each.stream),
            "lane_lags": {lane.value: 0 for lane in LANES} | _lags(splits, lambda each: each.split.lane.value),
            "splits": [_split_data(each) for each in splits if each.end_offset or each.committed],
        }

    def _parked(self, group: Group) -> tuple[int, bool]:
        """How many open dead letters the group has, and whether all were counted."""
        box = LetterBox(self._storage.log, self._storage.dead_letters(group.tenant_id))
        page = box.page(LetterFilter(processor=parked_step(group)), limit=MAX_PAGE_LETTERS, newest_first=True)
        return len(page.letters), page.next_cursor is None

    # --- resets -------------------------------------------------------------------------------------------------------

    async def preview_reset(
        self,
        group_id: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        to: object,
        streams: Sequence[str] | None = None,
        partitions: Sequence[int] | None = None,
        lanes: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """What ``reset_offsets`` would do; nothing is changed.

        ``splits`` has for each lane that ever held an event ``current_offset``, where the group goes on as it is,
        ``new_offset``, and how many ``events`` are between, to be READ_AGAIN or SKIPPED. ``is_allowed`` is false, and ``refusal``
        says why, while the group has members and is not paused.
        """
        return (await asyncio.to_thread(self._planned, group_id, tenant_id, to, streams, partitions, lanes)).data

    async def reset_offsets(
        self,
        group_id: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        to: object,
        streams: Sequence[str] | None = None,
        partitions: Sequence[int] | None = None,
        lanes: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Let the group go on elsewhere; returns what was done, as ``preview_reset`` tells it.

        ``to``: ``"earliest"``, ``"latest"``, ``{"offset": n}`` or ``{"timestamp": ...}``, that is at the first event with this
        event time or a later one. ``streams``: names or ids, by default all that the group reads; ``partitions`` and ``lanes``:
        by default all. Raises ``InvalidInputError`` naming the place, ``StreamNotFoundError``, ``OffsetOutOfRangeError`` for an
        offset that one of the splits does not have, and ``InvalidStateError`` while the group has members and is not paused. Then
        nothing is changed.
        """
        return await asyncio.to_thread(self._reset, group_id, tenant_id, to, streams, partitions, lanes)

    def _reset(
        self,
        group_id: str,
        tenant_id: str,
        to: object,
        streams: Sequence[str] | None,
        partitions: Sequence[int] | None,
        lanes: Sequence[str] | None,
    ) -> dict[str, Any]:
        planned = self._planned(group_id, tenant_id, to, streams, partitions, lanes)
        self._coordinator.reset(planned.data["group_id"], planned.offsets)
        return planned.data

    def _planned(
        self,
        group_id: str,
        tenant_id: str,
        to: object,
        streams: Sequence[str] | None,
        partitions: Sequence[int] | None,
        lanes: Sequence[str] | None,
    ) -> "_Planned":
        target = resets.read_target(to)
        group = self._coordinator.get(tenant_id, group_id)
        committed = self._coordinator.committed(group.group_id)
        log = self._storage.log
        splits = resets.chosen_splits(log, group, committed, target, streams, partitions, lanes)
        moves = resets.moves(log, group, splits, committed, target)
        is_allowed = group.is_paused or not group.members
        data = {
            "group_id": group.group_id,
            "group_name": group.name,
            "is_allowed": is_allowed,
            "refusal": None if is_allowed else f"{group.name} has {len(group.members)} active members; pause it, or stop them",
            "events_read_again": sum(move.events for move in moves if move.effect is resets.Effect.READ_AGAIN),
            "events_skipped": sum(move.events for move in moves if move.effect is resets.Effect.SKIPPED),
            "splits": [resets.move_data(move) for move in moves if not move.is_empty],
        }
        return _Planned(data, {move.split: move.offset for move in moves})

    def _members(self, group: Group) -> list[dict[str, Any]]:
        """The members as plain data, streams by their names."""
        names: dict[str, str] = {}
        wanted = {stream_id for member in group.members for stream_id in member.streams}
        wanted |= {partition.stream_id for member in group.members for partition in member.assignment}
        for stream_id in wanted:
            try:
                names[stream_id] = self._storage.log.find_stream(group.tenant_id, stream_id).name
            except StreamNotFoundError:  # dropped since
                names[stream_id] = stream_id
        return [_member_data(member, names) for member in group.members]


class _Planned(NamedTuple):
    """A reset that is worked out: what is told of it, and what is to be committed."""

    data: dict[str, Any]
    offsets: dict[Split, int]


def parked_step(group: Group) -> str:
    """The step that the dead letters of a group's members name."""
    return f"consumer:{group.name}"


def read_config(data: Mapping[str, Any]) -> GroupConfig:
    """The settings of a group, but for their ranges, which the coordinator checks. Raises ``InvalidInputError`` naming the
    setting and what is accepted."""
    if not isinstance(data, Mapping):
        raise InvalidInputError(f"group_config: expected settings by name, got {data!r}")
    fields = GroupConfig.__struct_fields__
    for name in data:
        if name not in fields:
            near = get_close_matches(str(name), fields, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InvalidInputError(f"{name}: unknown field{hint} (accepted: {', '.join(sorted(fields))})")
    for name, choices in _CHOICES.items():
        if name in data and data[name] not in list(choices):
            raise InvalidInputError(f"{name}: expected one of {', '.join(choices)}, got {data[name]!r}")
    try:
        return msgspec.convert(dict(data), GroupConfig)
    except msgspec.ValidationError as error:
        name, reason = path_and_reason(str(error))
        if name in RANGES:
            low, high = RANGES[name]
            raise InvalidInputError(f"{name}: expected a whole number, {low} to {high}, got {data[name]!r}") from None
        missing = re.search(r"missing required field `(\w+)`", reason)
        raise InvalidInputError(f"{missing[1]}: is required" if missing else f"{name}: {reason}") from None


def group_data(group: Group) -> dict[str, Any]:
    """A group as plain data, without its members but for how many there are."""
    last_rebalance_ms = group.last_rebalance_at_ms
    return {
        "group_id": group.group_id,
        **msgspec.to_builtins(group.config),
        "state": group.state.value,
        "generation": group.generation,
        "is_paused": group.is_paused,
        "active_consumers": len(group.members),
        "last_rebalance": None if last_rebalance_ms is None else rfc3339(last_rebalance_ms),
        "created_at": rfc3339(group.created_at_ms),
        "created_by": group.created_by,
    }


def _member_data(member: Member, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "member_id": member.member_id,
        "client_id": member.client_id,
        "host": member.host,
        "pid": member.pid,
        "generation": member.generation,
        "streams": [names[stream_id] for stream_id in member.streams],
        "assignment": [
            {"stream": names.get(each.stream_id, each.stream_id), "stream_id": each.stream_id, "partition": each.partition}
            for each in sorted(member.assignment)
        ],
        "joined_at": _time(member.joined_at_ms),
        "last_heartbeat": _time(member.heartbeat_at_ms),
        "last_poll": _time(member.polled_at_ms),
    }


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


def _lags(splits: Sequence[SplitLag], name_of: Callable[[SplitLag], str]) -> dict[str, int]:
    lags: dict[str, int] = {}
    for each in splits:
        lags[name_of(each)] = lags.get(name_of(each), 0) + each.lag
    return lags


def _verdict_data(group: Group, splits: Sequence[SplitLag]) -> dict[str, Any]:
    """The verdict on the group, and why."""
    worst = max(splits, key=lambda each: (SEVERITY[each.verdict], each.lag), default=None)
    if worst is None:
        sentence = "the group has read no stream yet"
        return {"verdict": Verdict.OK.value, "evidence": {"sentence": sentence, "split": None, "commits": []}}
    if not any(each.lag for each in splits):
        sentence = "every event is committed"
        return {"verdict": Verdict.OK.value, "evidence": {"sentence": sentence, "split": None, "commits": []}}
    lane = worst.split.lane.value
    sentence = f"{worst.stream}, partition {worst.split.partition}, lane {lane}: {worst.reason}"
    others = sum(each.verdict is not Verdict.OK for each in splits if each is not worst)
    if others:
        sentence += f" (and {others} more are not OK)"
    if group.is_paused:
        sentence += "; the group is paused"
    elif not group.members:
        sentence += "; nobody is in the group"
    place = {"stream": worst.stream, "partition": worst.split.partition, "lane": lane}
    return {
        "verdict": worst.verdict.value,
        "evidence": {"sentence": sentence, "split": place, "commits": _commits_data(worst)},
    }


def _split_data(each: SplitLag) -> dict[str, Any]:
    waiting_since_ms = each.waiting_since_ms
    return {
        "stream": each.stream,
        "stream_id": each.split.stream_id,
        "partition": each.split.partition,
        "lane": each.split.lane.value,
        "committed": each.committed,
        "position": each.position,
        "end_offset": each.end_offset,
        "lag": each.lag,
        "expired": each.expired,
        "waiting_since": None if waiting_since_ms is None else rfc3339(waiting_since_ms),
        "seconds_behind": each.seconds_behind,
        "consumption_rate": round(each.rate, 3),
        "member_id": each.member_id,
        "verdict": each.verdict.value,
        "evidence": {"sentence": each.reason, "commits": _commits_data(each)},
    }


def _commits_data(each: SplitLag) -> list[dict[str, Any]]:
    return [
        {
            "at": rfc3339(commit.at_ms),
            "offset": commit.offset,
            "end_offset": commit.end_offset,
            "lag": commit.end_offset - commit.offset,
        }
        for commit in each.commits
    ]
