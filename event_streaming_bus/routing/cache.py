"""Rule sets kept ready: one cache for each store of rules that is open in the process."""

import threading
import time
from collections import OrderedDict
from typing import Final
from weakref import WeakKeyDictionary

from event_streaming_bus.routing.compiled import RuleSet
from event_streaming_bus.routing.model import rule_of
from event_streaming_bus.store.routes import RouteStore

_MAX_TENANTS: Final = 1024
_FRESH_S: Final = 1.0
"""How long it may take until a change that another process makes is seen."""


class RuleCache:
    """The rule sets of the tenants that published last. Safe to use from any thread."""

    def __init__(self) -> None:
        self._sets: OrderedDict[str, tuple[float, int, RuleSet]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, store: RouteStore, tenant_id: str) -> RuleSet:
        """The tenant's rules as they are now, or were within the last second."""
        found = self._sets.get(tenant_id)
        if found is not None and time.monotonic() < found[0]:
            return found[2]
        change_no = store.change_no(tenant_id)
        # The number is read before the rules: if they change in between, the next look finds another number.
        rules = found[2] if found is not None and found[1] == change_no else RuleSet(map(rule_of, store.current(tenant_id)))
        with self._lock:
            self._sets[tenant_id] = (time.monotonic() + _FRESH_S, change_no, rules)
            self._sets.move_to_end(tenant_id)
            while len(self._sets) > _MAX_TENANTS:
                self._sets.popitem(last=False)
        return rules

    def forget(self, tenant_id: str) -> None:
        """Look at the tenant's rules again when they are next asked for."""
        with self._lock:
            self._sets.pop(tenant_id, None)


_caches: "WeakKeyDictionary[RouteStore, RuleCache]" = WeakKeyDictionary()
_lock = threading.Lock()


def cache_of(store: RouteStore) -> RuleCache:
    """The cache of a store."""
    with _lock:
        return _caches.setdefault(store, RuleCache())
