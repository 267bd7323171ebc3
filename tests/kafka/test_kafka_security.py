"""The log over TLS, with users and ACLs; who is not let in, and what nobody gets to see."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import kafka_broker
import pytest
from confluent_kafka.admin import AclOperation, ResourceType
from kafka_secure import NEEDED, PASSWORDS, Secured

from event_streaming_bus.errors import BusError, StorageError
from event_streaming_bus.models import Event, EventPriority, Split, StreamConfig
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.kafka import KafkaLog
from event_streaming_bus.store.log.kafka_settings import parse_url

PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    folder = kafka_broker.temporary_folder()
    secured = Secured(folder)
    yield secured
    secured.broker.stop(kill=True)
    shutil.rmtree(folder)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in vain takes less time."""
    monkeypatch.setattr("event_streaming_bus.store.log.kafka_streams.OPEN_S", 2.0)


def works(url: str) -> None:
    """Everything that a log does, done once."""
    with closing(KafkaLog(parse_url(url, "unused"))) as log:
        stream = log.create_stream(StreamConfig(name="s"))
        split = Split(stream.stream_id, EventPriority.NORMAL, 0)
        log.append([Append(stream.stream_id, [Event("a", "t", 0, b"1")])])
        assert log.wait({split: 0}, 5)
        assert [event.event_id for batch in log.read(split, 0) for event in batch.events()] == ["a"]
        log.commit("g", {split: 1})
        assert log.committed("g") == {split: 1}
        log.drop_stream(stream.stream_id)


@pytest.mark.parametrize("user", ["scram-256", "scram-512", "plain"])
def test_users_with_the_rights_that_the_docs_name_can_do_everything(secured: Secured, tmp_path: Path, user: str) -> None:
    secured.allow(user, f"{user}.", *NEEDED)
    works(secured.url(user, tmp_path, prefix=f"{user}."))


def test_a_certificate_lets_a_client_in_as_well(secured: Secured, tmp_path: Path) -> None:
    files = {f"ssl_{what}_location": str(secured.folder / file) for what, file in CERTIFICATE.items()}
    works(kafka_broker.url_of(secured.broker.listeners["SSL"], tmp_path, security_protocol="SSL", **files))


