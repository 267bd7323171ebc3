"""``esb run``: run a flow file."""

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
import msgspec

from event_streaming_bus import ids
from event_streaming_bus.cli.auditing import begun
from event_streaming_bus.cli.main import EXIT_ERROR, EXIT_INTERRUPTED, Settings, confirm
from event_streaming_bus.cli.modules import allow_module_option
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.run_cluster import ClusterOptions, find_place, run_on_cluster
from event_streaming_bus.cli.run_shown import Shown
from event_streaming_bus.cli.tables import print_table
from event_streaming_bus.errors import FlowError, InUseError
from event_streaming_bus.flows.cluster_duties import Timing
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.growth import growth, partitions_now, with_partitions
from event_streaming_bus.flows.kept_flow import starts_anew
from event_streaming_bus.flows.metrics import ProcessorMetrics, flow_metrics
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.plan_diff import Allowed
from event_streaming_bus.flows.runner import current_ends, reads_itself
from event_streaming_bus.flows.runs import record_run
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.flows.workers import DEFAULT_SNAPSHOT_INTERVAL_MS, WorkerGroup
from event_streaming_bus.models import ProcessorStatus, Split, rfc3339
from event_streaming_bus.store.storage import Storage

_POLL_S: Final = 0.1
_STOP_TIMEOUT_S: Final = 30.0


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--until-end", is_flag=True, help="Process what the streams hold now, close every window, and end.")
@click.option("--workers", type=click.IntRange(1, 64), help="Worker processes (of each host).  [default: the flow's parallelism]")
@click.option("--cluster", metavar="HOST:PORT,...", help="Run as one of these hosts, which are given the same list.")
@click.option("--process-id", type=click.IntRange(0), help="Which host this is, from 0.  [default: ESB_PROCESS_ID, or found]")
@click.option(
    "--wait-s", type=click.FloatRange(1), default=60.0, show_default=True, help="How long to wait for the hosts at first."
)
@click.option("--lost-after-s", type=click.FloatRange(0.5), default=5.0, show_default=True, help="When a silent host is lost.")
@click.option("--from-start", is_flag=True, help="Forget how far the flow has come and write all of its output again.")
@click.option("--rebuild", metavar="NAME", multiple=True, help="As --from-start, if the changed processor NAME needs it.")
@click.option("--drop-state", metavar="NAME", multiple=True, help="Give up the state of NAME, which is no longer in the flow.")
@click.option("--yes", is_flag=True, help="Do not ask (with --from-start and --rebuild).")
@click.option("--json", "as_json", is_flag=True, help="Print the counts of each processor as JSON.")
@allow_module_option
@click.option("--snapshot-interval-ms", type=click.IntRange(50), default=DEFAULT_SNAPSHOT_INTERVAL_MS, show_default=True)
@click.pass_obj
def run(
    settings: Settings,
    file: str,
    until_end: bool,
    workers: int | None,
    cluster: str | None,
    process_id: int | None,
    wait_s: float,
    lost_after_s: float,
    from_start: bool,
    rebuild: tuple[str, ...],
    drop_state: tuple[str, ...],
    yes: bool,
    as_json: bool,
    snapshot_interval_ms: int,
) -> int:
    """Run the flow in FILE. It goes on where it was when it last ran; Ctrl-C stops it in good order."""
    if not Path(file).exists():
        raise FlowError(f"{file}: there is no such file")
    storage: Storage = settings.open()
    spec = load_flow(file)
    if process_id is not None and cluster is None:
        raise click.UsageError("--process-id belongs to --cluster")
    options = place = None
    if cluster is not None:
        options = ClusterOptions(
            cluster=cluster,
            process_id=process_id,
            workers=workers,
            until_end=until_end,
            snapshot_interval_ms=snapshot_interval_ms,
            timing=Timing(lost_after_s=lost_after_s, wait_s=wait_s),
        )
        place = find_place(options, storage, spec)
    allowed = Allowed(frozenset(rebuild), frozenset(drop_state), anything=from_start)
    if anew := starts_anew(spec, storage, allowed):
        confirm(f"All output of the flow {spec.name} will be written again, beside what it has written before.", yes)
    try:
        plan = deploy(spec, storage, allowed)
    except InUseError:
        before = "starts from the beginning" if anew else "changes"
        raise InUseError(f"The flow {spec.name} is running; stop it before it {before}.", flow=spec.name) from None
    begun()
    if options is not None and place is not None:
        code, error, processor_ids = run_on_cluster(storage, plan, file, *place, options)
        plan = deploy(spec, storage, processor_ids=processor_ids)  # as the hosts call the processors
    else:
        code, error = run_plan(
            storage, plan, file, workers=workers, until_end=until_end, snapshot_interval_ms=snapshot_interval_ms
        )
    metrics = flow_metrics(plan, storage)
    if as_json:
        for each in metrics:
            click.echo(msgspec.json.encode(each).decode())
    else:
        print_metrics(metrics)
    if error is not None:
        click.echo(f"esb: {error}", err=True)
    elif code == EXIT_INTERRUPTED:
        click.echo("esb: stopped; the same command goes on from here", err=True)
    return code


