"""What the meter sees of streams, groups and processors, and what bounds it."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from bytewax.testing import run_main
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import EventConfig, EventPriority, InvalidEventPolicy, StreamConfig
from event_streaming_bus.monitoring import Limits, Meter
from event_streaming_bus.monitoring.exposition import text
from event_streaming_bus.monitoring.families import View
from event_streaming_bus.monitoring.histogram import BOUNDS, Histogram
from event_streaming_bus.monitoring.slots import OTHER, Slots
from event_streaming_bus.monitoring.timeline import MAX_RUNS, Timeline
from event_streaming_bus.testing import temporary_bus


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


@pytest.fixture
def meter(bus: Bus) -> Iterator[Meter]:
    meter = Meter(bus.storage)
    yield meter
    meter.close()


def publish(bus: Bus, stream: str, rows: Sequence[Any], **config: Any) -> None:
    bus.publishing.submit(EventConfig(event_type="test", **config), list(rows), stream_id=stream).result()


def scraped(meter: Meter, tenant_id: str | None = "default", view: View | None = None) -> dict[tuple[str, ...], float]:
    """Every sample of the page, by name and the values of its labels, sorted by the labels' names."""
    view = view or View(tenant_id, meter.limits)
    page = text(view.families(meter.sample())).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


# --- what is seen -------------------------------------------------------------------------------------------------------


def test_throughput_counts_what_was_ever_appended_whoever_did_it_and_whatever_is_kept(bus: Bus, meter: Meter) -> None:
    bus.log.create_stream(StreamConfig(name="orders", partitions=3, retention_bytes=1))
    for n in range(30):
        publish(bus, "orders", [n], priority=EventPriority.HIGH)
    publish(bus, "orders", [1, 2])
    assert bus.log.enforce_retention() > 0
    found = scraped(meter)
    assert found["event_streaming_throughput_total", "high", "orders"] == 30
    assert found["event_streaming_throughput_total", "normal", "orders"] == 2
    assert found["event_streaming_throughput_total", "low", "orders"] == 0
    assert not [key for key in found if key[-1].startswith("_")]


def test_the_latency_of_a_stream_that_nothing_reads_is_that_of_publishing(bus: Bus, meter: Meter) -> None:
    bus.create_stream("orders")
    publish(bus, "orders", [1, 2, 3])
    found = scraped(meter)
    assert 0 < found["event_streaming_latency_seconds", "0.5", "orders"] < 10
    assert found["event_streaming_latency_seconds_count", "orders"] == 3
    assert found["event_streaming_stage_latency_seconds_count", "publish", "orders"] == 3
    assert ("event_streaming_stage_latency_seconds_count", "processing", "orders") not in found


def test_once_something_reads_a_stream_its_latency_goes_to_where_that_was_done(bus: Bus, meter: Meter) -> None:
    bus.create_stream("orders")
    bus.create_stream("paid")
    publish(bus, "orders", [{"x": n} for n in range(10)])
    time.sleep(0.3)
    run_flow(bus, {"filter_expression": "payload.x < 4"})
    publish(bus, "orders", [{"x": 1}])
    found = scraped(meter)
    assert found["event_streaming_latency_seconds_count", "orders"] == 20  # published, and processed; the last only published
    assert found["event_streaming_latency_seconds", "0.95", "orders"] > 0.25
    assert found["event_streaming_stage_latency_seconds_count", "processing", "orders"] == 10
    assert found["event_streaming_stage_latency_seconds_sum", "processing", "orders"] > 10 * 0.3
    assert found["event_streaming_stage_latency_seconds_count", "publish", "orders"] == 11


def run_flow(bus: Bus, logic: dict[str, Any], **more: Any) -> None:
    data = {
        "processors": [
            {
                "processor_name": "few",
                "processor_type": "FILTER",
                "processing_logic": logic,
                "source_stream_id": "orders",
                "target_stream_id": "paid",
                **more,
            }
        ]
    }
    plan = deploy(parse_flow(data, name="flow"), bus.storage)
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))


