"""Traces: which spans an event makes on its way, below which others, and what they say."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from bytewax.testing import run_main
from flow_steps import step
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from event_streaming_bus import tracing
from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import ValidationFailedError
from event_streaming_bus.flow_testing import run_flow
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.flow_tests import GivenEvent
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, EventConfig, StreamConfig
from event_streaming_bus.routing.trial import try_routes
from event_streaming_bus.testing import read_all, temporary_bus
from event_streaming_bus.tracing.exporting import wanted_exporters
from event_streaming_bus.tracing.spans import MAX_LINKS, MAX_SPANS
from event_streaming_bus.tracing.traceparent import parsed, sampled

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = CALLER[:-2] + "00"
CREATED = EventConfig(event_type="order.created")


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        for name in ("orders", "big", "copies"):
            opened.create_stream(name)
        yield opened


class Traced:
    """What was traced so far."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if name in (None, span.name)]

    def span(self, name: str) -> ReadableSpan:
        (found,) = self.spans(name)
        return found

    def clear(self) -> None:
        self._exporter.clear()


@pytest.fixture
def traced() -> Iterator[Traced]:
    """Tracing is on."""
    found = Traced()
    tracing.use(found.provider)
    yield found
    tracing.use(None)


def publish(bus: Bus, *payloads: Any, config: Any = CREATED, stream: str = "orders") -> None:
    bus.publishing.submit(config, payloads, stream_id=stream).result()


def run(bus: Bus, *processors: dict[str, Any]) -> None:
    """Run a flow of these processors over what the streams hold."""
    plan = deploy(parse_flow({"processors": list(processors)}, name="f"), bus.storage)
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))


def route(bus: Bus, **rule: Any) -> None:
    service = bus.routing
    service.apply(service.read([{"name": "r", "stream": "orders", **rule}], ["routes[0]"], "default"), "default")


def big(**more: Any) -> dict[str, Any]:
    logic = {"filter_expression": "payload.total > 10"}
    given = {"processor_name": "only_big", "processor_type": "FILTER", "processing_logic": logic}
    return given | {"source_stream_id": "orders", "target_stream_id": "big"} | more


def traceparent(span: ReadableSpan) -> str:
    return _text(span.context)


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else _text(span.parent)


def _text(context: SpanContext | None) -> str:
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def carried(bus: Bus, stream: str) -> list[str | None]:
    return [event.traceparent for event in read_all(bus, stream)]


async def delivered(bus: Bus, *streams: str, ack: bool = True, **options: Any) -> list[Event]:
    """What a consumer of the group g is delivered at once."""
    async with bus.consumer("g", list(streams), auto_commit=False, **options) as consumer:
        events = await consumer.poll(timeout_s=2)
        for event in events if ack else ():
            assert consumer.ack(event)
    return events


async def test_one_trace_goes_from_publishing_through_a_flow_to_delivery(bus: Bus, traced: Traced) -> None:
    publish(bus, {"total": 20}, config=EventConfig(event_type="order.created", traceparent=CALLER))
    run(bus, big())
    (event,) = await delivered(bus, "big")
    sent, processed, handed_out = map(traced.span, ("publish orders", "process orders", "deliver big"))
    assert len(traced.spans()) == 3
    assert parent_of(sent) == CALLER
    assert carried(bus, "orders") == [traceparent(sent)]
    assert parent_of(processed) == traceparent(sent)
    assert event.traceparent == traceparent(processed)
    assert parent_of(handed_out) == traceparent(processed)
    assert [span.kind for span in traced.spans()] == [SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CONSUMER]
    assert all(span.start_time <= span.end_time for span in traced.spans())  # type: ignore[operator]


async def test_spans_say_what_the_conventions_for_messaging_want(bus: Bus, traced: Traced) -> None:
    publish(bus, {"total": 20}, config=EventConfig(event_type="order.created", event_id="e1"))
    run(bus, big())
    await delivered(bus, "big")
    common = {"messaging.system": "event_streaming_bus", "esb.tenant.id": "default"}
    assert [dict(span.attributes or {}) for span in traced.spans()] == [
        common
        | {
            "messaging.destination.name": "orders",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.message.id": "e1",
        },
        common
        | {
            "messaging.destination.name": "orders",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": "f",
            "esb.flow": "f",
            "esb.processors": ("only_big",),
        },
        common
        | {
            "messaging.destination.name": "big",
            "messaging.operation.name": "deliver",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": "g",
            "esb.outcome": "done",
        },
    ]


