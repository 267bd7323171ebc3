"""What is said over the monitoring WebSocket: the client's messages, and the metrics as one message a second."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import LANES, rfc3339
from event_streaming_bus.monitoring.latency import QUANTILES
from event_streaming_bus.monitoring.sample import LatencySample, Sample
from event_streaming_bus.monitoring.totals import StreamTotals
from event_streaming_bus.struct_errors import told

STREAM_METRICS: Final = ("throughput", "latency", "error_rate")
OTHER_METRICS: Final = ("consumer_lag", "processors", "resources")
METRICS: Final = (*STREAM_METRICS, *OTHER_METRICS)
MAX_MESSAGE_BYTES: Final = 64 << 10
MAX_NAMES: Final = 200


class Subscription(msgspec.Struct, frozen=True):
    """What a client wants to see: these metrics of these streams, by name, or of all for ``None``."""

    streams: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = METRICS


class Subscribe(msgspec.Struct, frozen=True, tag_field="type", tag="subscribe", forbid_unknown_fields=True):
    """Show these from now on, in place of what was shown; what is left out means all."""

    streams: list[str] | None = None
    metrics: list[str] | None = None


class Unsubscribe(msgspec.Struct, frozen=True, tag_field="type", tag="unsubscribe", forbid_unknown_fields=True):
    """Show these no longer; nothing at all if none are named."""

    streams: list[str] = []
    metrics: list[str] = []


_decoder: "Final[msgspec.json.Decoder[Subscribe | Unsubscribe]]" = msgspec.json.Decoder(Subscribe | Unsubscribe)


def changed(subscription: Subscription | None, text: str | bytes) -> Subscription | None:
    """The subscription after this message; ``None`` shows nothing. Raises ``InvalidInputError``.

    A stream that there is not may be named: it is shown once it is made.
    """
    try:
        wanted = _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise InvalidInputError(told(str(error), lambda path: ["metrics", "streams", "type"])) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInputError('the message is no JSON object such as {"type": "subscribe", "streams": ["orders"]}') from None
    _check(wanted)
    if isinstance(wanted, Subscribe):
        return Subscription(
            None if wanted.streams is None else tuple(dict.fromkeys(wanted.streams)),
            METRICS if wanted.metrics is None else tuple(dict.fromkeys(wanted.metrics)),
        )
    if subscription is None or not (wanted.streams or wanted.metrics):
        return None
    if subscription.streams is None and wanted.streams:
        raise InvalidInputError("streams: all are shown; subscribe to those that you want to see instead")
    streams = subscription.streams
    left = None if streams is None else tuple(name for name in streams if name not in wanted.streams)
    metrics = tuple(name for name in subscription.metrics if name not in wanted.metrics)
    return Subscription(left, metrics) if metrics and left != () else None


def _check(wanted: Subscribe | Unsubscribe) -> None:
    streams, metrics = wanted.streams or (), wanted.metrics or ()
    if len(streams) > MAX_NAMES:
        raise InvalidInputError(f"streams: at most {MAX_NAMES} can be named, not {len(streams):,}")
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise InvalidInputError(f"metrics: unknown: {', '.join(unknown)[:200]}; there is {', '.join(METRICS)}")


def refusal(reason: str) -> bytes:
    """The answer to a message that is not understood."""
    return msgspec.json.encode({"message_type": "error", "error": reason, "accepted_metrics": METRICS})


class Frame:
    """What there is to show at one moment. ``number`` counts the frames; the rates are those since the sample ``before``."""

    def __init__(self, number: int, sample: Sample, before: Sample | None) -> None:
        self.number = number
        self.sample = sample
        self.before = before
        self._elapsed_s = 0.0 if before is None else sample.taken_s - before.taken_s
        self._totals = {} if before is None else {each.stream.stream_id: each.total for each in before.streams}
        self._errors = {} if before is None else {(e.tenant_id, e.stream): sum(e.errors.values()) for e in before.latencies}
        self._written: dict[tuple[str, Subscription], bytes] = {}

    def message(self, tenant_id: str, subscription: Subscription) -> bytes:
        """The message for one client; made once for all that want the same."""
        key = tenant_id, subscription
        written = self._written.get(key)
        if written is None:
            written = self._written[key] = msgspec.json.encode(self._told(tenant_id, subscription))
        return written

    def _told(self, tenant_id: str, subscription: Subscription) -> dict[str, Any]:
        sample, wanted = self.sample, subscription.metrics
        data: dict[str, Any] = {}
        unknown: list[str] = []
        if any(name in wanted for name in STREAM_METRICS):
            shown, unknown, left_out = self._streams(tenant_id, subscription.streams)
            latencies = {each.stream: each for each in sample.latencies if each.tenant_id == tenant_id}
            tell: Mapping[str, Callable[[StreamTotals], Any]] = {
                "throughput": self._throughput,
                "latency": lambda each: _latency(latencies.get(each.stream.name)),
                "error_rate": lambda each: self._error_rate(each, latencies.get(each.stream.name)),
            }
            metrics = [name for name in wanted if name in tell]
            data["streams"] = {each.stream.name: {name: tell[name](each) for name in metrics} for each in shown}
            data["streams_left_out"] = left_out
        if "consumer_lag" in wanted:
            data["consumer_lag"] = {
                each.name: {
                    "total_lag": each.lag,
                    "seconds_behind": each.seconds_behind,
                    "active_consumers": each.members,
                    "verdict": each.verdict,
                }
                for each in [each for each in sample.groups if each.tenant_id == tenant_id][:MAX_NAMES]
            }
        if "processors" in wanted:
            data["processors"] = self._processors(tenant_id)
        if "resources" in wanted:
            data["resources"] = self._resources()
        return {
            "message_type": "monitoring",
            "timestamp": rfc3339(sample.taken_at_ms),
            "subscription": subscription,
            "unknown_streams": unknown,
            "data": data,
        }

    def _streams(self, tenant_id: str, names: Sequence[str] | None) -> tuple[list[StreamTotals], list[str], int]:
        """The streams to show, the names that no stream has, and how many are left out because there are too many."""
        mine = {each.stream.name: each for each in self.sample.streams if each.stream.tenant_id == tenant_id}
        if names is not None:
            return [mine[name] for name in names if name in mine], [name for name in names if name not in mine], 0
        busiest = sorted(mine.values(), key=lambda each: (-(self._rate(each) or 0), -each.total))
        return busiest[:MAX_NAMES], [], max(0, len(busiest) - MAX_NAMES)

    def _rate(self, each: StreamTotals) -> float | None:
        return self._per_second(each.total - self._totals.get(each.stream.stream_id, 0))

    def _per_second(self, count: float) -> float | None:
        """``None`` while there is nothing to compare with."""
        return round(max(0.0, count) / self._elapsed_s, 3) if self._elapsed_s > 0 else None

    def _throughput(self, each: StreamTotals) -> dict[str, Any]:
        by_priority = {lane.value.lower(): count for lane, count in zip(LANES, each.events, strict=True)}
        return {"total": each.total, "events_per_second": self._rate(each), "by_priority": by_priority}

    def _error_rate(self, each: StreamTotals, latency: LatencySample | None) -> dict[str, Any]:
        errors = {} if latency is None else latency.errors
        total = sum(errors.values())
        before = self._errors.get((each.stream.tenant_id, each.stream.name), 0)
        return {"errors_total": total, "errors_per_second": self._per_second(total - before), "by_type": errors}

    def _processors(self, tenant_id: str) -> list[dict[str, Any]]:
        sample = self.sample
        mine = [each for each in sample.processors if each.tenant_id == tenant_id][:MAX_NAMES]
        return [
            {
                "processor_name": each.name,
                "flow": each.flow or None,
                "status": each.status,
                "events_in": each.events_in,
                "events_out": each.events_out,
                **{f"events_{name}": count for name, count in each.outcomes.items()},
                "events_in_state": each.held,
                "watermark_delay_seconds": None if each.watermark_ms is None else (sample.taken_at_ms - each.watermark_ms) / 1000,
            }
            for each in mine
        ]

    def _resources(self) -> dict[str, Any] | None:
        now = self.sample.resources
        if now is None:
            return None
        return {
            "cpu_seconds": now.cpu_seconds + now.workers_cpu_seconds,
            "memory_bytes": now.resident_bytes + now.workers_resident_bytes,
            "memory_utilization": round(1 - now.memory_available_bytes / now.memory_bytes, 4),
            "disk_free_bytes": now.disk_free_bytes,
            "disk_utilization": round(1 - now.disk_free_bytes / now.disk_bytes, 4),
            "open_files": now.open_files,
            "workers": now.workers,
            "log_bytes": now.files.get("log", 0),
            "history_backlog_records": self.sample.history_backlog,
        }


def _latency(latency: LatencySample | None) -> dict[str, Any]:
    """Seconds, of the last minute; null where there was none."""
    values: Sequence[float | None] = (None,) * len(QUANTILES) if latency is None else latency.quantiles
    told: dict[str, Any] = {f"p{part * 100:g}": value for part, value in zip(QUANTILES, values, strict=True)}
    return told | {"events": 0 if latency is None else latency.end_to_end.count}
