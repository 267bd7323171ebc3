"""A sample as metrics: of one tenant, or of all with their names as a label."""

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from event_streaming_bus.models import LANES
from event_streaming_bus.monitoring.histogram import Histogram
from event_streaming_bus.monitoring.latency import QUANTILES, STAGES
from event_streaming_bus.monitoring.meter import Limits
from event_streaming_bus.monitoring.metrics import METRICS, TENANT_LABEL, Family, Quantiles
from event_streaming_bus.monitoring.sample import GroupSample, ProcessorSample, Sample
from event_streaming_bus.monitoring.slots import OTHER, Slots
from event_streaming_bus.monitoring.totals import StreamTotals

_PRIORITIES: Final = tuple(lane.value.lower() for lane in LANES)
_OUTCOMES: Final = ("passed", "filtered", "late", "dead", "skipped")
Series: TypeAlias = list[tuple[tuple[str, ...], float | Quantiles | Histogram]]


class View:
    """What is told of one tenant, or of all for ``tenant_id`` ``None``. It remembers which names have series of their own, so
    there is one for each tenant. For one thread at a time."""

    def __init__(self, tenant_id: str | None, limits: Limits) -> None:
        self._tenant_id = tenant_id
        self._streams: Slots[str] = Slots(limits.streams)
        self._groups: Slots[tuple[str, str]] = Slots(limits.groups)
        self._processors: Slots[tuple[str, str, str]] = Slots(limits.processors)

    def families(self, sample: Sample) -> list[Family]:
        """Every metric, in the order of the table, those without series included."""
        series: dict[str, Series] = {name: [] for name in METRICS}
        self._add_streams(series, [each for each in sample.streams if self._is_mine(each.stream.tenant_id)])
        self._add_latencies(series, sample)
        self._add_groups(series, [each for each in sample.groups if self._is_mine(each.tenant_id)])
        processors = [each for each in sample.processors if self._is_mine(each.tenant_id)]
        self._add_processors(series, processors, sample.taken_at_ms)
        _add_server(series, sample)
        return [self._family(name, found) for name, found in series.items()]

    def _family(self, name: str, series: Series) -> Family:
        metric = METRICS[name]
        if self._tenant_id is None and metric.labels and name not in _OF_THE_SERVER:
            metric = metric._replace(labels=(*metric.labels, TENANT_LABEL))
        return Family(metric, series)

    def _is_mine(self, tenant_id: str) -> bool:
        return self._tenant_id is None or self._tenant_id == tenant_id

    def _of(self, tenant_id: str) -> tuple[str, ...]:
        return (tenant_id,) if self._tenant_id is None else ()

    def _add_streams(self, series: dict[str, Series], streams: Sequence[StreamTotals]) -> None:
        by_id = {each.stream.stream_id: each for each in streams}
        named, others = self._streams.settle({key: (*each.events, each.stored_bytes) for key, each in by_id.items()})
        throughput, stored = series["event_streaming_throughput_total"], series["event_streaming_stored_bytes"]
        for key in named:
            each = by_id[key]
            name, tenant = each.stream.name, self._of(each.stream.tenant_id)
            for priority, count in zip(_PRIORITIES, each.events, strict=True):
                throughput.append(((name, priority, *tenant), count))
            stored.append(((name, *tenant), each.stored_bytes))
        if others is not None:
            for priority, total in zip(_PRIORITIES, others, strict=False):
                throughput.append(((OTHER, priority, *self._of(OTHER)), total))
            shown = set(named)
            there = sum(each.stored_bytes for key, each in by_id.items() if key not in shown)
            stored.append(((OTHER, *self._of(OTHER)), there))

    def _add_latencies(self, series: dict[str, Series], sample: Sample) -> None:
        for each in sample.latencies:
            if not self._is_mine(each.tenant_id):
                continue
            tenant = self._of(each.tenant_id)
            for error_type, count in sorted(each.errors.items()):
                series["event_streaming_errors_total"].append(((error_type, each.stream, *tenant), count))
            if not each.end_to_end.count:
                continue
            labels = (each.stream, *tenant)
            quantiles = Quantiles(tuple(zip(QUANTILES, each.quantiles, strict=True)), each.end_to_end)
            series["event_streaming_latency_seconds"].append((labels, quantiles))
            series["event_streaming_latency_histogram_seconds"].append((labels, each.end_to_end))
            for stage in STAGES:
                if each.stages[stage].count:
                    series["event_streaming_stage_latency_seconds"].append(((stage, *labels), each.stages[stage]))

    def _add_groups(self, series: dict[str, Series], groups: Sequence[GroupSample]) -> None:
        by_key = {(each.tenant_id, each.name): each for each in groups}
        named, _ = self._groups.settle(dict.fromkeys(by_key, ()))
        told = [((each.name, *self._of(each.tenant_id)), each) for each in (by_key[key] for key in named)]
        others = [by_key[key] for key in by_key.keys() - set(named)]
        if others:
            told.append(((OTHER, *self._of(OTHER)), _worst(others)))
        for labels, each in told:
            series["event_streaming_consumer_lag_total"].append((labels, each.lag))
            series["event_streaming_consumer_lag_seconds"].append((labels, each.seconds_behind))
            series["event_streaming_consumer_members"].append((labels, each.members))
            series["event_streaming_consumer_severity"].append((labels, each.severity))

    def _add_processors(self, series: dict[str, Series], processors: Sequence[ProcessorSample], now_ms: int) -> None:
        by_key = {(each.tenant_id, each.flow, each.name): each for each in processors}
        named, others = self._processors.settle({key: _counted(each) for key, each in by_key.items()})
        for key in named:
            each = by_key[key]
            labels = (each.name, each.flow, *self._of(each.tenant_id))
            _add_balance(series, labels, _counted(each), each.held)
            series["event_streaming_processor_status"].append(((each.status, *labels), 1))
            if each.watermark_ms is not None:
                delay_s = (now_ms - each.watermark_ms) / 1000
                series["event_streaming_processor_watermark_delay_seconds"].append((labels, delay_s))
        if others is not None:
            shown = set(named)
            held = sum(each.held for key, each in by_key.items() if key not in shown)
            _add_balance(series, (OTHER, "", *self._of(OTHER)), others, held)


