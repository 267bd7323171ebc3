"""How far a flow has come in its source streams, told to the log as the offsets of consumer groups.

Where a log has tools of its own that show groups and their lag (Kafka's ``kafka-consumer-groups.sh``), they show flows as well.
The flow itself never goes by these offsets: its marks tell what was written, in the transaction that wrote it.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from event_streaming_bus.errors import BusError
from event_streaming_bus.flows.marks import STAGE, StageMark, decoded
from event_streaming_bus.models import DEFAULT_TENANT, Split
from event_streaming_bus.store.log.base import EventLog, Mark
from event_streaming_bus.store.log.capabilities import capabilities_of

EVERY_S: Final = 1.0


def group_of(owner: str) -> str | None:
    """The group of a stage by the owner of its marks: ``esb-flow.FLOW.PROCESSOR``, with the tenant before it as streams have on
    Kafka; ``None`` for marks that tell nothing of a source."""
    if not owner.startswith(STAGE):
        return None
    tenant_id, flow, stage = owner.removeprefix(STAGE).split("/", 2)
    tenant = "" if tenant_id == DEFAULT_TENANT else f"{tenant_id}.."
    return f"{tenant}esb-flow.{flow}.{stage}"


class SourceGroups:
    """Commits what was processed, at most once in ``EVERY_S`` and when it is closed. A commit that fails is left to the next
    one: it must not stop a flow."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._is_on = capabilities_of(log).shows_groups
        self._open: dict[str, dict[Split, int]] = {}
        self._due_at = 0.0

    def written(self, marks: Iterable[Mark]) -> None:
        """These marks have been written."""
        if not self._is_on:
            return
        for mark in marks:
            if (group := group_of(mark.owner)) is not None:
                self._open.setdefault(group, {})[Split.parse(mark.key)] = decoded(
                    mark.owner, mark.key, mark.value, StageMark
                ).offset
        if self._open and time.monotonic() >= self._due_at:
            self.commit()

    def commit(self) -> None:
        """Commit what has not been committed."""
        self._due_at = time.monotonic() + EVERY_S
        with suppress(BusError):
            for group in list(self._open):
                self._log.commit(group, self._open[group])
                del self._open[group]


def resumed(log: EventLog, owner: str, offsets: Mapping[str, int]) -> None:
    """A stage goes on from these offsets, by split: commit them, as a process that was killed may not have done."""
    group = group_of(owner)
    if group is not None and offsets and capabilities_of(log).shows_groups:
        with suppress(BusError):
            log.commit(group, {Split.parse(name): offset for name, offset in offsets.items()})