CERTIFICATE = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("listener", "options", "told"),
    [
        ("SASL_SSL", {"sasl_password": "wrong-secret"}, "check sasl.mechanism, sasl.username and sasl.password"),
        ("SASL_SSL", {"sasl_username": "nobody"}, "check sasl.mechanism, sasl.username and sasl.password"),
        ("SASL_SSL", {"sasl_mechanism": "PLAIN"}, "supported mechanisms: SCRAM-SHA-512,SCRAM-SHA-256"),
        ("SASL_SSL", {"ssl_ca_location": "other-ca.pem"}, "not signed by an authority that ssl.ca.location names"),
        ("SASL_SSL", {"security_protocol": "PLAINTEXT"}, "wants TLS or a login"),
        ("SASL_SSL", {"security_protocol": "SASL_PLAINTEXT"}, "wants TLS or a login"),
        ("SASL_PLAINTEXT", {"security_protocol": "PLAINTEXT"}, "wants TLS or a login"),
        ("PLAINTEXT", {}, "speaks no TLS; expected security.protocol=PLAINTEXT"),
        ("PLAINTEXT", {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}, "the listener wants no login"),
        ("SSL", {"security_protocol": "SSL"}, "wants a certificate of the client; expected ssl.certificate.location"),
    ],
)
def test_who_is_not_let_in_is_told_why(
    secured: Secured, tmp_path: Path, listener: str, options: dict[str, str], told: str
) -> None:
    if "ssl_ca_location" in options:
        options = options | {"ssl_ca_location": str(secured.folder / options["ssl_ca_location"])}
    right = secured.url("scram-256", tmp_path, **options)
    address = secured.broker.listeners.get(listener, secured.broker.address)
    url = right.replace(secured.broker.listeners["SASL_SSL"], address)
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        KafkaLog(parse_url(url, "unused"))
    assert time.monotonic() - started < PATIENCE_S
    said = str(caught.value)
    assert f"No Kafka broker at {address} let this client in while opening the log: " in said
    assert told in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ((ResourceType.TOPIC, AclOperation.CREATE), r"making the topic \S+: .* allow Create, Delete"),
        ((ResourceType.TOPIC, AclOperation.READ), r"reading \S+: .* Read and Write of the bus's topics"),
        ((ResourceType.TOPIC, AclOperation.WRITE), r"writing to \S+_esb_turns: .* Read and Write of the bus's topics"),
        ((ResourceType.TRANSACTIONAL_ID, AclOperation.WRITE), r"beginning a transaction: .* transactional ids PREFIXesb-"),
        ((ResourceType.GROUP, AclOperation.READ), r"committing offsets of g: .* Describe and Read of the bus's groups"),
    ],
)
def test_a_right_that_is_missing_is_told_by_name(
    secured: Secured,
    tmp_path: Path,
    missing: tuple[ResourceType, AclOperation],
    told: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    prefix = f"no-{missing[0].name}-{missing[1].name}."
    secured.allow("poor", prefix, *(right for right in NEEDED if right != missing))
    url = secured.url("poor", tmp_path, prefix=prefix)
    started = time.monotonic()
    with pytest.raises(StorageError, match=f"lacks the rights for {told}.*; docs/kafka.md lists"):
        works(url)
    assert time.monotonic() - started < PATIENCE_S
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")  # librdkafka has a word of its own for each of these


def test_a_stream_that_may_not_be_written_holds_up_no_other(secured: Secured, tmp_path: Path) -> None:
    secured.allow("poor", "half.", *(right for right in NEEDED if right != (ResourceType.TOPIC, AclOperation.WRITE)))
    for name in ("half._esb_", "half.mine"):
        secured.allow("poor", name, (ResourceType.TOPIC, AclOperation.WRITE))
    with closing(KafkaLog(parse_url(secured.url("poor", tmp_path, prefix="half."), "unused"))) as log:
        mine, other = log.create_stream(StreamConfig(name="mine")), log.create_stream(StreamConfig(name="other"))
        event = Event("a", "t", 0, b"1")
        with pytest.raises(StorageError, match=r"lacks the rights for writing to .*half\.other"):
            log.append([Append(mine.stream_id, [event]), Append(other.stream_id, [Event("b", "t", 0, b"1")])])
        log.append([Append(mine.stream_id, [event])])
        events = [e for batch in log.read(Split(mine.stream_id, EventPriority.NORMAL, 0), 0) for e in batch.events()]
        assert [each.event_id for each in events] == ["a"]


def test_what_is_hidden_is_in_no_repr(secured: Secured, tmp_path: Path) -> None:
    settings = parse_url(secured.url("scram-256", tmp_path, ssl_key_password="key-secret"), "unused")
    assert settings.options()["sasl.password"] == PASSWORDS["scram-256"]
    for shown in (repr(settings), str(settings), f"{settings!r}", repr([settings])):
        assert "secret" not in shown
        assert "'sasl.password': '***'" in shown
    assert settings.without_secrets(f"failed with {PASSWORDS['scram-256']}") == "failed with ***"


def test_a_command_whose_user_lacks_a_right_says_so_in_one_line(secured: Secured, tmp_path: Path) -> None:
    missing = ResourceType.TRANSACTIONAL_ID, AclOperation.WRITE
    secured.allow("poor", "command.", *(right for right in NEEDED if right != missing))
    environment = {**os.environ, "ESB_DATA": secured.url("poor", tmp_path, prefix="command.")}
    program = str(Path(sys.executable).with_name("esb"))
    done = subprocess.run([program, "stream", "create", "s"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("esb: This user of the Kafka cluster at ")
    assert "Expected ACLs that allow Describe and Write of the transactional ids" in line


def test_secrets_are_in_nothing_that_a_command_prints_or_shows_to_others(secured: Secured, tmp_path: Path) -> None:
    url = secured.url("plain", tmp_path, sasl_password="wrong-secret")
    program = str(Path(sys.executable).with_name("esb"))
    environment = {**os.environ, "ESB_DATA": url}
    done = subprocess.run([program, "stream", "list"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "check sasl.mechanism, sasl.username and sasl.password" in line
    assert "secret" not in done.stderr + done.stdout
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and b"wrong-secret" in path.read_bytes()]
    assert kept == []


def test_an_error_of_the_client_itself_hides_secrets(tmp_path: Path) -> None:
    pem = "-----BEGIN hush"
    url = kafka_broker.url_of("127.0.0.1:1", tmp_path, security_protocol="SSL", ssl_certificate_pem=pem, ssl_key_pem=pem)
    with pytest.raises(BusError) as caught:
        KafkaLog(parse_url(url, "unused"))
    assert "hush" not in str(caught.value)
