"""The page that Prometheus scrapes, of each tenant."""

import asyncio
from collections import OrderedDict
from typing import Final

from event_streaming_bus.monitoring.exposition import written
from event_streaming_bus.monitoring.families import View
from event_streaming_bus.monitoring.meter import Meter

MAX_VIEWS: Final = 64


class MetricsPage:
    """Makes the pages. One is made at a time: others wait, without a thread of their own."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._turn = asyncio.Lock()
        self._views: OrderedDict[str | None, View] = OrderedDict()

    async def page(self, tenant_id: str | None, content_type: str) -> bytes:
        """The metrics of a tenant, or of all for ``None``, in this format."""
        async with self._turn:
            return await asyncio.to_thread(self._made, tenant_id, content_type)

    def _made(self, tenant_id: str | None, content_type: str) -> bytes:
        view = self._views.pop(tenant_id, None) or View(tenant_id, self._meter.limits)
        self._views[tenant_id] = view
        if len(self._views) > MAX_VIEWS:
            self._views.popitem(last=False)
        return written(view.families(self._meter.sample()), content_type)
