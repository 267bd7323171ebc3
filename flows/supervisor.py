"""The supervisor: keeps the worker processes of processors running, restarts them with backoff, and sees crash loops."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import BusError, InvalidStateError
from event_streaming_bus.flows.growth import growth
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import plan_of_processor
from event_streaming_bus.flows.runs import record_run
from event_streaming_bus.flows.workers import WorkerGroup
from event_streaming_bus.models import ProcessorStatus
from event_streaming_bus.store.storage import Storage

_log: Final = logging.getLogger(__name__)
_POLL_S: Final = 0.1
_SAMPLE_S: Final = 1.0
_RATE_WINDOW: Final = 11
STOP_TIMEOUT_S: Final = 20.0
# Nothing ends a processor's workers but a stop, or a source stream that has grown. So where neither is the case, an exit code of
# 0 means that someone else has sent them a signal. Where that is a machine shutting down, the processor is to be resumed when it
# comes up again.
_ENDED_FROM_OUTSIDE: Final = "the workers were ended from outside"


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """When a processor that fails is started again, and when no more.

    The pause before a start is ``first_backoff_s``, doubled with each failure in a row up to ``max_backoff_s``. The processor is
    FAILED after ``max_failures`` in a row. Workers that have run for ``steady_s`` end the row.
    """

    first_backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    steady_s: float = 60.0
    max_failures: int = 5

    def backoff_s(self, failures: int) -> float:
        """The pause after so many failures in a row, 1 or more."""
        # The exponent is bounded, since nothing bounds max_failures.
        return min(self.max_backoff_s, self.first_backoff_s * 2.0 ** min(failures - 1, 60))


class Supervised:
    """One running processor: its plan, its workers, what is known of its speed, and its failures in a row."""

    def __init__(self, storage: Storage, tenant_id: str, processor_id: str) -> None:
        self._storage = storage
        self.tenant_id = tenant_id
        self.processor_id = processor_id
        self.failures = 0
        self.last_error: str | None = None
        self.restart_at_s: float | None = None
        self.stopping = False
        self.ended = threading.Event()
        self._samples: deque[tuple[float, dict[str, int]]] = deque(maxlen=_RATE_WINDOW)
        self._sampled_version: int | None = None  # of the log, at the last sample
        self.start()

    def start(self) -> None:
        """Plan the processor as it is now and start its workers. Where this raises, no worker is left behind."""
        plan, arguments = self.planned()
        run_id = ids.new_id(ids.RUN)
        workers = WorkerGroup(self._storage, plan, arguments, workers=plan.parallelism)
        try:
            record_run(self._storage, plan, run_id, ProcessorStatus.RUNNING, workers.workers)
        except BaseException:
            workers.kill()
            raise
        self.plan: Plan = plan
        self.run_id = run_id
        self.workers = workers
        self.started_at_s = time.monotonic()
        self.restart_at_s = None

    def planned(self) -> tuple[Plan, list[str]]:
        """What is to run as things are now, and what tells a worker that it is that."""
        plan = plan_of_processor(self.tenant_id, self.processor_id, self._storage)
        return plan, ["--processor", self.tenant_id, self.processor_id]

    def stop(self) -> None:
        """End the workers in order and record it. Between a failure and the next start there is nothing to end."""
        if self.restart_at_s is None:
            self.workers.stop(STOP_TIMEOUT_S)
            self.record(ProcessorStatus.STOPPED)

    def record(self, status: ProcessorStatus, error: str | None = None) -> None:
        """Record in the history what has become of the present run."""
        record_run(self._storage, self.plan, self.run_id, status, self.workers.workers, error=error)

    def fail(self, error: str, patience: Patience) -> None:
        """Count a failure and plan the next start."""
        self.failures += 1
        self.last_error = error
        self.restart_at_s = time.monotonic() + patience.backoff_s(self.failures)

    def recover(self) -> None:
        """The workers have run for long enough: the row of failures is over."""
        self.failures = 0
        self.last_error = None

    def sample(self) -> None:
        """Note how many events are done, once a second."""
        now_s = time.monotonic()
        if self._samples and now_s - self._samples[-1][0] < _SAMPLE_S:
            return
        version = self._storage.log.version()
        if version == self._sampled_version:
            done = self._samples[-1][1]  # nothing was written since: an idle bus need not read anything
        else:
            done = {each.processor_id: each.events_in for each in flow_metrics(self.plan, self._storage)}
        self._sampled_version = version
        self._samples.append((now_s, done))

    def events_per_second(self, processor_id: str) -> float:
        """Events that a processor has taken in per second, over the last ten seconds."""
        samples = list(self._samples)
        if len(samples) < 2:
            return 0.0
        (first_s, first), (last_s, last) = samples[0], samples[-1]
        return (last.get(processor_id, 0) - first.get(processor_id, 0)) / (last_s - first_s)


class Supervisor:
    """Runs processors of the catalog, each as worker processes of its own.

    A processor whose workers end, or cannot be started, is started again after 0.5 s, 1 s, 2 s, ... up to 30 s; after five
    failures in a row, each within a minute of its start, it is FAILED. The catalog has the last error from the first failure
    on, until the workers have run for a minute. One whose workers end since a source stream has more partitions is started again
    at once, which is no failure. All methods may be called from any thread.
    """

    thread_name: ClassVar = "esb-supervisor"

    def __init__(self, storage: Storage, patience: Patience | None = None) -> None:
        self._storage = storage
        self._patience = patience or Patience()
        self._running: dict[tuple[str, str], Supervised] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, tenant_id: str, processor_id: str) -> None:
        """Start a processor. ``InvalidStateError`` if it runs already. If it cannot be started it is FAILED, with the error."""
        with self.not_running(tenant_id, processor_id):
            if self._closing.is_set():
                raise self.closing_error(processor_id)
            self._set_status(tenant_id, processor_id, ProcessorStatus.STARTING)
            try:
                self._running[tenant_id, processor_id] = self.started(tenant_id, processor_id)
            except Exception as error:
                self._set_status(tenant_id, processor_id, ProcessorStatus.FAILED, _told(error))
                raise
            self._set_status(tenant_id, processor_id, ProcessorStatus.RUNNING)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name=self.thread_name, daemon=True)
                self._thread.start()

    def started(self, tenant_id: str, processor_id: str) -> Supervised:
        """The processor, started."""
        return Supervised(self._storage, tenant_id, processor_id)

    def closing_error(self, processor_id: str) -> InvalidStateError:
        """Why nothing is started any more."""
        return InvalidStateError("Processors are being stopped, and none is started any more.", processor_id=processor_id)

    @contextmanager
    def not_running(self, tenant_id: str, processor_id: str) -> Iterator[None]:
        """Inside, the processor neither runs here nor is it started. ``InvalidStateError`` if it runs, or is being stopped."""
        with self._lock:
            supervised = self._running.get((tenant_id, processor_id))
            if supervised is not None:
                state = "is being stopped" if supervised.stopping else "is running; stop it first"
                raise InvalidStateError(f"The processor {processor_id} {state}.", processor_id=processor_id)
            yield

    def stop(self, tenant_id: str, processor_id: str) -> None:
        """Stop a processor: what it has read is processed and a snapshot taken. ``InvalidStateError`` if it does not run.

        One that waits for its next start after a failure is stopped too, and keeps its last error.
        """
        with self._lock:
            supervised = self._running.get((tenant_id, processor_id))
            if supervised is None or supervised.stopping:
                state = "is not running" if supervised is None else "is being stopped already"
                raise InvalidStateError(f"The processor {processor_id} {state}.", processor_id=processor_id)
            supervised.stopping = True  # from here on the watch leaves it alone, and nobody can start it
        try:
            try:
                self._set_status(tenant_id, processor_id, ProcessorStatus.STOPPING, supervised.last_error)
            finally:
                supervised.stop()
            self._set_status(tenant_id, processor_id, ProcessorStatus.STOPPED, supervised.last_error)
        finally:
            with self._lock:
                self._running.pop((tenant_id, processor_id), None)
            supervised.ended.set()

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
            stopped_elsewhere = [supervised for supervised in self._running.values() if supervised.stopping]
            running = [supervised for supervised in self._running.values() if not supervised.stopping]
            for supervised in running:
                supervised.stopping = True
        stoppers = [threading.Thread(target=self._guarded, args=(Supervised.stop, supervised)) for supervised in running]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()
        for supervised in stopped_elsewhere:
            supervised.ended.wait(STOP_TIMEOUT_S)
        with self._lock:
            self._running.clear()

    def _watch(self) -> None:
        while not self._closing.wait(_POLL_S):
            with self._lock:
                for supervised in list(self._running.values()):
                    if not supervised.stopping:
                        self._guarded(self._look_after, supervised)

    def _guarded(self, action: Callable[[Supervised], None], supervised: Supervised) -> None:
        try:
            action(supervised)
        except Exception:  # one processor's trouble must not end the watch over the others
            _log.exception("looking after processor %s failed", supervised.processor_id)

    def _look_after(self, supervised: Supervised) -> None:
        if supervised.restart_at_s is not None:
            if time.monotonic() >= supervised.restart_at_s:
                self._restart(supervised)
            return
        code = supervised.workers.exit_code()
        if code is None:
            if supervised.failures and time.monotonic() - supervised.started_at_s > self._patience.steady_s:
                supervised.recover()
                self._note(supervised, ProcessorStatus.RUNNING)
            supervised.sample()
            return
        if code == 0 and (told := self._growth(supervised)) is not None:
            _log.info("processor %s starts again: %s", supervised.processor_id, told)
            supervised.record(ProcessorStatus.STOPPED)
            self._restart(supervised)
            return
        error = supervised.workers.last_error() if code else _ENDED_FROM_OUTSIDE
        try:
            self._failed(supervised, error)
        finally:
            supervised.record(ProcessorStatus.FAILED, error)

    def _growth(self, supervised: Supervised) -> str | None:
        """What of the sources has grown, if it has, and the log says so."""
        try:
            return growth(supervised.plan, self._storage.log)
        except BusError:
            return None

    def _restart(self, supervised: Supervised) -> None:
        try:
            supervised.start()
        except Exception as error:  # whatever it is, trying again each poll would not help
            self._failed(supervised, _told(error))
        else:
            self._note(supervised, ProcessorStatus.RUNNING)

    def _failed(self, supervised: Supervised, error: str) -> None:
        """Count a failure; the last one ends the processor. What is held here changes first, should the catalog not take it."""
        supervised.fail(error, self._patience)
        if supervised.failures < self._patience.max_failures:
            _log.warning("processor %s failed and is started again: %s", supervised.processor_id, error)
            self._note(supervised, ProcessorStatus.STARTING)
        else:
            _log.error("processor %s failed %d times in a row: %s", supervised.processor_id, supervised.failures, error)
            del self._running[supervised.tenant_id, supervised.processor_id]
            self._note(supervised, ProcessorStatus.FAILED)

    def _note(self, supervised: Supervised, status: ProcessorStatus) -> None:
        self._set_status(supervised.tenant_id, supervised.processor_id, status, supervised.last_error)

    def _set_status(self, tenant_id: str, processor_id: str, status: ProcessorStatus, error: str | None = None) -> None:
        self._storage.catalog.set_processor_status(tenant_id, processor_id, status, last_error=error)


def _told(error: Exception) -> str:
    """An error in words for the catalog."""
    return error.message if isinstance(error, BusError) else f"{type(error).__name__}: {error}"