def test_publishing_is_below_the_span_of_the_caller(bus: Bus, traced: Traced) -> None:
    with traced.provider.get_tracer("app").start_as_current_span("checkout"):
        publish(bus, {"total": 1})
    assert parent_of(traced.span("publish orders")) == traceparent(traced.span("checkout"))


def test_publishing_without_a_caller_begins_a_trace(bus: Bus, traced: Traced) -> None:
    publish(bus, {"total": 1})
    sent = traced.span("publish orders")
    assert sent.parent is None
    assert carried(bus, "orders") == [traceparent(sent)]


def test_a_batch_has_one_span_for_each_trace(bus: Bus, traced: Traced) -> None:
    other = CALLER.replace("4bf9", "ffff")
    configs = [EventConfig(event_type="t", traceparent=each) for each in (CALLER, other, CALLER, None)]
    publish(bus, *({"n": n} for n in range(4)), config=configs)
    counts = {parent_of(span): (span.attributes or {}).get("messaging.batch.message_count") for span in traced.spans()}
    assert counts == {CALLER: 2, other: None, None: None}
    first, second, third, fourth = carried(bus, "orders")
    assert first == third
    assert len({first, second, fourth}) == 3


@pytest.mark.parametrize("given", [UNSAMPLED, "00-abc", "ff" + CALLER[2:], ""])
def test_what_is_not_recorded_or_no_traceparent_is_carried_as_it_is(bus: Bus, traced: Traced, given: str) -> None:
    publish(bus, {"total": 20}, config=EventConfig(event_type="t", traceparent=given))
    run(bus, big())
    assert carried(bus, "orders") == carried(bus, "big") == [given]
    assert traced.spans() == []


def test_a_sampler_that_says_no_makes_no_spans_on_the_way(bus: Bus) -> None:
    found = Traced()
    found.provider.sampler = ALWAYS_OFF
    tracing.use(found.provider)
    try:
        publish(bus, {"total": 20})
        run(bus, big())
    finally:
        tracing.use(None)
    assert found.spans() == []
    (told,) = carried(bus, "big")
    assert parsed(told) is not None
    assert sampled(told) is None


def test_what_is_refused_is_an_error(bus: Bus, traced: Traced) -> None:
    schema = bus.schemas.register({"schema_name": "s", "json_schema": {"properties": {"n": {"type": "integer"}}}})
    bus.log.create_stream(StreamConfig(name="guarded", schema_id=schema.schema_id))
    with pytest.raises(ValidationFailedError):
        publish(bus, {"n": "text"}, stream="guarded")
    sent = traced.span("publish guarded")
    assert sent.status.status_code is StatusCode.ERROR
    assert (sent.attributes or {})["error.type"] == "ValidationFailedError"


def test_a_trial_of_a_flow_makes_no_spans(bus: Bus, traced: Traced) -> None:
    given = GivenEvent(payload={"k": 1}, key="k", timestamp_ms=0)
    trial = step("all", "FILTER", {"filter_expression": "true"}, target_stream_id="out")
    assert len(run_flow(parse_flow({"processors": [trial]}, name="f"), {"in": [given]}).outputs["out"]) == 1
    assert traced.spans("process in") == []


def test_a_route_is_below_its_publishing_and_copies_come_from_it(bus: Bus, traced: Traced) -> None:
    route(bus, to=["copies"])
    publish(bus, {"total": 20})
    sent, routed = traced.span("publish orders"), traced.span("route orders")
    assert parent_of(routed) == traceparent(sent)
    assert carried(bus, "orders") == [traceparent(sent)]
    assert carried(bus, "copies") == [traceparent(routed)]
    attributes = routed.attributes or {}
    assert (attributes["esb.route.rules"], attributes["esb.route.to"]) == (("r",), ("copies",))


def test_events_that_no_rule_takes_make_no_span_of_routing(bus: Bus, traced: Traced) -> None:
    route(bus, to=["copies"], match="payload.total > 100")
    publish(bus, {"total": 20})
    assert traced.spans("route orders") == []


def test_trying_rules_out_makes_no_span(bus: Bus, traced: Traced) -> None:
    route(bus, to=["copies"])
    publish(bus, {"total": 20})
    traced.clear()
    assert try_routes(bus.storage, "orders")["events_to"] == {"copies": 1}
    assert traced.spans() == []


def test_events_of_one_trace_share_the_span_of_a_stage(bus: Bus, traced: Traced) -> None:
    publish(bus, *({"total": n} for n in range(9, 13)))
    run(bus, big())
    processed = traced.span("process orders")
    assert (processed.attributes or {})["messaging.batch.message_count"] == 4
    assert carried(bus, "big") == [traceparent(processed)] * 2


