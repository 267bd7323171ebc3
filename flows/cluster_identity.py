"""What must be the same on all hosts of a cluster, in a form that can be compared and told."""

import hashlib
import importlib.util
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from event_streaming_bus.flows.cluster import Cluster
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.processors.custom import CustomLogic
from event_streaming_bus.flows.spec import to_data

# Versions first: another version may well give another plan, and then that is the reason to be told.
_TOLD: Final = {
    "version": "version {} of the bus",
    "bytewax": "version {} of Bytewax",
    "python": "Python {}",
    "hosts": "the hosts {}",
    "workers_per_host": "{} worker(s) a host",
    "lost_after_s": "--lost-after-s {}",
    "snapshot_interval_ms": "--snapshot-interval-ms {}",
    "until_end": "--until-end {}",
    "flow": "the flow {}",
    "streams": "streams of another log, or made anew ({})",
    "plan": "another plan of the flow ({})",
}


def identity_of(
    cluster: Cluster, plan: Plan, *, lost_after_s: float, snapshot_interval_ms: int, until_end: bool
) -> dict[str, str]:
    """What this host runs. Of the plan it has hashes: of the processors with the code of the functions that they name, and of the
    ids of the streams, which are the same only where the log is."""
    streams = {stream.stream_id for node in plan.nodes() for stream in (node.target, node.changelog) if stream is not None}
    streams |= {stage.source.stream_id for stage in plan.stages}
    return {
        "version": version("event-streaming-bus"),
        "bytewax": version("bytewax"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "hosts": ",".join(map(str, cluster.hosts)),
        "workers_per_host": str(cluster.workers_per_host),
        "lost_after_s": str(float(lost_after_s)),
        "snapshot_interval_ms": str(snapshot_interval_ms),
        "until_end": str(until_end).lower(),
        "flow": f"{plan.tenant_id}/{plan.name}",
        "streams": _digest([",".join(sorted(streams)).encode()]),
        "plan": _digest(_plan_parts(plan)),
    }


def difference(own: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """What another host has that this one has not, in words; ``None`` if they fit together."""
    for name, told in _TOLD.items():
        if own.get(name) != other.get(name):
            return f"it has {told.format(other.get(name, '(unknown)'))}, this host has {own.get(name, '(unknown)')}"
    return None


def processor_ids(plan: Plan) -> dict[str, str]:
    """How the processors of a plan are called here. Each host has its own catalog, unless they share one."""
    return {node.name: node.processor_id for node in plan.nodes()}


def _plan_parts(plan: Plan) -> Iterator[bytes]:
    for node in plan.nodes():
        yield msgspec.json.encode(to_data(node.spec), order="sorted")
        if isinstance(node.spec.processing_logic, CustomLogic):
            yield _code_of(node.spec.processing_logic.function)


def _code_of(function: str) -> bytes:
    """The source of the module that a CUSTOM names, as far as it is a file."""
    found = importlib.util.find_spec(function.partition(":")[0])
    origin = None if found is None else found.origin
    return Path(origin).read_bytes() if origin is not None and Path(origin).is_file() else b""


def _digest(parts: Iterator[bytes] | list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()[:16]
