import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.cloudevents import from_cloudevent, from_headers, to_cloudevent, to_headers
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import CompressionType, Event, EventPriority, SerializationFormat

text = st.text(min_size=1, max_size=30)
optional_text = st.none() | text
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
# Names that are extensions, names that only look like it, and names of the bus's own attributes.
metadata_names = (
    st.text(max_size=25)
    | st.from_regex(r"[a-z0-9]{1,22}", fullmatch=True)
    | st.sampled_from(
        ["source", "id", "data", "data_base64", "stream", "metadata", "priority", "subject", "user_agent", "dataschema"]
    )
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    form = draw(st.sampled_from(SerializationFormat))
    data = draw(st.binary(max_size=40)) if form is SerializationFormat.AVRO else msgspec.json.encode(draw(json_values))
    return Event(
        event_id=draw(text),
        event_type=draw(text),
        timestamp_ms=draw(st.integers(-2_000_000_000_000, 7_000_000_000_000)),
        data=data,
        key=draw(optional_text),
        source_capability=draw(st.text(max_size=30) | st.sampled_from(["/", "#", "%2F", "https://example.com/a?b#c"])),
        aggregate_id=draw(optional_text),
        aggregate_type=draw(optional_text),
        metadata=draw(st.none() | st.dictionaries(metadata_names, json_values, max_size=5)),
        correlation_id=draw(optional_text),
        causation_id=draw(optional_text),
        priority=draw(st.sampled_from(EventPriority)),
        compression_type=draw(st.none() | st.sampled_from(CompressionType)),
        serialization_format=form,
        max_retries=draw(st.integers(-(2**31), 2**31 - 1)),
        tenant_id=draw(text),
        user_id=draw(optional_text),
        schema_id=draw(optional_text),
        traceparent=draw(optional_text),
        deliver_at_ms=draw(st.none() | st.integers(-2_000_000_000_000, 7_000_000_000_000)),
        expires_at_ms=draw(st.none() | st.integers(-2_000_000_000_000, 7_000_000_000_000)),
    )


FULL = Event(
    event_id="evt_1",
    event_type="system.critical_alert",
    timestamp_ms=1_737_887_400_000,
    data=b'{"severity":"critical"}',
    key="alert_123",
    source_capability="monitoring",
    aggregate_id="alert_123",
    aggregate_type="SystemAlert",
    metadata={"region": "eu", "attempt": 2, "user_agent": "mobile", "nested": {"a": 1}},
    correlation_id="corr_456",
    causation_id="evt_0",
    priority=EventPriority.CRITICAL,
    compression_type=CompressionType.NONE,
    max_retries=5,
    tenant_id="tenant_001",
    user_id="system",
    schema_id="sch_1",
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    deliver_at_ms=1_737_891_000_000,
    expires_at_ms=1_737_894_600_000,
)
MINIMAL = {"specversion": "1.0", "id": "1", "source": "/sensors", "type": "reading"}


@given(events())
def test_structured_mode_returns_every_field_even_through_json_text(event: Event) -> None:
    assert from_cloudevent(json.loads(json.dumps(to_cloudevent(event, "alerts")))) == (event, "alerts")


@given(events())
def test_binary_mode_returns_every_field(event: Event) -> None:
    assert from_headers(to_headers(event), event.data) == event


@given(events())
def test_every_attribute_has_a_name_and_a_type_that_cloudevents_allows(event: Event) -> None:
    for name, value in to_cloudevent(event, "alerts").items():
        if name not in {"data", "data_base64"}:
            assert name.isascii()
            assert name.isalnum()
            assert name == name.lower()
            assert len(name) <= 20
            assert isinstance(value, str | bool) or (isinstance(value, int) and -(2**31) <= value < 2**31)
            assert value != ""


def test_a_full_event_in_structured_mode() -> None:
    assert to_cloudevent(FULL, "alerts") == {
        "specversion": "1.0",
        "id": "evt_1",
        "type": "system.critical_alert",
        "source": "monitoring",
        "time": "2025-01-26T10:30:00.000Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:esb:schema:sch_1",
        "subject": "alert_123",
        "aggregatetype": "SystemAlert",
        "causationid": "evt_0",
        "compression": "NONE",
        "correlationid": "corr_456",
        "deliverytime": "2025-01-26T11:30:00.000Z",
        "expirytime": "2025-01-26T12:30:00.000Z",
        "maxretries": 5,
        "partitionkey": "alert_123",
        "priority": "CRITICAL",
        "stream": "alerts",
        "tenantid": "tenant_001",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "userid": "system",
        "region": "eu",
        "attempt": 2,
        "metadata": '{"user_agent":"mobile","nested":{"a":1}}',
        "data": {"severity": "critical"},
    }


def test_headers_are_text_and_the_content_type_has_its_own() -> None:
    headers = dict(to_headers(FULL))
    assert headers["ce_id"] == b"evt_1"
    assert headers["ce_maxretries"] == b"5"
    assert headers["ce_region"] == b"eu"
    assert headers["ce_metadata"] == b'{"attempt":2,"user_agent":"mobile","nested":{"a":1}}'
    assert headers["content-type"] == b"application/json"
    assert "ce_datacontenttype" not in headers


def test_avro_travels_as_base64() -> None:
    event = msgspec.structs.replace(FULL, serialization_format=SerializationFormat.AVRO, data=b"\x00\x00\x01")
    assert to_cloudevent(event, "alerts")["data_base64"] == "AAAB"
    assert to_cloudevent(event, "alerts")["datacontenttype"] == "application/avro"


def test_a_json_payload_that_does_not_decode_is_kept_byte_for_byte() -> None:
    event = msgspec.structs.replace(FULL, data=b"{broken")
    assert from_cloudevent(to_cloudevent(event, "alerts"))[0].data == b"{broken"


def test_a_foreign_event_with_only_the_required_attributes_gets_the_defaults() -> None:
    event, stream = from_cloudevent(MINIMAL, received_ms=17)
    assert event == Event(event_id="1", event_type="reading", timestamp_ms=17, data=b"null", source_capability="/sensors")
    assert stream is None


def test_a_missing_time_is_now() -> None:
    before_ms = int(datetime.now(UTC).timestamp() * 1000)
    assert from_cloudevent(MINIMAL)[0].timestamp_ms >= before_ms


def test_foreign_extensions_become_metadata() -> None:
    event, _ = from_cloudevent({**MINIMAL, "tracestate": "a=b", "sampledrate": 30, "dataschema": "https://example.com/s"})
    assert event.metadata == {"tracestate": "a=b", "sampledrate": 30, "dataschema": "https://example.com/s"}


def test_null_attributes_count_as_not_given() -> None:
    assert from_cloudevent({**MINIMAL, "subject": None, "other": None})[0].metadata is None


@pytest.mark.parametrize(
    ("time", "expected_ms"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01t00:00:01.0019999z", 1001),
        ("1970-01-01T01:00:01.25+01:00", 1250),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_times_are_read_to_the_millisecond(time: str, expected_ms: int) -> None:
    assert from_cloudevent({**MINIMAL, "time": time})[0].timestamp_ms == expected_ms


def test_kafka_headers_of_others_are_ignored() -> None:
    headers = [("ce_" + name, value.encode()) for name, value in MINIMAL.items()]
    event = from_headers([*headers, ("trace", b"\xff"), ("ce_subject", None)], b"1", received_ms=0)
    assert (event.aggregate_id, event.metadata, event.data) == (None, None, b"1")


@pytest.mark.parametrize(
    ("change", "attribute"),
    [
        ({"id": None}, "id"),
        ({"id": ""}, "id"),
        ({"source": 5}, "source"),
        ({"type": None}, "type"),
        ({"specversion": "0.3"}, "specversion"),
        ({"time": "yesterday"}, "time"),
        ({"time": "2025-02-30T00:00:00Z"}, "time"),
        ({"expirytime": "tomorrow"}, "expirytime"),
        ({"deliverytime": 5}, "deliverytime"),
        ({"priority": "URGENT"}, "priority"),
        ({"compression": "RAR"}, "compression"),
        ({"maxretries": "3"}, "maxretries"),
        ({"maxretries": True}, "maxretries"),
        ({"maxretries": 2**31}, "maxretries"),
        ({"datacontenttype": "text/csv"}, "datacontenttype"),
        ({"datacontenttype": "application/avro", "data": 1}, "data"),
        ({"data_base64": "%%%"}, "data_base64"),
        ({"data_base64": "AAAA", "data": 1}, "data_base64"),
        ({"metadata": "[1]"}, "metadata"),
        ({"stream": 1}, "stream"),
        ({"not_allowed": "x"}, "not_allowed"),
        ({"waytoolongforanextension": "x"}, "waytoolongforanextension"),
        ({"big": 2**31}, "big"),
        ({"fraction": 0.5}, "fraction"),
        ({"nested": {}}, "nested"),
    ],
)
def test_what_is_not_acceptable_is_named(change: dict[str, object], attribute: str) -> None:
    with pytest.raises(InvalidInputError, match=f"CloudEvents attribute {attribute}: ") as caught:
        from_cloudevent({**MINIMAL, **change})
    assert caught.value.details == {"attribute": attribute}


@pytest.mark.parametrize(
    ("header", "attribute"),
    [(("ce_id", b"2"), "id"), (("ce_subject", b"\xff"), "subject"), (("ce_maxretries", b"many"), "maxretries")],
)
def test_a_header_that_is_not_acceptable_is_named(header: tuple[str, bytes], attribute: str) -> None:
    headers = [("ce_" + name, value.encode()) for name, value in MINIMAL.items()]
    with pytest.raises(InvalidInputError, match=f"attribute {attribute}: "):
        from_headers([*headers, header], b"")


def test_an_event_whose_retries_no_attribute_can_hold_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="maxretries"):
        to_headers(msgspec.structs.replace(FULL, max_retries=2**31))
