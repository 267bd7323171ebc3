"""``esb run FLOW --cluster``: this host's part of a flow that several hosts run together."""

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, TypeVar

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.cli.main import EXIT_ERROR, EXIT_INTERRUPTED
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.run_shown import Shown
from event_streaming_bus.errors import BusError, ConfigError, InUseError
from event_streaming_bus.flows.cluster import Address, Cluster, check_worker_ports, is_known, own_index, parse_cluster
from event_streaming_bus.flows.cluster_duties import Duties, Outcome, Timing
from event_streaming_bus.flows.cluster_identity import identity_of, processor_ids
from event_streaming_bus.flows.cluster_links import Links
from event_streaming_bus.flows.cluster_messages import Phase, Start
from event_streaming_bus.flows.cluster_recovery import drop_unknown
from event_streaming_bus.flows.cluster_supervisor import ClusterSupervisor
from event_streaming_bus.flows.growth import growth, partitions_now, partitions_of, with_partitions
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.recovery import no_workers, snapshots_folder
from event_streaming_bus.flows.runner import current_ends, ends_from_json, ends_to_json, reads_itself
from event_streaming_bus.flows.runs import record_run
from event_streaming_bus.flows.spec import FlowSpec
from event_streaming_bus.flows.worker import RECOVERY_PARTITIONS
from event_streaming_bus.flows.workers import Place, WorkerGroup
from event_streaming_bus.models import ProcessorStatus
from event_streaming_bus.store.storage import Storage

_POLL_S: Final = 0.1
_OLD_WORKERS_S: Final = 10.0
_NAMES_AGAIN_S: Final = 1.0
Found = TypeVar("Found")
_RUN_STATUS: Final = {Phase.RUNNING: ProcessorStatus.RUNNING, Phase.IDLE: ProcessorStatus.FAILED}


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``esb run --cluster`` was given."""

    cluster: str
    process_id: int | None
    workers: int | None
    until_end: bool
    snapshot_interval_ms: int
    timing: Timing


def find_place(options: ClusterOptions, storage: Storage, spec: FlowSpec) -> tuple[Cluster, int]:
    """The cluster and which of its hosts this is. A flow's ``parallelism`` is shared out among the hosts, ``--workers`` is not.

    ``ConfigError`` if that cannot be, or the log or the schemas are this host's alone; ``InUseError`` if a port is taken.
    """
    if storage.url == str(storage.folder):
        raise ConfigError(
            "--cluster: all hosts need the same log, and the data folder is this host's alone; see ESB_DATA=kafka://..."
        )
    if storage.shared is None and (spec.schemas or any(stream.schema for stream in spec.streams)):
        raise ConfigError("--cluster: the flow has schemas, and the registry here is this host's alone; see ESB_DATABASE")
    hosts = len(parse_cluster(options.cluster).hosts)
    parallelism = max((each.parallelism for each in spec.processors), default=1)
    cluster = parse_cluster(options.cluster, options.workers or -(-parallelism // hosts))
    index = _patiently(lambda: own_index(cluster, options.process_id), cluster.hosts, options.timing.wait_s)
    _patiently(lambda: check_worker_ports(cluster, index), cluster.hosts[index : index + 1], options.timing.wait_s)
    return cluster, index


def _patiently(ask: Callable[[], Found], hosts: Sequence[Address], wait_s: float) -> Found:
    """Ask again while the name of one of ``hosts`` is not known: directories hear of a machine a while after it has come up."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return ask()
        except (ConfigError, InUseError):
            if time.monotonic() > deadline or all(map(is_known, hosts)):
                raise
            time.sleep(_NAMES_AGAIN_S)


