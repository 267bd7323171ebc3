"""The supervisor: keeps the worker processes of processors running, restarts them with backoff, and sees crash loops."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from event_streaming_bus import ids
from event_streaming_bus.errors import BusError, InvalidStateError
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import plan_of_processor
from event_streaming_bus.flows.runs import record_run
from event_streaming_bus.flows.workers import WorkerGroup
from event_streaming_bus.models import ProcessorStatus
from event_streaming_bus.store.storage import Storage

_log: Final = logging.getLogger(__name__)
_POLL_S: Final = 0.1
_FIRST_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 30.0
_STEADY_S: Final = 60.0
_MAX_FAILURES: Final = 5
_SAMPLE_S: Final = 1.0
_RATE_WINDOW: Final = 11
STOP_TIMEOUT_S: Final = 20.0


class Supervised:
    """One running processor: its plan, its workers, and what is known of its speed."""

    def __init__(self, storage: Storage, tenant_id: str, processor_id: str) -> None:
        self._storage = storage
        self.tenant_id = tenant_id
        self.processor_id = processor_id
        self.plan: Plan = plan_of_processor(tenant_id, processor_id, storage)
        self.failures = 0
        self.restart_at_s: float | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOW)
        self._sampled_at_s = 0.0
        self._start()

    def _start(self) -> None:
        target = ["--processor", self.tenant_id, self.processor_id]
        self.run_id = ids.new_id(ids.RUN)
        self.started_at_s = time.monotonic()
        self.restart_at_s = None
        self.workers = WorkerGroup(self._storage, self.plan, target, workers=self.plan.parallelism)
        record_run(self._storage, self.plan, self.run_id, ProcessorStatus.RUNNING, self.workers.workers)

    def restart(self) -> None:
        """Start the workers again after a failure."""
        self._start()

    def stop(self) -> None:
        """End the workers in order and record it."""
        if self.restart_at_s is None:
            self.workers.stop(STOP_TIMEOUT_S)
        record_run(self._storage, self.plan, self.run_id, ProcessorStatus.STOPPED, self.workers.workers)

    def backoff(self) -> None:
        """Plan the next start: the wait doubles with each failure in a row."""
        self.failures += 1
        wait_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (self.failures - 1))
        self.restart_at_s = time.monotonic() + wait_s

    def sample(self) -> None:
        """Note how many events are done, once a second."""
        now_s = time.monotonic()
        if now_s - self._sampled_at_s >= _SAMPLE_S:
            self._sampled_at_s = now_s
            self._samples.append((now_s, flow_metrics(self.plan, self._storage)[0].events_in))

    def events_per_second(self) -> float:
        """Events taken in per second, over the last ten seconds."""
        if len(self._samples) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_s - first_s)


class Supervisor:
    """Runs processors of the catalog, each as worker processes of its own.

    A worker that fails is started again after 0.5 s, 1 s, 2 s, ... up to 30 s; after five failures in a row within a minute of
    their start the processor is FAILED, with the last error in the catalog. All methods may be called from any thread.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._running: dict[tuple[str, str], Supervised] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, tenant_id: str, processor_id: str) -> None:
        """Start a processor. ``InvalidStateError`` if it runs already."""
        with self._lock:
            if (tenant_id, processor_id) in self._running:
                raise InvalidStateError(f"The processor {processor_id} is running already.", processor_id=processor_id)
            self._set_status(tenant_id, processor_id, ProcessorStatus.STARTING)
            try:
                self._running[tenant_id, processor_id] = Supervised(self._storage, tenant_id, processor_id)
            except BusError as error:
                self._set_status(tenant_id, processor_id, ProcessorStatus.FAILED, error.message)
                raise
            self._set_status(tenant_id, processor_id, ProcessorStatus.RUNNING)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="esb-supervisor", daemon=True)
                self._thread.start()

    def stop(self, tenant_id: str, processor_id: str) -> None:
        """Stop a processor: what it has read is processed and a snapshot taken. ``InvalidStateError`` if it does not run."""
        with self._lock:
            supervised = self._running.pop((tenant_id, processor_id), None)
            if supervised is None:
                raise InvalidStateError(f"The processor {processor_id} is not running.", processor_id=processor_id)
        self._set_status(tenant_id, processor_id, ProcessorStatus.STOPPING)
        supervised.stop()
        self._set_status(tenant_id, processor_id, ProcessorStatus.STOPPED)

    def find(self, tenant_id: str, processor_id: str) -> Supervised | None:
        """The running processor, if it runs here."""
        with self._lock:
            return self._running.get((tenant_id, processor_id))

    def close(self) -> None:
        """Stop all workers. Their processors stay RUNNING in the catalog, so that the next start resumes them."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            running, self._running = list(self._running.values()), {}
        stoppers = [threading.Thread(target=supervised.stop) for supervised in running]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()

    def _watch(self) -> None:
        while not self._closing.wait(_POLL_S):
            with self._lock:
                for supervised in list(self._running.values()):
                    self._guarded(self._look_after, supervised)

    def _guarded(self, action: Callable[[Supervised], None], supervised: Supervised) -> None:
        try:
            action(supervised)
        except Exception:  # one processor's trouble must not end the watch over the others
            _log.exception("looking after processor %s failed", supervised.processor_id)

    def _look_after(self, supervised: Supervised) -> None:
        if supervised.restart_at_s is not None:
            if time.monotonic() >= supervised.restart_at_s:
                supervised.restart()
                self._set_status(supervised.tenant_id, supervised.processor_id, ProcessorStatus.RUNNING)
            return
        supervised.sample()
        code = supervised.workers.exit_code()
        if code is None:
            if supervised.failures and time.monotonic() - supervised.started_at_s > _STEADY_S:
                supervised.failures = 0
            return
        error = supervised.workers.last_error() if code else None
        status = ProcessorStatus.FAILED if code else ProcessorStatus.COMPLETED
        record_run(self._storage, supervised.plan, supervised.run_id, status, supervised.workers.workers, error=error)
        if code:
            supervised.backoff()
        if not code or supervised.failures >= _MAX_FAILURES:
            del self._running[supervised.tenant_id, supervised.processor_id]
            self._set_status(supervised.tenant_id, supervised.processor_id, status, error)
        else:
            _log.warning("processor %s failed and is started again: %s", supervised.processor_id, error)
            self._set_status(supervised.tenant_id, supervised.processor_id, ProcessorStatus.STARTING, error)

    def _set_status(self, tenant_id: str, processor_id: str, status: ProcessorStatus, error: str | None = None) -> None:
        self._storage.catalog.set_processor_status(tenant_id, processor_id, status, last_error=error)
