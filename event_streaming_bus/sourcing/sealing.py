"""Personal data in aggregates: shown to folds and callers, sealed in snapshots."""

import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from event_streaming_bus.erasure.sealing import seal, unseal
from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.registry.protection import key_ids_of, reveal_events
from event_streaming_bus.store.aggregate_snapshots import Snapshot
from event_streaming_bus.store.recorded import RecordedEvent
from event_streaming_bus.store.subject_keys import SubjectKeys

_log: Final = logging.getLogger(__name__)


class Sealing:
    """Opens the personal values of events, and seals the snapshots that are made of them: one is unreadable once any of the
    persons whose data it may hold is erased."""

    def __init__(self, keys: SubjectKeys) -> None:
        self._keys = keys

    def shown(self, events: Sequence[RecordedEvent]) -> Sequence[RecordedEvent]:
        """The events with their personal values, as far as the keys are there."""
        return reveal_events(self._keys, events)

    def seal(
        self, tenant_id: str, aggregate_id: str, snapshot: Snapshot, events: Sequence[RecordedEvent], before: Snapshot | None
    ) -> Snapshot:
        """A snapshot as it is to be kept, made of these events as they are stored, and of the one ``before``."""
        key_ids = key_ids_of(events).union(() if before is None else before.key_ids)
        context = f"{aggregate_id}/{snapshot.version}"
        state = seal(self._keys, tenant_id, snapshot.state, key_ids=key_ids, context=context)
        return msgspec.structs.replace(snapshot, state=state, key_ids=tuple(sorted(key_ids)))

    def open(self, tenant_id: str, aggregate_id: str, snapshot: Snapshot) -> Snapshot | None:
        """A snapshot as it was made; ``None`` if a person whose data it may hold was erased since. Raises ``CorruptLogError`` for
        one that is damaged."""
        state = unseal(self._keys, tenant_id, snapshot.state, context=f"{aggregate_id}/{snapshot.version}")
        return None if state is None else msgspec.structs.replace(snapshot, state=state)

    def open_if_whole(self, tenant_id: str, aggregate_id: str, snapshot: Snapshot) -> Snapshot | None:
        """As ``open``; ``None`` for a damaged one as well, which is told in the log: what it was made of is there in any case."""
        try:
            return self.open(tenant_id, aggregate_id, snapshot)
        except CorruptLogError as error:
            _log.warning("the snapshot of aggregate %s at version %d is left: %s", aggregate_id, snapshot.version, error.message)
            return None
