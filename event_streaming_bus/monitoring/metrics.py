"""The metrics: the one table of their names, kinds, labels and meanings."""

from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from event_streaming_bus.monitoring.histogram import Histogram


class Kind(StrEnum):
    """What Prometheus calls the type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    SUMMARY = "summary"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """A metric. ``name`` is as it stands in a line of a counter or gauge: that of a counter ends in ``_total``."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


class Quantiles(msgspec.Struct, frozen=True):
    """The value of a summary: quantiles of late, and all that was ever seen."""

    values: tuple[tuple[float, float], ...]
    all: Histogram


class Family(NamedTuple):
    """A metric with its series: the values of its labels, in their order, and the value."""

    metric: Metric
    series: list[tuple[tuple[str, ...], float | Quantiles | Histogram]]


C, G, S, H = Kind.COUNTER, Kind.GAUGE, Kind.SUMMARY, Kind.HISTOGRAM
_PROCESSOR: Final = ("processor", "flow")

METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric("event_streaming_throughput_total", C, ("stream", "priority"), "Events ever appended to the stream."),
        Metric(
            "event_streaming_latency_seconds",
            S,
            ("stream",),
            "End to end: from when an event was accepted until a processor or a consumer group was done with it, or until it "
            "was on disk if nothing reads the stream. Quantiles of the last minute.",
        ),
        Metric(
            "event_streaming_latency_histogram_seconds",
            H,
            ("stream",),
            "The same as a histogram, since the server started.",
        ),
        Metric(
            "event_streaming_stage_latency_seconds",
            H,
            ("stage", "stream"),
            "From when an event was accepted until it was on disk (publish), a processor was done with it (processing), or a "
            "group had acknowledged it (delivery).",
        ),
        Metric("event_streaming_consumer_lag_total", G, ("group",), "Events that the consumer group has not committed yet."),
        Metric(
            "event_streaming_consumer_lag_seconds",
            G,
            ("group",),
            "How long ago the oldest event was appended that the group has not committed.",
        ),
        Metric("event_streaming_consumer_members", G, ("group",), "Members of the consumer group."),
        Metric(
            "event_streaming_consumer_severity",
            G,
            ("group",),
            "The verdict on the group's worst split: 0 OK, 1 WARN, 2 REWOUND, 3 STALLED, 4 STOPPED.",
        ),
        Metric("event_streaming_errors_total", C, ("type", "stream"), "Events that failed, since the server started."),
        Metric("event_streaming_processor_events_in_total", C, _PROCESSOR, "Events that the processor has taken in."),
        Metric("event_streaming_processor_events_out_total", C, _PROCESSOR, "Events that the processor has given out."),
        Metric(
            "event_streaming_processor_outcomes_total",
            C,
            ("outcome", *_PROCESSOR),
            "What became of the events taken in: passed, filtered, late, dead or skipped.",
        ),
        Metric("event_streaming_processor_held_events", G, _PROCESSOR, "Events that the processor holds in its state."),
        Metric("event_streaming_processor_busy_seconds_total", C, _PROCESSOR, "Time that the processor has worked."),
        Metric(
            "event_streaming_processor_watermark_delay_seconds",
            G,
            _PROCESSOR,
            "How far the processor's watermark is behind the clock.",
        ),
        Metric("event_streaming_processor_status", G, ("status", *_PROCESSOR), "1 for the status that the processor has."),
        Metric("event_streaming_history_backlog_records", G, (), "Records of history that are not loaded into DuckDB yet."),
        Metric("event_streaming_stored_bytes", G, ("stream",), "Stored size of the events that the stream keeps."),
        Metric("event_streaming_file_bytes", G, ("file",), "Size on disk of the log, of the history, and of its Parquet files."),
        Metric("event_streaming_disk_bytes", G, (), "Size of the disk with the data folder."),
        Metric("event_streaming_disk_free_bytes", G, (), "Room that is left on the disk with the data folder."),
        Metric("event_streaming_memory_bytes", G, (), "Memory of the machine."),
        Metric("event_streaming_memory_available_bytes", G, (), "Memory of the machine that can be had without swapping."),
        Metric("event_streaming_workers", G, (), "Worker processes of the server that run now."),
        Metric("event_streaming_workers_resident_bytes", G, (), "Resident memory of these workers."),
        Metric("event_streaming_workers_cpu_seconds", G, (), "Processor time that these workers have used."),
        Metric("process_cpu_seconds_total", C, (), "Processor time that the server has used."),
        Metric("process_resident_memory_bytes", G, (), "Resident memory of the server."),
        Metric("process_open_fds", G, (), "Open file descriptors of the server."),
        Metric("process_start_time_seconds", G, (), "When the server started, in seconds since 1970."),
        Metric("event_streaming_connections", G, (), "Connections that clients have open."),
        Metric("event_streaming_requests_in_flight", G, ("kind",), "Requests that are worked on, or wait for their turn."),
        Metric("event_streaming_buffered_bytes", G, (), "Bodies of requests that are held in memory."),
        Metric(
            "event_streaming_refused_requests_total",
            C,
            ("limit",),
            "Requests that were told to come again because the server had too much to do, by the limit that was met.",
        ),
        Metric("event_streaming_monitoring_sample_seconds", G, (), "How long it took to take this sample."),
        Metric(
            "event_streaming_monitoring_unread_records", G, (), "Records of history that latencies and errors do not tell of yet."
        ),
        Metric(
            "event_streaming_monitoring_skipped_records_total",
            C,
            (),
            "Records of history that latencies and errors will never tell of.",
        ),
        Metric("event_streaming_monitoring_failures_total", C, ("part",), "Times that a part of the sample could not be taken."),
    )
}
"""Every metric by name."""

TENANT_LABEL: Final = "tenant"
"""The label that comes last where the metrics of all tenants are told."""