def test_more_traces_than_there_may_be_spans_share_one_that_is_linked_to_them(bus: Bus, traced: Traced) -> None:
    many = [f"00-{n:032x}-{1:016x}-01" for n in range(1, MAX_SPANS + MAX_LINKS + 11)]
    tracing.use(None)
    publish(bus, *({"total": 20} for _ in many), config=[EventConfig(event_type="t", traceparent=each) for each in many])
    tracing.use(traced.provider)
    run(bus, big())
    spans = traced.spans("process orders")
    assert len(spans) == MAX_SPANS + 1
    (shared,) = [span for span in spans if span.links]
    assert shared.parent is None
    assert len(shared.links) == MAX_LINKS
    assert (shared.attributes or {})["messaging.batch.message_count"] == MAX_LINKS + 10
    assert carried(bus, "big")[MAX_SPANS:] == many[MAX_SPANS:]


def test_an_event_that_a_processor_fails_on_is_an_error(bus: Bus, traced: Traced) -> None:
    publish(bus, {"total": "text"})
    run(bus, big())
    processed = traced.span("process orders")
    assert processed.status.status_code is StatusCode.ERROR
    assert (processed.status.description or "").startswith("only_big: payload.total > 10")
    assert (processed.attributes or {})["error.type"] == "TypeError"
    assert carried(bus, "_dead_letters") == [traceparent(processed)]


def test_a_user_s_function_sees_the_span_of_its_stage(bus: Bus, traced: Traced) -> None:
    publish(bus, {"total": 20})
    (event,) = read_all(bus, "orders")
    with traced.provider.get_tracer("app").start_as_current_span("own", context=tracing.context_of(event)):
        pass
    assert parent_of(traced.span("own")) == event.traceparent == traceparent(traced.span("publish orders"))


async def test_a_delivery_lasts_until_its_event_is_settled(bus: Bus, traced: Traced) -> None:
    publish(bus, {"total": 1})
    publish(bus, {"total": 2})
    async with bus.consumer("g", ["orders"], auto_commit=False) as consumer:
        first, second = await consumer.poll()
        assert traced.spans("deliver orders") == []
        consumer.park(first, "no good")
        consumer.nack(second, "not now")
        outcomes = [(span.attributes or {})["esb.outcome"] for span in traced.spans("deliver orders")]
        assert outcomes == ["parked", "to be delivered again"]
        again = await consumer.poll(timeout_s=5)
        assert again == [second]
    outcomes = [(span.attributes or {})["esb.outcome"] for span in traced.spans("deliver orders")]
    assert outcomes == ["parked", "to be delivered again", "given up"]


async def test_with_auto_commit_the_next_poll_settles(bus: Bus, traced: Traced) -> None:
    publish(bus, {"total": 1}, {"total": 2})
    async with bus.consumer("g", ["orders"]) as consumer:
        await consumer.poll()
        assert traced.spans("deliver orders") == []
        await consumer.poll(timeout_s=0)
        delivery = traced.span("deliver orders")
    assert (delivery.attributes or {})["messaging.batch.message_count"] == 2
    assert (delivery.attributes or {})["esb.outcome"] == "done"


def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off() -> None:
    code = """if True:
        import sys
        from event_streaming_bus.models import EventConfig
        from event_streaming_bus.testing import temporary_bus
        with temporary_bus() as bus:
            bus.create_stream("orders")
            bus.publishing.submit(EventConfig(event_type="t"), [1], stream_id="orders").result()
            bus.consumer("g", ["orders"])
            bus.processors
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env={})
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ["otlp"]),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp", "console"]),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_the_environment_says_where_spans_go(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: list[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wanted_exporters() == wanted


@given(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.integers(0, 255))
def test_a_traceparent_is_read_as_it_is_written(trace_id: int, span_id: int, flags: int) -> None:
    text = f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
    found = parsed(text)
    assert found == (trace_id, span_id, flags)
    assert str(found) == text
    assert (sampled(text) is not None) == bool(flags & 1)


@pytest.mark.parametrize(
    "text", [CALLER + "-x", CALLER[:-1], CALLER.upper(), f"00-{0:032x}-{1:016x}-01", f"00-{1:032x}-{0:016x}-01"]
)
def test_what_is_no_traceparent_is_none(text: str) -> None:
    assert parsed(text) is None


def test_a_traceparent_of_a_later_version_may_have_more() -> None:
    assert parsed("01" + CALLER[2:] + "-more") == parsed(CALLER)
