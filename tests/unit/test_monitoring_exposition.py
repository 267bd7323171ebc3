"""The metrics as they are written for Prometheus, and what is said of them elsewhere."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from event_streaming_bus.models import EventConfig, EventPriority
from event_streaming_bus.monitoring import Limits, Meter
from event_streaming_bus.monitoring.exposition import OPENMETRICS, PROTOBUF, TEXT, negotiated, openmetrics, text, written
from event_streaming_bus.monitoring.families import View
from event_streaming_bus.monitoring.following import ERROR_TYPES
from event_streaming_bus.monitoring.histogram import BOUNDS
from event_streaming_bus.monitoring.metrics import METRICS, Family, Kind
from event_streaming_bus.monitoring.metrics import Metric as Described
from event_streaming_bus.testing import temporary_bus

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"\b(?:event_streaming|process)_[a-z_]+\b")


@pytest.fixture
def families() -> list[Family]:
    with temporary_bus() as bus:
        meter = Meter(bus.storage)
        bus.create_stream("orders")
        config = EventConfig(event_type="test", priority=EventPriority.CRITICAL)
        bus.publishing.submit(config, list(range(20)), stream_id="orders").result()
        found = View("default", meter.limits).families(meter.sample())
        meter.close()
        return found


def series_of(parsed: list[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {(s.name, frozenset(s.labels.items())): s.value for family in parsed for s in family.samples}


def test_both_texts_are_read_by_prometheus_parsers_and_say_the_same(families: list[Family]) -> None:
    plain = list(text_string_to_metric_families(text(families).decode()))
    modern = list(openmetrics_parser.text_string_to_metric_families(openmetrics(families).decode()))
    assert series_of(plain) == series_of(modern)
    assert len(series_of(plain)) == sum(len(family.samples) for family in plain)
    assert len(plain) == len(modern) == len(METRICS)
    types = {family.name: family.type for family in modern}
    assert types["event_streaming_throughput"] == "counter"
    assert types["event_streaming_latency_seconds"] == "summary"
    assert types["event_streaming_latency_histogram_seconds"] == "histogram"
    assert types["event_streaming_consumer_lag_total"] == "unknown"


@given(st.text(max_size=20))
def test_any_name_can_be_a_label(name: str) -> None:
    family = Family(Described("event_streaming_x", Kind.GAUGE, ("group", "b"), 'a "\\\n b'), [((name, "b"), 0.1)])
    if "\r" not in name:  # Python's parsers end a line there, which the format does not
        ((plain,),) = (found.samples for found in text_string_to_metric_families(text([family]).decode()))
        assert plain.labels == {"group": name, "b": "b"}
        ((modern,),) = (
            found.samples for found in openmetrics_parser.text_string_to_metric_families(openmetrics([family]).decode())
        )
        assert modern.labels == {"group": name, "b": "b"}
    (message,) = delimited(written([family], PROTOBUF))
    (series,) = (value for number, value in fields(message) if number == 4)
    labels = dict([data.decode() for _, data in fields(pair)] for number, pair in fields(series) if number == 1)
    assert {"group": "", **labels} == {"group": name, "b": "b"}


def test_protocol_buffers_have_native_histograms(families: list[Family]) -> None:
    messages = delimited(written(families, PROTOBUF))
    by_name = {fields(message)[0][1].decode(): fields(message) for message in messages}
    assert set(by_name) == {family.metric.name for family in families if family.series}
    (series,) = (value for number, value in by_name["event_streaming_latency_histogram_seconds"] if number == 4)
    (histogram,) = (value for number, value in fields(series) if number == 7)
    values = fields(histogram)
    told = dict(values)
    assert told[1] == 20
    assert struct.unpack("<d", told[2])[0] > 0
    assert told[5] == 6  # schema 3, zigzag
    assert len([number for number, _ in values if number == 3]) == len(BOUNDS)
    sizes = [dict(fields(span))[2] for number, span in values if number == 12]
    deltas = [(value >> 1) ^ -(value & 1) for number, value in values if number == 13]
    assert sum(sizes) == len(deltas)
    counts = [sum(deltas[: i + 1]) for i in range(len(deltas))]
    assert sum(counts) == 20


def delimited(data: bytes) -> list[bytes]:
    return [value for _, value in fields(b"".join(_tagged(data)))]


def _tagged(data: bytes) -> Iterator[bytes]:
    """Delimited messages as fields of one message."""
    while data:
        size, rest = varint(data)
        yield b"\x0a" + data[: len(data) - len(rest)] + rest[:size]
        data = rest[size:]


def fields(message: bytes) -> list[tuple[int, Any]]:
    """The fields of a message of protocol buffers: numbers of whole ones, bytes of all others."""
    found: list[tuple[int, Any]] = []
    while message:
        tag, message = varint(message)
        if tag & 7 == 0:
            value, message = varint(message)
            found.append((tag >> 3, value))
            continue
        size = 8
        if tag & 7 == 2:
            size, message = varint(message)
        found.append((tag >> 3, message[:size]))
        message = message[size:]
    return found


def varint(data: bytes) -> tuple[int, bytes]:
    number = shift = place = 0
    while True:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, data[place:]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0,text/plain;version=0.0.4;q=0.2", TEXT),
        ("text/plain;version=0.0.4,application/openmetrics-text;q=0.9", TEXT),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3",
            PROTOBUF,
        ),
        ("application/vnd.google.protobuf;proto=else;encoding=delimited, text/plain;q=nonsense", TEXT),
    ],
)
def test_the_format_is_what_the_client_prefers(accept: str, expected: str) -> None:
    assert negotiated(accept) == expected


# --- what is written down elsewhere -------------------------------------------------------------------------------------


def test_the_table_of_the_documentation_is_that_of_the_code() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    rows = re.findall(r"^\| `((?:event_streaming|process)_\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", page, re.M)
    written_down = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), told) for name, kind, labels, told in rows}
    assert written_down == {m.name: (m.kind.value, m.labels, m.help) for m in METRICS.values()}
    assert set(re.findall(r"^\| `(\w+)` \| \w+ ", page, re.M)) >= ERROR_TYPES.keys()
    for field in Limits.__struct_fields__:
        assert re.search(rf"^\| `ESB_METRICS_{field.upper()}` \| {getattr(Limits(), field)} \|", page, re.M)


def known(name: str) -> bool:
    metric = METRICS.get(name)
    if metric is not None:
        return metric.kind is not Kind.HISTOGRAM
    base, _, suffix = name.rpartition("_")
    found = METRICS.get(base)
    return found is not None and suffix in {Kind.HISTOGRAM: ("bucket", "sum", "count"), Kind.SUMMARY: ("sum", "count")}.get(
        found.kind, ()
    )


def check_expression(expression: str) -> None:
    """What can be said of PromQL without Prometheus: it falls into tokens, brackets match, and its metrics and labels exist."""
    token = r'\s+|"(?:[^"\\]|\\.)*"|\$?[A-Za-z_]\w*|\d+(?:\.\d+)?[smhd]?|[=!]~|[=!<>]=|[-+*/<>=(){}\[\],]'
    assert re.fullmatch(f"(?:{token})+", expression), expression
    bare = re.sub(r'"[^"]*"', '""', expression)
    for opening, closing in ("()", "[]", "{}"):
        assert bare.count(opening) == bare.count(closing), expression
    names = NAME.findall(bare)
    assert names or bare.startswith("up{"), expression
    for name in names:
        assert known(name), f"{name} in {expression}"
    labels = set(re.findall(r"(\w+)\s*[=!]~?\"", bare)) | {
        label.strip() for group in re.findall(r"by \(([^)]*)\)", bare) for label in group.split(",")
    }
    possible = {label for name in names for label in _labels_of(name)} | {"job"}
    assert labels <= possible, f"{labels - possible} in {expression}"


def _labels_of(name: str) -> set[str]:
    metric = METRICS.get(name) or METRICS[name.rpartition("_")[0]]
    more = {Kind.SUMMARY: {"quantile"}, Kind.HISTOGRAM: {"le"}}.get(metric.kind, set())
    return {*metric.labels, *more}


def expressions(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "expr":
                yield value
            else:
                yield from expressions(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from expressions(item)


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() -> None:
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    dashboard = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
    found = [*expressions(alerts), *expressions(dashboard)]
    assert len(found) > 30
    for expression in found:
        check_expression(expression)
    asked = {name for name in METRICS for expression in found if name in expression}
    assert METRICS.keys() - asked <= {"process_open_fds", "process_start_time_seconds", "event_streaming_memory_bytes"} | {
        "event_streaming_monitoring_unread_records"
    }
    for variable in dashboard["templating"]["list"][1:]:
        assert NAME.findall(variable["query"]["query"])[0] in METRICS


def test_prometheus_is_told_to_scrape_what_there_is() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert config["rule_files"] == ["alerts.yml"]
    assert all(f'job="{job["job_name"]}"' in e for e in expressions(config) if "job=" in e)
