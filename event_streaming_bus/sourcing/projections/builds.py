"""What becomes of a projection's builds when it is declared, changed, built anew, paused or deleted.

All of it is done in the catalog, in one transaction each, by whichever process; the one that runs projections notices.
"""

import time
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.sourcing.projection_errors import ProjectionNotFoundError
from event_streaming_bus.sourcing.projections.classes import Projection, definition_of
from event_streaming_bus.sourcing.projections.definition import ProjectionDefinition
from event_streaming_bus.sourcing.projections.reading import read_projection
from event_streaming_bus.store.projections import BuildRecord, ProjectionRecord, ProjectionStore, ProjectionTables

_decode: Final = msgspec.json.Decoder().decode


class Verdict(StrEnum):
    """What declaring a projection means: it is new; it is built anew because what it makes has changed; something else about
    it has changed, and its rows stay; or it is as it was."""

    NEW = "new"
    REBUILD = "rebuild"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


class Applied(NamedTuple):
    """What came of declaring a projection."""

    name: str
    verdict: Verdict


class Builds(NamedTuple):
    """The builds of a projection: the one that answers, and the one that is to take its place, if any."""

    active: BuildRecord | None
    building: BuildRecord | None

    @property
    def newest(self) -> BuildRecord | None:
        return self.building or self.active


@lru_cache(maxsize=1000)
def kept_definition(text: str) -> ProjectionDefinition:
    """The definition that the catalog keeps as JSON."""
    definition: ProjectionDefinition = read_projection(_decode(text), kept=True)
    return definition


def definition_of_class(cls: type[Projection], declared: ProjectionDefinition | None = None) -> ProjectionDefinition:
    """What a class stands for, with what a file says beside it."""
    definition = definition_of(cls)
    if declared is None:
        return definition
    return msgspec.structs.replace(
        definition,
        name=declared.name,
        class_name=declared.class_name,
        on_error=declared.on_error,
        description=declared.description or definition.description,
    )


def builds_of(record: ProjectionRecord, builds: list[BuildRecord]) -> Builds:
    """Which build is which."""
    active = next((build for build in builds if build.build_no == record.active_build), None)
    others = [build for build in builds if build.build_no != record.active_build]
    return Builds(active, others[-1] if others else None)


def preview(store: ProjectionStore, tenant_id: str, definition: ProjectionDefinition) -> Verdict:
    """What declaring this would mean."""
    record, builds = store.find_with_builds(tenant_id, definition.name)
    if record is None:
        return Verdict.NEW
    newest = builds_of(record, builds).newest
    if newest is None or newest.hash != definition.hash:
        return Verdict.REBUILD
    return Verdict.UNCHANGED if kept_definition(record.definition) == definition else Verdict.CHANGED


def apply(store: ProjectionStore, tenant_id: str, definition: ProjectionDefinition) -> Applied:
    """Declare a projection. A build that takes the place of another answers when it has caught up, not before."""
    name = definition.name
    if preview(store, tenant_id, definition) is Verdict.UNCHANGED:
        return Applied(name, Verdict.UNCHANGED)
    text, at_ms = msgspec.json.encode(definition.to_data()).decode(), _now_ms()
    with store.writing("declaring a projection") as tables:
        record = tables.find(tenant_id, name)
        tables.put(tenant_id, name, text, at_ms)
        if record is None:
            tables.activate(tenant_id, name, tables.add_build(tenant_id, name, definition.hash, text, at_ms))
            return Applied(name, Verdict.NEW)
        active, building = builds_of(record, tables.builds(tenant_id, name))
        newest = building or active
        if record.definition == text and newest is not None and newest.hash == definition.hash:
            return Applied(name, Verdict.UNCHANGED)  # another process was faster
        if building is not None and building.hash == definition.hash:
            tables.redefine(building.build_no, text)
            return Applied(name, Verdict.CHANGED)
        if building is not None:
            tables.drop_build(building.build_no)
        if active is not None and active.hash == definition.hash:
            tables.redefine(active.build_no, text)
            return Applied(name, Verdict.CHANGED)
        _add_build(tables, record, definition.hash, text)
        return Applied(name, Verdict.REBUILD)


def rebuild(store: ProjectionStore, tenant_id: str, name: str) -> None:
    """Build a projection anew as it is declared; a build that was under way is given up."""
    with store.writing("building a projection anew") as tables:
        record = found(tables.find(tenant_id, name), name)
        building = builds_of(record, tables.builds(tenant_id, name)).building
        if building is not None:
            tables.drop_build(building.build_no)
        _add_build(tables, record, kept_definition(record.definition).hash, record.definition)


def _add_build(tables: ProjectionTables, record: ProjectionRecord, hash_: str, text: str) -> None:
    number = tables.add_build(record.tenant_id, record.name, hash_, text, _now_ms())
    if record.active_build is None:
        tables.activate(record.tenant_id, record.name, number)


def promote(store: ProjectionStore, tenant_id: str, name: str, build_no: int) -> bool:
    """Let a build answer in the place of the one before, which is forgotten; whether it is still there to do so."""
    with store.writing("swapping the builds of a projection") as tables:
        record = tables.find(tenant_id, name)
        builds = tables.builds(tenant_id, name) if record is not None else []
        if not any(build.build_no == build_no for build in builds):
            return False
        tables.activate(tenant_id, name, build_no)
        for build in builds:
            if build.build_no < build_no:
                tables.drop_build(build.build_no)
        fault_point("projection.swap")
    return True


def pause(store: ProjectionStore, tenant_id: str, name: str) -> None:
    """Let a projection rest. It still answers."""
    with store.writing("pausing a projection") as tables:
        found(tables.find(tenant_id, name), name)
        tables.pause(tenant_id, name, True)


def resume(store: ProjectionStore, tenant_id: str, name: str, *, skip_event: bool = False) -> None:
    """Let a projection go on that rests or has failed; ``skip_event``: without the event that it failed at.

    Raises ``InvalidStateError`` if an event is to be skipped and it has not failed at one.
    """
    with store.writing("resuming a projection") as tables:
        record = found(tables.find(tenant_id, name), name)
        failed = [each for each in tables.builds(tenant_id, name) if each.failure is not None]
        if skip_event and not any(each.failure is not None and each.failure.position is not None for each in failed):
            raise InvalidStateError(f"The projection {name} has not failed at an event, so there is none to skip.")
        tables.pause(tenant_id, record.name, False)
        for build in failed:
            position = build.failure.position if build.failure is not None and skip_event else build.skip_position
            tables.retry(build.build_no, position)


def delete(store: ProjectionStore, tenant_id: str, name: str) -> None:
    """Forget a projection and all of its rows."""
    with store.writing("deleting a projection") as tables:
        found(tables.find(tenant_id, name), name)
        tables.drop(tenant_id, name)


def found(record: ProjectionRecord | None, name: str) -> ProjectionRecord:
    """The projection, or ``ProjectionNotFoundError``."""
    if record is None:
        raise ProjectionNotFoundError(f"There is no projection '{name}'.", name=name)
    return record


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