def test_an_event_that_waited_for_its_time_is_not_taken_for_a_slow_one(bus: Bus, meter: Meter) -> None:
    bus.create_stream("orders")
    publish(bus, "orders", [1], deliver_at=time.time_ns() // 1_000_000 + 300)
    split = bus.log.find_stream("default", "orders").splits()[2]
    assert bus.log.wait({split: 0}, 10)
    found = scraped(meter)
    assert found["event_streaming_throughput_total", "normal", "orders"] == 1
    assert ("event_streaming_latency_seconds_count", "orders") not in found


def test_the_balance_of_a_processor_adds_up(bus: Bus, meter: Meter) -> None:
    bus.create_stream("orders")
    bus.create_stream("paid")
    publish(bus, "orders", [{"x": 1}, {"x": 9}, {"x": "?"}, {"x": 2}], timestamp=time.time_ns() // 1_000_000 - 60_000)
    run_flow(bus, {"filter_expression": "payload.x < 5"}, error_handling_strategy="DEAD_LETTER")
    found = scraped(meter)
    outcomes = {key[2]: value for key, value in found.items() if key[0] == "event_streaming_processor_outcomes_total"}
    assert outcomes == {"passed": 2, "filtered": 1, "dead": 1, "late": 0, "skipped": 0}
    assert found["event_streaming_processor_events_in_total", "flow", "few"] == 4
    assert found["event_streaming_processor_events_out_total", "flow", "few"] == 2
    assert found["event_streaming_processor_held_events", "flow", "few"] == 0
    assert found["event_streaming_errors_total", "orders", "processing"] == 1
    assert 60 <= found["event_streaming_processor_watermark_delay_seconds", "flow", "few"] < 120


async def test_groups_tell_how_far_behind_they_are(bus: Bus, meter: Meter) -> None:
    bus.create_stream("orders")
    publish(bus, "orders", range(5))
    async with bus.consumer("mail", ["orders"]) as consumer:
        taken = 0
        while taken < 3:
            taken += len(await consumer.poll(3 - taken, timeout_s=1))
        await consumer.commit()
    found = scraped(meter)
    assert found["event_streaming_consumer_lag_total", "mail"] == 2
    assert found["event_streaming_consumer_lag_seconds", "mail"] > 0
    assert found["event_streaming_consumer_severity", "mail"] == 0
    assert found["event_streaming_consumer_members", "mail"] == 0
    assert found["event_streaming_stage_latency_seconds_count", "delivery", "orders"] == 3


def test_events_that_break_their_schema_count_as_errors_whether_they_are_kept_or_refused(bus: Bus, meter: Meter) -> None:
    schema = bus.schemas.register({"schema_name": "s", "json_schema": {"type": "object"}})
    policy = InvalidEventPolicy.DEAD_LETTER
    bus.log.create_stream(StreamConfig(name="orders", schema_id=schema.schema_id, on_invalid=policy))
    publish(bus, "orders", [{}, 1, 2])
    assert scraped(meter)["event_streaming_errors_total", "orders", "validation"] == 2
    meter.refused("default", "orders", "validation", 3)
    publish(bus, "orders", [{}])
    assert scraped(meter)["event_streaming_errors_total", "orders", "validation"] == 5


def test_what_happened_before_the_meter_was_made_is_not_in_latencies_and_errors(bus: Bus) -> None:
    bus.create_stream("orders")
    publish(bus, "orders", [1])
    meter = Meter(bus.storage)
    found = scraped(meter)
    assert found["event_streaming_throughput_total", "normal", "orders"] == 1
    assert ("event_streaming_latency_seconds_count", "orders") not in found
    meter.close()


def test_a_sample_is_given_again_while_nothing_changes(bus: Bus, meter: Meter) -> None:
    bus.create_stream("orders")
    assert meter.sample() is meter.sample()
    before = meter.sample()
    publish(bus, "orders", [1])
    assert meter.sample().streams[0].total == before.streams[0].total + 1


def test_a_part_that_fails_is_counted_and_the_others_are_told(bus: Bus) -> None:
    def fails() -> int:
        raise OSError("gone")

    meter = Meter(bus.storage, history_backlog=fails)
    bus.create_stream("orders")
    found = scraped(meter)
    assert found["event_streaming_monitoring_failures_total", "history"] == 1
    assert ("event_streaming_throughput_total", "low", "orders") in found
    meter.close()


# --- bounds -------------------------------------------------------------------------------------------------------------


def test_streams_beyond_the_bound_are_summed(bus: Bus) -> None:
    meter = Meter(bus.storage, limits=Limits(streams=2, timed_streams=2))
    view = View("default", meter.limits)
    for n in range(5):
        bus.create_stream(f"s{n}")
        publish(bus, f"s{n}", range(n + 1))
    found = scraped(meter, view=view)
    totals = {key[2]: value for key, value in found.items() if key[:2] == ("event_streaming_throughput_total", "normal")}
    assert totals == {"s0": 1, "s1": 2, OTHER: 12}
    assert {key[1] for key in found if key[0] == "event_streaming_latency_seconds_count"} == {"s0", "s1", OTHER}
    assert found["event_streaming_latency_seconds_count", OTHER] == 12
    bus.log.drop_stream(bus.log.find_stream("default", "s4").stream_id)
    assert (
        scraped(meter, view=view)["event_streaming_throughput_total", "normal", OTHER] == 12
    )  # a sum that fell would count anew
    meter.close()


def test_a_name_keeps_its_series_until_it_is_gone() -> None:
    slots: Slots[str] = Slots(2)
    assert slots.settle({"a": (1,), "b": (2,)}) == (["a", "b"], None)
    assert slots.settle({"c": (4,), "b": (2,), "a": (1,)}) == (["a", "b"], [4])
    assert slots.settle({"c": (4,), "b": (2,)}) == (["b"], [4])
    assert slots.settle({"d": (8,), "c": (5,), "b": (2,)}) == (["b", "d"], [5])


def test_the_bounds_are_settings() -> None:
    assert Limits.from_environment({"ESB_METRICS_STREAMS": "7"}) == Limits(streams=7)
    with pytest.raises(InvalidInputError, match="ESB_METRICS_GROUPS: expected a whole number, 1 to 100,000, got 'many'"):
        Limits.from_environment({"ESB_METRICS_GROUPS": "many"})


def test_tenants_see_their_own_and_all_are_told_apart_by_a_label(bus: Bus, meter: Meter) -> None:
    for tenant in ("default", "acme"):
        bus.create_stream("orders", tenant_id=tenant)
    assert [key for key in scraped(meter, "acme") if key[0] == "event_streaming_stored_bytes"] == [
        ("event_streaming_stored_bytes", "orders")
    ]
    told = {key[1:] for key in scraped(meter, None) if key[0] == "event_streaming_stored_bytes"}
    assert told == {("orders", "default"), ("orders", "acme")}
    page = text(View(None, meter.limits).families(meter.sample())).decode()
    assert 'event_streaming_throughput_total{stream="orders",priority="high",tenant="acme"} 0\n' in page
    assert 'event_streaming_file_bytes{file="log"} ' in page


# --- histograms ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-6, 1e5), min_size=1), st.sampled_from((0.5, 0.95, 0.99)))
def test_a_quantile_is_off_by_less_than_five_percent(times: list[float], part: float) -> None:
    histogram = Histogram()
    for seconds in times:
        histogram.observe(seconds)
    true = sorted(times)[max(0, math.ceil(part * len(times)) - 1)]
    assert histogram.quantiles([part])[0] == pytest.approx(true, rel=0.046)
    assert histogram.below() == [sum(seconds <= bound for seconds in times) for bound in BOUNDS]
    assert len(histogram.counts) <= 321


def test_there_is_no_quantile_of_nothing() -> None:
    assert all(map(math.isnan, Histogram().quantiles([0.5, 0.99])))


def test_the_native_buckets_are_those_that_were_counted() -> None:
    histogram, chance = Histogram(), random.Random(4)
    for _ in range(500):
        histogram.observe(chance.lognormvariate(-3, 3), chance.randint(1, 9))
    spans, deltas = histogram.native()
    found, index, count, rest = {}, 0, 0, iter(deltas)
    for left_out, size in spans:
        index += left_out
        for _ in range(size):
            count += next(rest)
            found[index] = count
            index += 1
    assert found == histogram.counts
    assert sum(found.values()) == histogram.count


def test_a_timeline_forgets_details_and_never_tells_a_time_too_late() -> None:
    timeline = Timeline()
    for n in range(10_000):
        timeline.add(2 * n, 2 * n + 2, 1000 * n)
    parts = list(timeline.between(0, 20_000))
    assert len(parts) <= MAX_RUNS
    assert sum(end - begin for begin, end, _ in parts) == 20_000
    assert all(accepted_us <= 1000 * (begin // 2) for begin, _, accepted_us in parts)
    assert list(timeline.between(19_999, 20_005)) == [(19_999, 20_000, 1000 * 9999)]
    assert list(timeline.between(20_000, 20_005)) == []
