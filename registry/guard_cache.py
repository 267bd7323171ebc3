"""Guards kept ready: one cache for each schema store that is open in the process."""

import threading
import time
from collections import OrderedDict
from typing import Final
from weakref import WeakKeyDictionary

from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.subjects import Subjects
from event_streaming_bus.store.schemas import SchemaStore

_MAX_GUARDS: Final = 256
_FRESH_S: Final = 1.0
"""How long it may take until a change of a version's life, made by another process, is seen."""


class GuardCache:
    """The guards that were used last, by tenant and version. Safe to use from any thread."""

    def __init__(self) -> None:
        self._guards: OrderedDict[tuple[str, str], tuple[SchemaGuard, float]] = OrderedDict()
        self._lock = threading.Lock()

    def fresh(self, tenant_id: str, schema_id: str) -> SchemaGuard | None:
        """The guard if it was looked at within the last second."""
        with self._lock:
            guard, fresh_until_s = self._guards.get((tenant_id, schema_id), (None, 0.0))
            if guard is None or time.monotonic() > fresh_until_s:
                return None
            self._guards.move_to_end((tenant_id, schema_id))
            return guard

    def get(self, tenant_id: str, schema_id: str, subjects: Subjects) -> SchemaGuard:
        """The guard, compiled if it is not there, and with the version's life as it is now. Raises ``SchemaNotFoundError``."""
        guard = self.fresh(tenant_id, schema_id)
        if guard is not None:
            return guard
        record = subjects.store.get(tenant_id, schema_id)
        with self._lock:
            guard, _ = self._guards.get((tenant_id, schema_id), (None, 0.0))
        if guard is None or guard.record != record:
            guard = SchemaGuard(record, subjects.parse(tenant_id, record.text), subjects.store.subject_keys)
        with self._lock:
            self._guards[tenant_id, schema_id] = (guard, time.monotonic() + _FRESH_S)
            self._guards.move_to_end((tenant_id, schema_id))
            while len(self._guards) > _MAX_GUARDS:
                self._guards.popitem(last=False)
        return guard

    def forget(self, tenant_id: str, schema_id: str) -> None:
        """Look at the version again when its guard is next asked for."""
        with self._lock:
            self._guards.pop((tenant_id, schema_id), None)


_caches: "WeakKeyDictionary[SchemaStore, GuardCache]" = WeakKeyDictionary()
_lock = threading.Lock()


def cache_of(store: SchemaStore) -> GuardCache:
    """The cache of a store."""
    with _lock:
        return _caches.setdefault(store, GuardCache())