_OF_THE_SERVER: Final = (
    *("event_streaming_file_bytes", "event_streaming_monitoring_failures_total"),
    *("event_streaming_requests_in_flight", "event_streaming_refused_requests_total"),
)


def _worst(groups: Iterable[GroupSample]) -> GroupSample:
    """Many groups as one: what can be added is, of the rest the worst is told."""
    groups = list(groups)
    worst = max(groups, key=lambda each: each.severity)
    return GroupSample(
        tenant_id=OTHER,
        name=OTHER,
        lag=sum(each.lag for each in groups),
        seconds_behind=max(each.seconds_behind for each in groups),
        members=sum(each.members for each in groups),
        verdict=worst.verdict,
        severity=worst.severity,
    )


def _counted(each: ProcessorSample) -> tuple[float, ...]:
    return (each.events_in, each.events_out, each.busy_seconds, *(each.outcomes.get(name, 0) for name in _OUTCOMES))


def _add_balance(series: dict[str, Series], labels: tuple[str, ...], counted: Sequence[float], held: int) -> None:
    series["event_streaming_processor_events_in_total"].append((labels, counted[0]))
    series["event_streaming_processor_events_out_total"].append((labels, counted[1]))
    series["event_streaming_processor_busy_seconds_total"].append((labels, counted[2]))
    for name, count in zip(_OUTCOMES, counted[3:], strict=True):
        series["event_streaming_processor_outcomes_total"].append(((name, *labels), count))
    series["event_streaming_processor_held_events"].append((labels, held))


def _add_server(series: dict[str, Series], sample: Sample) -> None:
    """What belongs to no tenant."""
    values: dict[str, float] = {
        "event_streaming_history_backlog_records": sample.history_backlog,
        "event_streaming_monitoring_sample_seconds": sample.took_s,
        "event_streaming_monitoring_unread_records": sample.unread_records,
        "event_streaming_monitoring_skipped_records_total": sample.skipped_records,
    }
    used = sample.resources
    if used is not None:
        values |= {
            "event_streaming_disk_bytes": used.disk_bytes,
            "event_streaming_disk_free_bytes": used.disk_free_bytes,
            "event_streaming_memory_bytes": used.memory_bytes,
            "event_streaming_memory_available_bytes": used.memory_available_bytes,
            "event_streaming_workers": used.workers,
            "event_streaming_workers_resident_bytes": used.workers_resident_bytes,
            "event_streaming_workers_cpu_seconds": used.workers_cpu_seconds,
            "process_cpu_seconds_total": used.cpu_seconds,
            "process_resident_memory_bytes": used.resident_bytes,
            "process_open_fds": used.open_files,
            "process_start_time_seconds": used.started_at_s,
        }
        series["event_streaming_file_bytes"] += [((name,), size) for name, size in used.files.items()]
    load = sample.load
    if load is not None:
        values |= {"event_streaming_connections": load.connections, "event_streaming_buffered_bytes": load.buffered_bytes}
        series["event_streaming_requests_in_flight"] += [((kind,), count) for kind, count in load.in_flight.items()]
        series["event_streaming_refused_requests_total"] += [((limit,), count) for limit, count in load.refused.items()]
    for name, value in values.items():
        series[name].append(((), value))
    series["event_streaming_monitoring_failures_total"] += [((part,), count) for part, count in sample.failures.items()]