def run_on_cluster(
    storage: Storage, plan: Plan, file: str, cluster: Cluster, index: int, options: ClusterOptions
) -> tuple[int, str | None, dict[str, str]]:
    """Run this host's part; returns ``(exit code, error, ids of the processors by name)``."""
    _await_old_workers(storage, plan)
    phases: queue.SimpleQueue[tuple[Phase, str | None]] = queue.SimpleQueue()
    names = processor_ids(plan)
    partitions = partitions_of(plan)

    folder = snapshots_folder(storage, plan.tenant_id, plan.name)

    def launch(start: Start) -> WorkerGroup:
        names.update(start.processor_ids)
        drop_unknown(folder, plan.name, {node.state_name for node in plan.nodes()})
        return WorkerGroup(
            storage,
            with_partitions(plan, start.partitions),
            ["--flow", str(Path(file).resolve()), "--processor-ids", msgspec.json.encode(names).decode()],
            workers=cluster.workers_per_host,
            until=None if start.until is None else ends_from_json(start.until),
            snapshot_interval_ms=options.snapshot_interval_ms,
            place=Place(cluster.worker_addresses(), cluster.first_worker(index)),
        )

    def has_grown() -> bool:
        """Whether workers that follow the streams have ended since one has more partitions; also if the log does not say."""
        try:
            return growth(with_partitions(plan, partitions), storage.log) is not None
        except BusError:
            return True

    def follow() -> str:
        _ask_the_log(lambda: partitions.update(partitions_now(plan, storage.log)))
        return ""

    def ends(last: str | None) -> str | None:
        if not options.until_end:
            return follow() if last is None or has_grown() else None
        now = ends_to_json(current_ends(plan, storage))
        return None if last is not None and (now == last or not reads_itself(plan)) else now

    identity = identity_of(
        cluster,
        plan,
        lost_after_s=options.timing.lost_after_s,
        snapshot_interval_ms=options.snapshot_interval_ms,
        until_end=options.until_end,
    )
    done: Future[Outcome] = Future()
    with _stopping_on_signals() as stopping, progress_bar(f"running {plan.name} as host {index}") as bar:

        def tell(text: str) -> None:
            bar.tell(f"esb: cluster: {text}")

        def changed(phase: Phase, error: str | None) -> None:
            tell(f"the workers here are {_PHASES[phase]}" + (f": {error}" if error else ""))
            phases.put((phase, error))

        supervisor = ClusterSupervisor(
            cluster,
            index,
            Duties(launch, ends, tell, changed, names, partitions),
            folder,
            default_partitions=RECOVERY_PARTITIONS,
            timing=options.timing,
        )
        links = Links(cluster, index, identity, lost_after_s=options.timing.lost_after_s, probe=supervisor.probe)

        def supervise() -> None:
            try:
                done.set_result(supervisor.run(links, stopping.is_set))
            except BaseException as error:
                done.set_exception(error)

        # In a thread of its own: what is shown and recorded here asks the log, which may not answer while the network is down.
        threading.Thread(target=supervise, name="esb-cluster", daemon=True).start()
        record = _Record(storage, plan, cluster.workers) if index == 0 else None
        shown = Shown(storage, plan, bar)
        while not done.done():
            _ask_the_log(shown.update)
            _note(phases, record)
            time.sleep(_POLL_S)
        _note(phases, record)
    outcome = done.result()
    if record is not None:
        record.end(outcome)
    return EXIT_INTERRUPTED if outcome.stopped else EXIT_ERROR if outcome.error else 0, outcome.error, names


def _await_old_workers(storage: Storage, plan: Plan) -> None:
    """Wait until the workers of a supervisor that was killed have ended, too: they do when they find it gone."""
    deadline = time.monotonic() + _OLD_WORKERS_S
    while True:
        try:
            with no_workers(storage, plan.tenant_id, plan.name):
                return
        except InUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


def _note(phases: "queue.SimpleQueue[tuple[Phase, str | None]]", record: "_Record | None") -> None:
    while not phases.empty():
        phase, error = phases.get()
        if record is not None and phase in _RUN_STATUS:
            record.note(_RUN_STATUS[phase], error)


_PHASES: Final = {
    Phase.RUNNING: "running",
    Phase.STOPPING: "being stopped, and with them those of the other hosts",
    Phase.IDLE: "not running",
    Phase.DONE: "done",
}


class _Record:
    """The runs of the flow in the history, told by the first host for all: one for each time that the workers start."""

    def __init__(self, storage: Storage, plan: Plan, workers: int) -> None:
        self._storage = storage
        self._plan = plan
        self._workers = workers
        self._run_id: str | None = None

    def note(self, status: ProcessorStatus, error: str | None) -> None:
        if status is ProcessorStatus.RUNNING:
            self._run_id = ids.new_id(ids.RUN)
        if (run_id := self._run_id) is not None:
            _ask_the_log(lambda: record_run(self._storage, self._plan, run_id, status, self._workers, error=error))
        if status is not ProcessorStatus.RUNNING:
            self._run_id = None

    def end(self, outcome: Outcome) -> None:
        failed = ProcessorStatus.FAILED if outcome.error else ProcessorStatus.COMPLETED
        self.note(ProcessorStatus.STOPPED if outcome.stopped else failed, outcome.error)


def _ask_the_log(ask: Callable[[], None]) -> None:
    """Ask the log for what is only shown or noted: the flow goes on without."""
    try:
        ask()
    except BusError:
        return


@contextmanager
def _stopping_on_signals() -> Iterator[threading.Event]:
    stopping = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopping.set()

    before = [signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield stopping
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
