"""What ``esb run`` shows of a flow while it runs."""

import time
from contextlib import suppress

from event_streaming_bus.cli.progress import Bar
from event_streaming_bus.errors import StorageError
from event_streaming_bus.flows.metrics import flow_metrics, progress
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.models import rfc3339
from event_streaming_bus.store.storage import Storage


class Shown:
    """What the progress bar tells of a running flow."""

    def __init__(self, storage: Storage, plan: Plan, bar: Bar) -> None:
        self._storage = storage
        self._plan = plan
        self._bar = bar
        self._start_s = self._last_s = time.monotonic()
        self._start_done = self._last_done = progress(plan, storage)[0]
        self._version: int | None = None

    def update(self) -> None:
        """Read the counts, if anything has been written, and show them. A storage that does not answer is asked again next time:
        the flow goes on without being looked at."""
        with suppress(StorageError):
            self._update()

    def _update(self) -> None:
        version = self._storage.log.version()
        if version == self._version:
            return
        self._version = version
        done, total = progress(self._plan, self._storage)
        metrics = flow_metrics(self._plan, self._storage)
        rate = (done - self._start_done) / max(1e-9, time.monotonic() - self._start_s)
        watermarks = [m.watermark_ms for m in metrics if m.watermark_ms is not None]
        words = [
            f"in {done:,}",
            f"out {sum(m.events_out for m in metrics):,}",
            f"late {sum(m.events_late for m in metrics):,}",
            f"dead {sum(m.events_dead for m in metrics):,}",
            f"{rate:,.0f}/s",
            f"watermark {rfc3339(max(watermarks)) if watermarks else '-'}",
        ]
        self._bar.update(done, total, "  ".join(words))
