"""Runs flows: what ``python -m bytewax.run`` calls, and the worker processes that ``esb run`` and the supervisor start.

    python -m bytewax.run "event_streaming_bus.flows.runner:flow('deploy/demo/sales.yaml')" -r RECOVERY -s 1 -b 0

The data folder is ``ESB_DATA`` (default ``./esb-data``).
"""

import signal
import threading
from collections.abc import Mapping
from types import FrameType

import msgspec
from bytewax.dataflow import Dataflow

from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.spec import FlowSpec, load_flow, parse_processor
from event_streaming_bus.models import LANES, Split
from event_streaming_bus.store.storage import Storage, open_storage

_stop = threading.Event()


def flow(file: str, *, until_end: bool = False) -> Dataflow:
    """The dataflow of a flow file. ``until_end``: process what the streams hold now, then close every window and end."""
    storage = open_storage()
    plan = deploy(load_flow(file), storage)
    return build(plan, storage, until=current_ends(plan, storage) if until_end else None, stopping=stopping)


def processor(tenant_id: str, processor_id: str) -> Dataflow:
    """The dataflow of one processor of the catalog, as created over REST or with ``StreamManagementService``."""
    storage = open_storage()
    return build(plan_of_processor(tenant_id, processor_id, storage), storage, stopping=stopping)


def plan_of_processor(tenant_id: str, processor_id: str, storage: Storage) -> Plan:
    """The plan of one processor of the catalog: a flow of its own, named by the processor's id."""
    record = storage.catalog.get_processor(tenant_id, processor_id)
    spec = parse_processor(msgspec.json.decode(record.config))
    return deploy(FlowSpec(name=record.flow, tenant_id=tenant_id, processors=(spec,)), storage)


def current_ends(plan: Plan, storage: Storage) -> dict[str, dict[Split, int]]:
    """Where the flow's source streams end now, by stream id."""
    return {s.source.stream_id: storage.log.end_offsets(s.source.stream_id) for s in plan.stages}


def reads_itself(plan: Plan) -> bool:
    """Whether the flow reads a stream that it writes."""
    written = {node.target.stream_id for node in plan.nodes() if node.target is not None}
    return any(stage.source.stream_id in written for stage in plan.stages)


def ends_from_json(text: str) -> dict[str, dict[Split, int]]:
    """The reverse of ``ends_to_json``."""
    lanes = {lane.value: lane for lane in LANES}
    return {
        stream_id: {Split(stream_id, lanes[lane], partition): end for lane, partition, end in splits}
        for stream_id, splits in msgspec.json.decode(text, type=dict[str, list[tuple[str, int, int]]]).items()
    }


def ends_to_json(ends: Mapping[str, Mapping[Split, int]]) -> str:
    """Ends by stream id as text, so that every worker process of a run stops at the same offsets."""
    return msgspec.json.encode(
        {i: [(split.lane.value, split.partition, end) for split, end in splits.items()] for i, splits in ends.items()}
    ).decode()


def stopping() -> bool:
    """Whether this process was asked to stop."""
    return _stop.is_set()


def stop_on_signals() -> None:
    """End the sources at the next SIGTERM or SIGINT: what was read is processed, a snapshot is taken, no window is closed."""

    def stop(signum: int, frame: FrameType | None) -> None:
        _stop.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
