"""The meter: takes a sample when it is asked for one. While nobody asks, nothing is read."""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.monitoring.following import Follower
from event_streaming_bus.monitoring.groups import group_samples
from event_streaming_bus.monitoring.latency import QUANTILES, StreamLatency
from event_streaming_bus.monitoring.processors import Processors
from event_streaming_bus.monitoring.resources import resources
from event_streaming_bus.monitoring.sample import LatencySample, LoadSample, Sample
from event_streaming_bus.monitoring.totals import StreamTotals, Totals
from event_streaming_bus.store.storage import Storage

FRESH_S: Final = 1.0
"""A sample is given again for so long, if nothing was appended or changed meanwhile."""
READING_S: Final = 0.1
MAX_REFUSALS: Final = 1000
_KEPT_S: Final = 5.0
_MOST_OF_TIME: Final = 20
_log: Final = logging.getLogger(__name__)
T = TypeVar("T")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How many series there are at most of each kind, for each tenant; what is beyond is summed as ``(other)``.

    ``timed_streams`` is for all tenants together: a histogram is some sixty series.
    """

    streams: int = 1000
    groups: int = 200
    processors: int = 200
    timed_streams: int = 100

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Limits":
        """``ESB_METRICS_STREAMS`` and so on. Raises ``InvalidInputError`` for what is no number from 1 to 100,000."""
        found: dict[str, int] = {}
        for name in cls.__struct_fields__:
            variable = f"ESB_METRICS_{name.upper()}"
            text = environment.get(variable)
            if text is None:
                continue
            if not text.isdecimal() or not 1 <= int(text) <= 100_000:
                raise InvalidInputError(f"{variable}: expected a whole number, 1 to 100,000, got {text!r}")
            found[name] = int(text)
        return cls(**found)


class Meter:
    """Samples a data folder. Safe to use from any thread.

    ``history_backlog`` tells how many records of history are not loaded yet, ``load`` what the server is doing.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        history_backlog: Callable[[], int] | None = None,
        load: Callable[[], LoadSample | None] = lambda: None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits.from_environment()
        self._storage = storage
        self._totals = Totals(storage)
        self._follower = Follower(storage, self.limits.timed_streams)
        self._failures: Counter[str] = Counter()
        self._processors = _Kept("processors", Processors(storage).samples, self._failures)
        self._tenants: list[str] = []
        self._groups = _Kept("groups", lambda: group_samples(storage, self._tenants), self._failures)
        self._resources = _Kept("resources", lambda: resources(storage.folder), self._failures)
        self._backlog = _Kept("history", history_backlog or (lambda: 0), self._failures)
        self._load = load
        self._lock = threading.Lock()
        self._refusing = threading.Lock()
        self._refusals: Counter[tuple[str, str, str]] = Counter()
        self._last: tuple[int, Sample] | None = None

    def sample(self) -> Sample:
        """What there is to see now. Offsets, latencies and errors are as of this moment; lags, processors and resources are
        looked at every five seconds, or less often if that takes long: they never take more than a twentieth of the time.

        What cannot be looked at is left out, counted in ``failures`` and told in the log. Raises ``BusError`` if the streams
        cannot be read.
        """
        with self._lock:
            version = self._storage.log.version()
            if self._last is not None:
                before, sample = self._last
                if before == version and time.monotonic() - sample.taken_s < FRESH_S:
                    return sample
            made = self._sample()
            self._last = version, made
            return made

    def refused(self, tenant_id: str, stream: str, error_type: str, events: int) -> None:
        """Count events that were turned away, of which the log has no trace. Does not wait for a sample that is being taken."""
        with self._refusing:
            key = tenant_id, stream, error_type
            if key not in self._refusals and len(self._refusals) >= MAX_REFUSALS:
                return
            self._refusals[key] += events

    def close(self) -> None:
        """Let go of the data folder. Closing twice is harmless."""
        with self._lock:
            self._totals.close()

    def _sample(self) -> Sample:
        started_s, now_s = time.monotonic(), time.time()
        streams = self._totals.read()
        self._tenants = sorted({each.stream.tenant_id for each in streams})
        self._follow(streams)
        latencies = [_latency(tenant_id, name, latency, now_s) for (tenant_id, name), latency in self._follower.streams.items()]
        taken = {
            "groups": self._groups.value([]),
            "processors": self._processors.value([]),
            "resources": self._resources.value(None),
            "history_backlog": self._backlog.value(0),
        }
        return Sample(
            taken_at_ms=int(now_s * 1000),
            taken_s=started_s,
            took_s=time.monotonic() - started_s,
            streams=streams,
            latencies=latencies,
            unread_records=self._follower.backlog,
            skipped_records=self._follower.skipped,
            failures=dict(self._failures),
            load=self._load(),
            **taken,
        )

    def _follow(self, streams: list[StreamTotals]) -> None:
        try:
            self._follower.catch_up({each.stream.stream_id: each.stream for each in streams}, READING_S)
            with self._refusing:
                refusals, self._refusals = self._refusals, Counter()
            for (tenant_id, stream, error_type), events in refusals.items():
                self._follower.refused(tenant_id, stream, error_type, events)
        except BusError as error:
            self._failures["latencies"] += 1
            _log.warning("the history could not be followed for its latencies: %s", error.message)


class _Kept(Generic[T]):
    """A part of the sample that is looked at now and then."""

    def __init__(self, part: str, look: Callable[[], T], failures: Counter[str]) -> None:
        self._part = part
        self._look = look
        self._failures = failures
        self._value: T | None = None
        self._due_s = 0.0

    def value(self, default: Any) -> Any:
        """What was seen last, ``default`` if nothing could be."""
        started_s = time.monotonic()
        if started_s >= self._due_s:
            try:
                self._value = self._look()
            except Exception as error:  # whatever it is, the other metrics are not to suffer for it
                self._value = None
                self._failures[self._part] += 1
                if isinstance(error, BusError):
                    _log.warning("the %s could not be sampled: %s", self._part, error.message)
                else:
                    _log.exception("the %s could not be sampled", self._part)
            now_s = time.monotonic()
            self._due_s = now_s + max(_KEPT_S, _MOST_OF_TIME * (now_s - started_s))
        return default if self._value is None else self._value


def _latency(tenant_id: str, stream: str, latency: StreamLatency, now_s: float) -> LatencySample:
    return LatencySample(
        tenant_id=tenant_id,
        stream=stream,
        quantiles=tuple(latency.recent.now(now_s).quantiles(QUANTILES)),
        end_to_end=latency.end_to_end.copy(),
        stages={stage: histogram.copy() for stage, histogram in latency.stages.items()},
        errors=dict(latency.errors),
    )
