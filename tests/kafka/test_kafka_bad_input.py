"""What cannot work is said once, soon and by name: wrong addresses, listeners, users, certificates and topics."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import kafka_broker
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from event_streaming_bus.errors import AlreadyExistsError, BusError, InvalidInputError
from event_streaming_bus.models import StreamConfig
from event_streaming_bus.store.log.kafka import KafkaLog
from event_streaming_bus.store.log.kafka_settings import parse_url

PATIENCE_S = 10.0
FLOW = """
streams: [{name: orders}, {name: big}]
processors:
  - {processor_name: big_orders, processor_type: FILTER, source_stream_id: orders, target_stream_id: big,
     processing_logic: {filter_expression: payload.total > 900}}
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in vain takes less time; the commands below show how long it does otherwise."""
    monkeypatch.setattr("event_streaming_bus.store.log.kafka_streams.OPEN_S", 2.0)


def refusal(url: str) -> str:
    """What opening the log says; it must not take long."""
    started = time.monotonic()
    with pytest.raises(BusError) as caught:
        KafkaLog(parse_url(url, "unused")).close()
    assert time.monotonic() - started < PATIENCE_S
    return str(caught.value)


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """The address of a server that knows nothing of Kafka: it says ``answer`` to whoever connects; ``None``: never anything."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            if answer is None:
                kept.append(connection)
                continue
            with connection:
                connection.recv(100)
                connection.sendall(answer)

    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in kept:
        connection.close()


def esb(arguments: list[str], url: str) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr of a command that ends by itself, and soon. The machine may be busy with other things, so
    what any command takes to begin is measured beside."""
    program = str(Path(sys.executable).with_name("esb"))
    environment = {**os.environ, "ESB_DATA": url}
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import event_streaming_bus.api.server"], check=True, timeout=60)
    begun = time.monotonic()
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - begun < PATIENCE_S - 2 + 2 * (begun - started)
    return done.returncode, done.stderr.splitlines()


def test_commands_say_in_one_line_that_no_broker_is_there(tmp_path: Path) -> None:
    (flow := tmp_path / "flow.yaml").write_text(FLOW)
    dead = f"127.0.0.1:{kafka_broker.free_port()}"
    cases = [
        (["serve", "--port", "0"], dead, f"{dead}: Connect to ipv4#{dead} failed: Connection refused (nothing listens there"),
        (["run", str(flow)], dead, f"{dead}: Connect to ipv4#{dead} failed: Connection refused (nothing listens there"),
        (["stream", "list"], "no-such-host.invalid:9092", "Failed to resolve 'no-such-host.invalid:9092'"),
    ]

    with ThreadPoolExecutor(len(cases)) as pool:
        asked = [(arguments, kafka_broker.url_of(address, tmp_path / arguments[0])) for arguments, address, _ in cases]
        done = list(pool.map(lambda each: esb(*each), asked))
    for (_, address, told), (code, lines) in zip(cases, done, strict=True):
        assert code == 1
        assert len(lines) == 1, lines
        assert lines[0].startswith(f"esb: No Kafka broker at {address} let this client in while opening the log: ")
        assert told in lines[0]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers there is no Kafka broker"),
        (b"", "no Kafka broker listens there, or the listener wants TLS or a login"),
        (None, "nothing came back within"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_servers_that_are_no_brokers_are_told_as_such(tmp_path: Path, answer: bytes | None, told: str) -> None:
    with server(answer) as address:
        said = refusal(kafka_broker.url_of(address, tmp_path))
    assert f"at {address} " in said
    assert told in said


@pytest.mark.usefixtures("impatient")
def test_each_address_of_several_is_told_of(tmp_path: Path) -> None:
    dead = f"127.0.0.1:{kafka_broker.free_port()}"
    said = refusal(kafka_broker.url_of(f"{dead},no-such-host.invalid:9092", tmp_path))
    assert "Connection refused" in said
    assert "Failed to resolve 'no-such-host.invalid:9092'" in said


def test_one_good_address_of_several_is_enough(tmp_path: Path) -> None:
    good = kafka_broker.shared_broker().address
    addresses = f"no-such-host.invalid:9092,127.0.0.1:{kafka_broker.free_port()},{good}"
    started = time.monotonic()
    with closing(KafkaLog(parse_url(kafka_broker.url_of(addresses, tmp_path), "unused"))) as log:
        assert log.list_streams() == []
    assert time.monotonic() - started < PATIENCE_S


@pytest.mark.usefixtures("impatient")
def test_brokers_that_advertise_addresses_nobody_listens_at_are_told_by_these(tmp_path: Path) -> None:
    dead = f"127.0.0.1:{kafka_broker.free_port()}"
    folder = kafka_broker.temporary_folder()
    broker = kafka_broker.Broker(folder, settings={"advertised.listeners": f"PLAINTEXT://{dead}"})
    try:
        said, deadline = "", time.monotonic() + 30
        while dead not in said and time.monotonic() < deadline:  # it listens before it can say where it is
            said = refusal(kafka_broker.url_of(broker.address, tmp_path))
    finally:
        broker.stop(kill=True)
        shutil.rmtree(folder)
    assert dead in said
    assert "advertised.listeners" in said


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("security_protocol", "TLS", "SASL_PLAINTEXT or SASL_SSL"),
        ("ssl_ca_location", "/none/ca.pem", "ssl.ca.location"),
        ("socket_timeout_ms", "soon", "socket.timeout.ms"),
    ],
)
def test_options_that_librdkafka_refuses_are_told_by_name(tmp_path: Path, option: str, value: str, told: str) -> None:
    options = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_username": "u",
        "sasl_password": "hush",
        option: value,
    }
    started = time.monotonic()
    with pytest.raises(InvalidInputError, match=told) as caught:
        KafkaLog(parse_url(kafka_broker.url_of("127.0.0.1:1", tmp_path, **options), "unused"))
    assert time.monotonic() - started < 1
    assert "hush" not in str(caught.value)


def test_more_replicas_than_brokers_are_refused(tmp_path: Path) -> None:
    assert "replication_factor" in refusal(kafka_broker.kafka_url(tmp_path, replication_factor="3"))


def test_a_topic_with_too_few_partitions_is_refused_and_no_other_topic_is_made(tmp_path: Path) -> None:
    settings = parse_url(kafka_broker.kafka_url(tmp_path), "unused")
    admin = AdminClient(settings.options())
    (made,) = admin.create_topics([NewTopic(f"{settings.prefix}orders.high", 1)]).values()
    made.result()
    with closing(KafkaLog(settings)) as log:
        with pytest.raises(AlreadyExistsError, match=r"orders\.high is there with 1 partitions, not 3. Make the stream with"):
            log.create_stream(StreamConfig(name="orders", partitions=3))
        assert log.list_streams() == []
    assert f"{settings.prefix}orders" not in admin.list_topics(timeout=10).topics
