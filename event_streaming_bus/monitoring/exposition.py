"""Metrics as text: in Prometheus' format 0.0.4 and in OpenMetrics 1.0.0.

Labels stand in the order of the table of metrics; what is said of a quantile or a bucket comes first.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from event_streaming_bus.monitoring.histogram import BOUNDS, Histogram
from event_streaming_bus.monitoring.metrics import Family, Kind, Quantiles
from event_streaming_bus.monitoring.protobuf import protobuf

_ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_ESCAPED_HELP: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})
_PROTO: Final = "io.prometheus.client.MetricFamily"

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROTOBUF: Final = f"application/vnd.google.protobuf; proto={_PROTO}; encoding=delimited"


def written(families: Iterable[Family], content_type: str) -> bytes:
    """The metrics in one of the three formats."""
    if content_type == PROTOBUF:
        return protobuf(families)
    return text(families) if content_type == TEXT else openmetrics(families)


def text(families: Iterable[Family]) -> bytes:
    """Prometheus' text format."""
    lines: list[str] = []
    for family in families:
        name, kind, _, told = family.metric
        lines += (f"# HELP {name} {told.translate(_ESCAPED_HELP)}\n", f"# TYPE {name} {kind.value}\n")
        lines += _series(family, name)
    return "".join(lines).encode()


def openmetrics(families: Iterable[Family]) -> bytes:
    """OpenMetrics 1.0.0. A gauge whose name ends in ``_total`` is of unknown type there, since only counters may be named so."""
    lines: list[str] = []
    for family in families:
        name, kind, _, told = family.metric
        base, type_name = name, kind.value
        if kind is Kind.COUNTER:
            base = name.removesuffix("_total")
        elif name.endswith("_total"):
            type_name = "unknown"
        lines += (f"# TYPE {base} {type_name}\n", f"# HELP {base} {told.translate(_ESCAPED)}\n")
        lines += _series(family, name)
    lines.append("# EOF\n")
    return "".join(lines).encode()


def _series(family: Family, name: str) -> Iterator[str]:
    names = family.metric.labels
    for values, value in family.series:
        labels = _labels(names, values)
        if type(value) is int:
            yield f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"
        elif isinstance(value, Histogram):
            yield from _histogram(name, labels, value)
        elif isinstance(value, Quantiles):
            more = "," + labels if labels else ""
            yield from (f'{name}{{quantile="{part}"{more}}} {_number(each)}\n' for part, each in value.values)
            yield from _totals(name, labels, value.all)
        elif labels:
            yield f"{name}{{{labels}}} {_number(value)}\n"
        else:
            yield f"{name} {_number(value)}\n"


@lru_cache(maxsize=1 << 15)  # they are the same with each scrape
def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join([f'{name}="{value.translate(_ESCAPED)}"' for name, value in zip(names, values, strict=True)])


def _histogram(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    more = "," + labels if labels else ""
    for bound, count in zip(BOUNDS, histogram.below(), strict=True):
        yield f'{name}_bucket{{le="{bound!r}"{more}}} {count}\n'
    yield f'{name}_bucket{{le="+Inf"{more}}} {histogram.count}\n'
    yield from _totals(name, labels, histogram)


def _totals(name: str, labels: str, histogram: Histogram) -> tuple[str, str]:
    braced = f"{{{labels}}}" if labels else ""
    return f"{name}_sum{braced} {_number(histogram.total_s)}\n", f"{name}_count{braced} {histogram.count}\n"


def _number(value: float) -> str:
    if math.isfinite(value) and value == int(value):
        return str(int(value))
    return "NaN" if math.isnan(value) else repr(value)


# --- content negotiation ----------------------------------------------------------------------------------------------


class _Range(NamedTuple):
    media_type: str
    parameters: dict[str, str]
    quality: float


def negotiated(accept: str) -> str:
    """The content type to answer with for an ``Accept`` header: what is preferred of what there is, else Prometheus' text."""
    best, best_quality = TEXT, 0.0
    for each in _ranges(accept):
        offered = _offered(each)
        if offered is not None and each.quality > best_quality:
            best, best_quality = offered, each.quality
    return best


def _offered(wanted: _Range) -> str | None:
    version = wanted.parameters.get("version")
    match wanted.media_type:
        case "application/vnd.google.protobuf":
            is_ours = wanted.parameters.get("proto") == _PROTO and wanted.parameters.get("encoding") == "delimited"
            return PROTOBUF if is_ours else None
        case "application/openmetrics-text":
            return OPENMETRICS if version in (None, "0.0.1", "1.0.0") else None
        case "text/plain":
            return TEXT if version in (None, "0.0.4") else None
        case "text/*" | "*/*":
            return TEXT
    return None


def _ranges(accept: str) -> Sequence[_Range]:
    found = []
    for part in accept.split(","):
        media_type, *rest = (piece.strip() for piece in part.split(";"))
        parameters = {name.strip().lower(): value.strip().strip('"') for name, _, value in (p.partition("=") for p in rest)}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        found.append(_Range(media_type.lower(), parameters, quality))
    return found