def run_plan(
    storage: Storage,
    plan: Plan,
    file: str,
    *,
    workers: int | None = None,
    until_end: bool = False,
    snapshot_interval_ms: int = DEFAULT_SNAPSHOT_INTERVAL_MS,
) -> tuple[int, str | None]:
    """Run a flow's workers and show their progress; returns ``(exit code, error)``.

    ``until_end``: to the end of what the streams hold now. Where the flow reads a stream that it writes, the workers run again
    until nothing more comes. Without it, they are started again when a source stream has got more partitions.
    """
    ends = current_ends(plan, storage) if until_end else None
    while True:
        code, error = _run_workers(storage, plan, file, workers or plan.parallelism, ends, snapshot_interval_ms)
        if code == 0 and ends is None and (told := growth(plan, storage.log)) is not None:
            click.echo(f"esb: {told}; the workers start again and go on from here", err=True)
            plan = with_partitions(plan, partitions_now(plan, storage.log))
            continue
        if code or ends is None or ends == (ends := current_ends(plan, storage)) or not reads_itself(plan):
            return code, error


def _run_workers(
    storage: Storage,
    plan: Plan,
    file: str,
    workers: int,
    until: Mapping[str, Mapping[Split, int]] | None,
    snapshot_interval_ms: int,
) -> tuple[int, str | None]:
    stopped = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    run_id = ids.new_id(ids.RUN)
    group = WorkerGroup(
        storage,
        plan,
        ["--flow", str(Path(file).resolve())],
        workers=workers,
        until=until,
        snapshot_interval_ms=snapshot_interval_ms,
    )
    record_run(storage, plan, run_id, ProcessorStatus.RUNNING, group.workers)
    before = [signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)]
    code: int | None = None
    try:
        with progress_bar(f"running {plan.name}") as bar:
            shown = Shown(storage, plan, bar)
            while code is None and not stopped:
                time.sleep(_POLL_S)
                code = group.exit_code()
                shown.update()
        if stopped:
            group.stop(_STOP_TIMEOUT_S)
    finally:
        group.kill()
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    error = group.last_error() if code else None
    is_to_go_on = stopped or until is None
    ended = ProcessorStatus.FAILED if code else ProcessorStatus.STOPPED if is_to_go_on else ProcessorStatus.COMPLETED
    record_run(storage, plan, run_id, ended, group.workers, error=error)
    return (EXIT_INTERRUPTED if stopped else EXIT_ERROR if code else 0), error


def print_metrics(metrics: list[ProcessorMetrics]) -> None:
    """What became of the events of each processor, as a table."""
    names = ("in", "passed", "filtered", "late", "dead", "skipped", "in state", "out")
    rows: list[list[Any]] = [
        [
            m.name,
            *(m.events_in, m.events_passed, m.events_filtered, m.events_late, m.events_dead, m.events_skipped),
            *(m.in_state, m.events_out, None if m.watermark_ms is None else rfc3339(m.watermark_ms)),
        ]
        for m in metrics
    ]
    print_table(["processor", *names, "watermark"], rows)
