"""What the first host of a cluster decides: when the workers of all hosts start, and when there is no use in that any more."""

import time
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from event_streaming_bus.flows.cluster import Cluster
from event_streaming_bus.flows.cluster_messages import Beat, Finish, Phase, Prepare, Start
from event_streaming_bus.flows.cluster_recovery import is_complete, partition_count, trouble
from event_streaming_bus.flows.supervisor import Patience

# What the workers of a healthy host say when those of another host end.
_CONSEQUENCES: Final = ("PanicException", "FATAL: exception not rethrown", "ended from outside by SIGABRT")
_PREPARE_AGAIN_S: Final = 2.0


class Standing(Enum):
    """What keeps the first host from telling the others anything."""

    WAITING = auto()
    ALL_DONE = auto()


class Leading:
    """The decisions, from what all hosts say of themselves."""

    def __init__(self, cluster: Cluster, patience: Patience, default_partitions: int) -> None:
        self._hosts = cluster.hosts
        self._patience = patience
        self._partitions = partition_count(len(cluster.hosts), default_partitions)
        self._generation = 0
        self._told = 0
        self._judged = 0
        self._failures = 0
        self._started_at_s = self._prepared_at_s = self._not_before_s = -1e9

    def next_step(self, beats: Mapping[int, Beat]) -> Prepare | Start | Finish | Standing:
        """What is to be told to all hosts now. ``beats``: of each host, this one included, the last one that it sent since it
        knows of all that it was told."""
        hosts = range(len(self._hosts))
        if any(i not in beats or len(beats[i].sees) < len(hosts) - 1 for i in hosts):
            return Standing.WAITING
        self._generation = max(self._generation, *(beat.generation for beat in beats.values()))
        if all(beat.phase is Phase.DONE for beat in beats.values()):
            return Standing.ALL_DONE
        if any(beat.phase is not Phase.IDLE for beat in beats.values()):
            return Standing.WAITING
        if self._judged < self._told and (finish := self._judge(beats)):
            return finish
        if time.monotonic() < self._not_before_s:
            return Standing.WAITING
        recoveries = {str(self._hosts[i]): beats[i].recovery for i in hosts}
        if told := trouble(recoveries):
            return Finish(told)
        if is_complete(recoveries.values()):
            return self.next_start()
        return Prepare(self._partitions) if time.monotonic() - self._prepared_at_s > _PREPARE_AGAIN_S else Standing.WAITING

    def next_start(self) -> Start:
        """The start of the next generation."""
        return Start(self._generation + 1, {})

    def told(self, step: Prepare | Start | Finish) -> None:
        """All hosts have been told so."""
        match step:
            case Prepare():
                self._prepared_at_s = time.monotonic()
            case Start(generation):
                self._told = self._generation = generation
                self._started_at_s = time.monotonic()

    def _judge(self, beats: Mapping[int, Beat]) -> Finish | None:
        """Why the last generation ended. One that ended since a host was lost is nobody's failure."""
        self._judged = self._told
        errors = [
            (any(word in beat.error for word in _CONSEQUENCES), f"{self._hosts[i]}: {beat.error}")
            for i, beat in sorted(beats.items())
            if beat.error is not None
        ]
        if time.monotonic() - self._started_at_s > self._patience.steady_s:
            self._failures = 0
        if any(beat.lost for beat in beats.values()) or not errors:
            return None
        self._failures += 1
        error = min(errors)[1]
        if self._failures >= self._patience.max_failures:
            return Finish(f"the workers failed {self._failures} times in a row, last on {error}")
        self._not_before_s = time.monotonic() + self._patience.backoff_s(self._failures)
        return None
