"""Source streams that grow while a flow runs: how many partitions a run reads, and noticing that there are more.

Bytewax has a fixed set of partitions for a run. So all workers of a run are told how many partitions each source stream has; once
one has more, every source ends as when the flow is stopped, and the flow is started again with the new ones. It goes on where it
was, and reads the new partitions from their beginning.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from event_streaming_bus.errors import BusError
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.store.log.base import EventLog

_LOOK_S: Final = 0.5
_log: Final = logging.getLogger(__name__)


def partitions_of(plan: Plan) -> dict[str, int]:
    """How many partitions of its source streams the plan reads, by stream id."""
    return {stage.source.stream_id: stage.source.config.partitions for stage in plan.stages}


def with_partitions(plan: Plan, partitions: Mapping[str, int]) -> Plan:
    """The plan, reading so many partitions of its source streams; those that are not named stay as they are."""
    stages = []
    for stage in plan.stages:
        source = stage.source
        count = partitions.get(source.stream_id, source.config.partitions)
        config = msgspec.structs.replace(source.config, partitions=count)
        stages.append(msgspec.structs.replace(stage, source=msgspec.structs.replace(source, config=config)))
    return msgspec.structs.replace(plan, stages=tuple(stages))


def partitions_now(plan: Plan, log: EventLog) -> dict[str, int]:
    """How many partitions its source streams have, by stream id. Raises ``StreamNotFoundError`` if one was dropped."""
    return {stream_id: log.find_stream(plan.tenant_id, stream_id).config.partitions for stream_id in partitions_of(plan)}


def growth(plan: Plan, log: EventLog) -> str | None:
    """Which source stream has more partitions than the plan reads, in words; ``None`` if none has. Raises what
    ``partitions_now`` raises."""
    now = partitions_now(plan, log)
    for stage in plan.stages:
        source = stage.source
        if now[source.stream_id] > source.config.partitions:
            return f"the stream {source.name} has {now[source.stream_id]} partitions now, not {source.config.partitions}"
    return None


class GrowthWatch:
    """Called before each read: true once a source stream has grown, or ``stopping`` is. It looks twice a second at the most."""

    def __init__(self, plan: Plan, log: EventLog, stopping: Callable[[], bool]) -> None:
        self._plan = plan
        self._log = log
        self._stopping = stopping
        self._looked_s = time.monotonic()
        self._has_grown = False

    def __call__(self) -> bool:
        return self._stopping() or self._has_grown or self._look()

    def _look(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            with suppress(BusError):  # reading tells of it, if it lasts
                told = growth(self._plan, self._log)
                self._has_grown = told is not None
                if told is not None:
                    _log.warning("%s: the flow %s ends, to go on from here with all of them", told, self._plan.name)
        return self._has_grown
