"""Limits of principals: requests a second and connections at once, counted in this process."""

import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from event_streaming_bus.access.access_errors import LimitError
from event_streaming_bus.access.model import Principal

MAX_PRINCIPALS: Final = 10_000


class _Use:
    """What one token has taken. ``left`` are requests that may be made at once, as of ``at``."""

    __slots__ = ("at", "connections", "left")

    def __init__(self, left: float) -> None:
        self.left = left
        self.at = time.monotonic()
        self.connections = 0


class Limiter:
    """Counts what tokens take. Belongs to one event loop."""

    def __init__(self) -> None:
        self._uses: OrderedDict[str, _Use] = OrderedDict()

    @contextmanager
    def counted(self, principal: Principal) -> Iterator[None]:
        """While a request is answered, or a WebSocket is open. Raises ``LimitError`` if that would be too much."""
        limits = principal.limits
        if limits.requests_per_s is None and limits.connections is None:
            yield
            return
        use = self._use(principal)
        if limits.requests_per_s is not None:
            self._take(use, limits.requests_per_s)
        if limits.connections is not None and use.connections >= limits.connections:
            raise LimitError(f"The token may have {limits.connections:,} connections at once, and has them.", retry_after_s=1)
        use.connections += 1
        try:
            yield
        finally:
            use.connections -= 1

    @staticmethod
    def _take(use: _Use, rate: float) -> None:
        now = time.monotonic()
        most = max(rate, 1.0)
        use.left = min(most, use.left + (now - use.at) * rate)
        use.at = now
        if use.left < 1:
            wait_s = max(1, math.ceil((1 - use.left) / rate))
            raise LimitError(f"The token may make {rate:g} requests a second, and has made them.", retry_after_s=wait_s)
        use.left -= 1

    def _use(self, principal: Principal) -> _Use:
        # Of signed tokens, anybody who has one may get many: those of a principal count together.
        name = principal.token_id if principal.kind == "token" else f"{principal.tenant_id}:{principal.principal_id}"
        use = self._uses.get(name)
        if use is None:
            use = self._uses[name] = _Use(max(principal.limits.requests_per_s or 1.0, 1.0))
            if len(self._uses) > MAX_PRINCIPALS:
                idle = next((key for key, each in self._uses.items() if not each.connections), None)
                if idle is not None:
                    del self._uses[idle]
        else:
            self._uses.move_to_end(name)
        return use
