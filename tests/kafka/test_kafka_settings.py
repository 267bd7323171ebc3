"""What a Kafka URL may say, and what an unreachable broker is told as. No broker is needed."""

from pathlib import Path

import pytest

from event_streaming_bus.errors import InvalidInputError, StorageError
from event_streaming_bus.models import StreamConfig
from event_streaming_bus.store.log.kafka_errors import bus_error
from event_streaming_bus.store.log.kafka_settings import parse_url
from event_streaming_bus.store.log.kafka_topics import check_names, topics_of
from event_streaming_bus.store.storage import data_folder, open_storage


def test_a_url_names_brokers_options_and_the_data_folder(tmp_path: Path) -> None:
    url = f"kafka://one,two:9093?security.protocol=SASL_SSL&sasl.password=a%26b&prefix=dev-&data={tmp_path}&ids_window_ms=60000"
    settings = parse_url(url, "unused")
    assert (settings.brokers, settings.prefix, settings.folder) == ("one:9092,two:9093", "dev-", tmp_path)
    assert settings.client == {"security.protocol": "SASL_SSL", "sasl.password": "a&b"}
    assert settings.options(group_id="g")["group.id"] == "g"
    assert (settings.ids_window_ms, settings.replication_factor) == (60_000, -1)


def test_the_folder_is_that_of_the_environment_if_the_url_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder("kafka://one") == Path("esb-data").resolve()
    monkeypatch.setenv("ESB_DATA", str(tmp_path))
    assert data_folder("kafka://one") == tmp_path
    monkeypatch.setenv("ESB_DATA", f"kafka://one?data={tmp_path / 'x'}")
    assert data_folder() == tmp_path / "x"


@pytest.mark.parametrize(
    ("rest", "named"),
    [
        ("one?secure=true", "'secure'"),
        ("one?bootstrap.servers=two", "'bootstrap.servers'"),
        ("one?prefix=a&prefix=b", "'prefix'"),
        ("one?prefix=a/b", "prefix"),
        ("one?replication_factor=0", "replication_factor"),
        ("one?ids_window_ms=soon", "ids_window_ms"),
        ("", "kafka://host:9092"),
        ("one/topic", "kafka://host:9092"),
        ("one:port", "kafka://host:9092"),
        ("user:secret@one", "sasl.username"),
    ],
)
def test_what_a_url_may_not_say_is_refused_by_name(rest: str, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named) as caught:
        parse_url(f"kafka://{rest}", "unused")
    assert "secret" not in str(caught.value)


def test_other_schemes_are_refused_without_telling_what_may_be_secret() -> None:
    with pytest.raises(InvalidInputError, match=r"^amqp:// is no data folder") as caught:
        data_folder("amqp://user:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tenant"),
    [("orders.critical", "default"), ("a..b", "default"), ("_esb_control", "default"), ("a", "b.c"), ("a", "ü")],
)
def test_streams_whose_topics_could_be_those_of_others_are_refused(name: str, tenant: str) -> None:
    with pytest.raises(InvalidInputError, match="on Kafka"):
        check_names("", StreamConfig(name=name, tenant_id=tenant))


def test_a_name_that_makes_a_topic_too_long_is_refused() -> None:
    check_names("p" * 40, StreamConfig(name="x" * 200))
    with pytest.raises(InvalidInputError, match="its longest topic would have a name of 251 characters"):
        check_names("p" * 40, StreamConfig(name="x" * 202))


def test_each_lane_is_a_topic_with_the_settings_of_the_stream(tmp_path: Path) -> None:
    settings = parse_url(f"kafka://one?prefix=dev-&replication_factor=3&data={tmp_path}", "unused")
    config = StreamConfig(name="orders", tenant_id="acme", partitions=2, retention_ms=3_600_000, retention_bytes=8000)
    topics = topics_of(settings, config)
    assert [topic.topic for topic in topics] == [f"dev-acme..orders{lane}" for lane in (".critical", ".high", "", ".low")]
    assert {(topic.num_partitions, topic.replication_factor) for topic in topics} == {(2, 3)}
    told = {
        "retention.ms": "3600000",
        "retention.bytes": "1000",
        "compression.type": "lz4",
        "segment.ms": "900000",
    }
    assert all(told.items() <= topic.config.items() for topic in topics)


def test_an_unreachable_broker_is_told_with_what_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("event_streaming_bus.store.log.kafka_streams.OPEN_S", 0.3)
    with pytest.raises(StorageError, match=r"No Kafka broker at 127.0.0.1:1 let .* while opening.*Connection refused"):
        open_storage(f"kafka://127.0.0.1:1?data={tmp_path}")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("_AUTHENTICATION", "sasl.username"),
        ("TOPIC_AUTHORIZATION_FAILED", "lacks the rights"),
        ("MSG_SIZE_TOO_LARGE", "larger than"),
        ("KAFKA_STORAGE_ERROR", "writing to t on the Kafka cluster at one:9092 failed"),
    ],
)
def test_errors_say_what_was_done_where(code: str, told: str) -> None:
    from confluent_kafka import KafkaError

    assert told in str(bus_error(KafkaError(getattr(KafkaError, code)), "one:9092", "writing to t"))
