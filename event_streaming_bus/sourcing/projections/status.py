"""How a projection is doing."""

import time
from enum import StrEnum
from typing import Any

import msgspec

from event_streaming_bus.models import rfc3339
from event_streaming_bus.sourcing.projections.builds import Builds, kept_definition
from event_streaming_bus.sourcing.projections.follower import Follower
from event_streaming_bus.store.projections import BuildRecord, EventFailure, ProjectionRecord


class ProjectionState(StrEnum):
    """Where a projection is in its life.

    ``LIVE``: it has seen the end of the events. ``REBUILDING``: a new build catches up while the old one answers. ``FAILED``: an
    event could not be projected; what was there before it is still answered. ``STOPPED``: nobody runs projections.
    """

    CATCHING_UP = "CATCHING_UP"
    LIVE = "LIVE"
    REBUILDING = "REBUILDING"
    FAILED = "FAILED"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"


class BuildStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a build is. ``failure``: why it has stopped. ``trouble``: what goes wrong at the moment and is tried again."""

    build_no: int
    position: int
    events: int
    skipped: int
    events_per_second: float
    is_live: bool
    recorded_at_ms: int | None
    failure: EventFailure | None
    trouble: str | None


def build_status(record: BuildRecord, follower: Follower | None) -> BuildStatus:
    """The status of a build, from the follower itself if it is run here."""
    if follower is None or follower.database is None:
        progress, is_live, failure, trouble = record.progress, record.is_live, record.failure, record.trouble
        if follower is not None:
            failure, trouble = follower.failure, follower.trouble
        position, rate = progress.position, 0.0
    else:
        progress, is_live, failure, trouble = follower.progress, follower.is_live, follower.failure, follower.trouble
        position, rate = follower.position, follower.events_per_second()
    return BuildStatus(
        build_no=record.build_no,
        position=position,
        events=progress.events,
        skipped=progress.skipped,
        events_per_second=round(rate, 1),
        is_live=is_live,
        recorded_at_ms=progress.recorded_at_ms,
        failure=failure,
        trouble=trouble,
    )


def state_of(
    record: ProjectionRecord, active: BuildStatus | None, building: BuildStatus | None, *, is_run: bool
) -> ProjectionState:
    """The state that a projection is in."""
    newest = building or active
    if newest is not None and newest.failure is not None:
        return ProjectionState.FAILED
    if record.is_paused:
        return ProjectionState.PAUSED
    if not is_run:
        return ProjectionState.STOPPED
    if building is not None:
        return ProjectionState.REBUILDING
    return ProjectionState.LIVE if active is not None and active.is_live else ProjectionState.CATCHING_UP


def status_data(
    record: ProjectionRecord,
    builds: Builds,
    followers: tuple[Follower | None, Follower | None],
    head: int,
    *,
    is_run: bool,
) -> dict[str, Any]:
    """A projection's status as JSON has it. ``lag`` counts positions: the events to come are at most so many.

    ``seconds_behind``: since when there are events that it has not seen; 0 if it has seen all, null if it has seen none.
    """
    definition = kept_definition(record.definition)
    active = None if builds.active is None else build_status(builds.active, followers[0])
    building = None if builds.building is None else build_status(builds.building, followers[1])
    position = 0 if active is None else active.position
    lag = max(0, head - position)
    data: dict[str, Any] = {
        "name": record.name,
        "state": state_of(record, active, building, is_run=is_run).value,
        "store": definition.store.value,
        "tables": [table.name for table in definition.tables],
        "position": position,
        "head": head,
        "lag": lag,
        "seconds_behind": _seconds_behind(active, lag),
        "events": 0 if active is None else active.events,
        "skipped": 0 if active is None else active.skipped,
        "events_per_second": 0.0 if active is None else active.events_per_second,
        "failure": None,
        "trouble": None,
        "rebuild": None if building is None else _rebuild_data(building, head),
        "created_at": rfc3339(record.created_at_ms),
        "changed_at": rfc3339(record.changed_at_ms),
        "description": definition.description,
    }
    for build in (building, active):
        if build is not None:
            data["failure"] = data["failure"] or failure_data(build.failure)
            data["trouble"] = data["trouble"] or build.trouble
    return data


def failure_data(failure: EventFailure | None) -> dict[str, Any] | None:
    """Why a build has stopped, as JSON has it."""
    if failure is None:
        return None
    return {name: value for name, value in msgspec.structs.asdict(failure).items() if name != "at_ms"} | {
        "at": rfc3339(failure.at_ms)
    }


def _rebuild_data(build: BuildStatus, head: int) -> dict[str, Any]:
    return {
        "position": build.position,
        "fraction": 1.0 if not head else round(min(1.0, build.position / head), 4),
        "events": build.events,
        "skipped": build.skipped,
        "events_per_second": build.events_per_second,
    }


def _seconds_behind(build: BuildStatus | None, lag: int) -> float | None:
    if not lag:
        return 0.0
    if build is None or build.recorded_at_ms is None:
        return None
    return round(max(0.0, time.time() - build.recorded_at_ms / 1000), 3)
