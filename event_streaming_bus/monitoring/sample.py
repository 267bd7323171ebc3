"""A sample: what there was to see of a data folder and of this process at one moment."""

import msgspec

from event_streaming_bus.monitoring.histogram import Histogram
from event_streaming_bus.monitoring.totals import StreamTotals


class GroupSample(msgspec.Struct, frozen=True, kw_only=True):
    """How far behind a consumer group is. ``severity``: of its worst split, 0 for OK, 1 WARN, 2 REWOUND, 3 STALLED, 4 STOPPED."""

    tenant_id: str
    name: str
    lag: int
    seconds_behind: float
    members: int
    verdict: str
    severity: int


class ProcessorSample(msgspec.Struct, frozen=True, kw_only=True):
    """The balance of a processor: ``events_in`` is the sum of ``outcomes`` and ``held``. ``flow`` is empty for one that belongs
    to no flow file; ``watermark_ms`` is how far event time has come."""

    tenant_id: str
    name: str
    flow: str
    status: str
    events_in: int = 0
    events_out: int = 0
    outcomes: dict[str, int] = {}
    held: int = 0
    busy_seconds: float = 0.0
    watermark_ms: int | None = None


class LatencySample(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of a stream since the server started, and the quantiles of its last minute; ``errors`` by their type."""

    tenant_id: str
    stream: str
    quantiles: tuple[float, ...]
    end_to_end: Histogram
    stages: dict[str, Histogram]
    errors: dict[str, int]


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What this process, its workers and the data folder take, and what the machine has left."""

    cpu_seconds: float
    resident_bytes: int
    open_files: int
    started_at_s: float
    workers: int
    workers_resident_bytes: int
    workers_cpu_seconds: float
    memory_bytes: int
    memory_available_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    files: dict[str, int]


class LoadSample(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is doing: ``in_flight`` requests by their kind, and how many were ``refused``, by the bound that was met."""

    connections: int
    in_flight: dict[str, int]
    buffered_bytes: int
    refused: dict[str, int]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``taken_s`` is on the monotonic clock; ``failures`` counts by part what could not be sampled, ever."""

    taken_at_ms: int
    taken_s: float
    took_s: float
    streams: list[StreamTotals]
    latencies: list[LatencySample]
    groups: list[GroupSample]
    processors: list[ProcessorSample]
    resources: Resources | None
    load: LoadSample | None
    history_backlog: int
    unread_records: int
    skipped_records: int
    failures: dict[str, int]
