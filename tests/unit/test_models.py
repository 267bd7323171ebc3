from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.models import (
    LANES,
    CompressionType,
    Event,
    EventConfig,
    EventPriority,
    ProcessorType,
    Split,
    StreamConfig,
    StreamInfo,
    rfc3339,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_1900_MS = -2_208_988_800_000
YEAR_2200_MS = 7_258_118_400_000


def test_lanes_are_read_most_urgent_first() -> None:
    assert LANES == (EventPriority.CRITICAL, EventPriority.HIGH, EventPriority.NORMAL, EventPriority.LOW)


def test_enum_values_are_the_words_of_the_contract() -> None:
    assert [*ProcessorType] == ["FILTER", "MAP", "AGGREGATE", "JOIN", "WINDOW", "DEDUPLICATE", "CUSTOM"]
    assert [*CompressionType] == ["NONE", "GZIP", "SNAPPY", "LZ4", "ZSTD"]


def test_an_event_decodes_its_payload() -> None:
    assert Event("evt_1", "t", 0, b'{"a":[1,null]}').payload == {"a": [1, None]}


def test_a_payload_that_is_not_json_says_so() -> None:
    with pytest.raises(msgspec.DecodeError):
        _ = Event("evt_1", "t", 0, b"{").payload


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Event("evt_1", "t", 0, b"1").event_id = "evt_2"  # type: ignore[misc]


def test_an_event_config_refuses_a_field_that_it_does_not_know() -> None:
    with pytest.raises(msgspec.ValidationError, match="event_typ"):
        msgspec.convert({"event_type": "t", "event_typ": "t"}, EventConfig)


def test_an_event_config_takes_enums_by_their_names() -> None:
    config = msgspec.convert({"event_type": "t", "priority": "HIGH", "compression_type": "ZSTD"}, EventConfig)
    assert (config.priority, config.compression_type) == (EventPriority.HIGH, CompressionType.ZSTD)


def test_a_stream_has_a_split_for_every_lane_of_every_partition() -> None:
    info = StreamInfo(stream_id="str_1", config=StreamConfig(name="orders", partitions=2), created_at_ms=0)
    assert info.splits() == [Split("str_1", lane, partition) for partition in (0, 1) for lane in LANES]
    assert (info.name, info.tenant_id) == ("orders", "default")


def test_a_split_reads_as_stream_partition_lane() -> None:
    assert str(Split("str_1", EventPriority.CRITICAL, 3)) == "str_1/3/critical"


def test_rfc3339_is_utc_with_milliseconds() -> None:
    assert rfc3339(1_357_034_400_007) == "2013-01-01T10:00:00.007Z"


@given(st.integers(YEAR_1900_MS, YEAR_2200_MS))
def test_times_keep_every_millisecond(time_ms: int) -> None:
    assert (datetime.fromisoformat(rfc3339(time_ms)) - EPOCH) / timedelta(milliseconds=1) == time_ms
    assert (Event("evt_1", "t", time_ms, b"1").timestamp - EPOCH) / timedelta(milliseconds=1) == time_ms


def test_times_of_far_years_keep_every_millisecond() -> None:
    assert rfc3339(23_191_888_410_050) == "2704-12-03T15:13:30.050Z"
    assert rfc3339(253_402_300_799_999) == "9999-12-31T23:59:59.999Z"
