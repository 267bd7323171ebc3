"""Three brokers, of which some fail while publishers, a reader or a flow are at work: nothing is lost, nothing is there twice."""

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import kafka_broker
import pytest
from confluent_kafka import ElectionType, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from kafka_flow import disturbed_flow, undisturbed_flow
from kafka_load import under_load

from event_streaming_bus.errors import LostTransactionError, StorageError
from event_streaming_bus.models import Event, StreamConfig
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.kafka import KafkaLog
from event_streaming_bus.store.log.kafka_producer import TransactionalProducer
from event_streaming_bus.store.log.kafka_settings import parse_url
from event_streaming_bus.store.log.kafka_topics import turns_topic


@pytest.fixture(scope="module")
def shared() -> Iterator[kafka_broker.Cluster]:
    folder = kafka_broker.temporary_folder()
    cluster = kafka_broker.Cluster(folder)
    yield cluster
    cluster.stop()
    shutil.rmtree(folder)


@pytest.fixture
def cluster(shared: kafka_broker.Cluster) -> kafka_broker.Cluster:
    """The cluster with all of its brokers."""
    shared.start(*(node for node, broker in shared.nodes.items() if not broker.is_running))
    return shared


class Leaders:
    """Who leads the partitions of a topic."""

    def __init__(self, cluster: kafka_broker.Cluster, topic: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": cluster.addresses, "log_level": 2})
        self._topic = topic

    def now(self) -> dict[int, int]:
        """The leaders by partition."""
        found = self._admin.list_topics(self._topic, timeout=10).topics[self._topic].partitions
        return {number: partition.leader for number, partition in found.items()}

    def move_to(self, leaders: dict[int, int]) -> None:
        """Have the brokers that were to lead every partition lead it again, and wait until these do."""
        deadline = time.monotonic() + 30
        while self.now() != leaders:
            assert time.monotonic() < deadline
            try:
                self._admin.elect_leaders(ElectionType.PREFERRED).result()
            except KafkaException:
                time.sleep(0.1)


def test_a_leader_that_is_killed_comes_back_and_leads_again(cluster: kafka_broker.Cluster, tmp_path: Path) -> None:
    with under_load(kafka_broker.url_of(cluster.addresses, tmp_path)) as load:
        leaders = Leaders(cluster, f"{load.settings.prefix}load")
        before = leaders.now()
        killed = before[0]
        cluster.nodes[killed].stop(kill=True)
        load.await_more()
        assert killed not in leaders.now().values()
        cluster.start(killed)
        load.await_more()
        leaders.move_to(before)
        load.await_more()


def await_controller(cluster: kafka_broker.Cluster) -> None:
    """Wait until those that are left have a controller again, in case theirs was the one that is gone."""
    (folder := kafka_broker.temporary_folder() / "data").mkdir()
    deadline = time.monotonic() + 30
    while True:
        try:
            KafkaLog(parse_url(kafka_broker.url_of(cluster.addresses, folder, prefix="waiting."), "unused")).close()
            break
        except StorageError:
            assert time.monotonic() < deadline
    shutil.rmtree(folder.parent)


def test_one_of_three_gone_for_the_whole_run_changes_nothing(cluster: kafka_broker.Cluster, tmp_path: Path) -> None:
    cluster.nodes[3].stop(kill=True)
    await_controller(cluster)
    with under_load(kafka_broker.url_of(cluster.addresses, tmp_path)) as load:
        load.await_more(200)


def test_appends_wait_or_fail_while_most_brokers_are_gone_and_go_on_afterwards(
    cluster: kafka_broker.Cluster, tmp_path: Path
) -> None:
    (mine := tmp_path / "mine").mkdir()
    log = KafkaLog(parse_url(kafka_broker.url_of(cluster.addresses, mine, transaction_timeout_ms="3000"), "unused"))
    stream = log.create_stream(StreamConfig(name="mine"))
    with under_load(kafka_broker.url_of(cluster.addresses, tmp_path)) as load:
        for node in (2, 3):
            cluster.nodes[node].stop(kill=True)
        waiting = log.submit([Append(stream.stream_id, [Event("a", "t", 0, b"1")])])
        with pytest.raises(StorageError, match=r"did not decide within \d+ s while .* no controller"):
            KafkaLog(parse_url(kafka_broker.url_of(cluster.addresses, tmp_path), "unused"))  # its topics are yet to be made
        acknowledged = len(load.acknowledged)
        time.sleep(5)
        assert len(load.acknowledged) == acknowledged
        cluster.start(2, 3)
        load.await_more()
        error = waiting.exception(60)  # written or not: appending again finds out
        (result,) = log.append([Append(stream.stream_id, [Event("a", "t", 0, b"1")])])
        assert result.duplicates == (error is None)
    for refused in load.refused:
        assert cluster.addresses in str(refused)
    log.close()


def test_a_producer_that_is_fenced_has_lost_its_transaction_and_goes_on_as_a_new_one(
    cluster: kafka_broker.Cluster, tmp_path: Path
) -> None:
    settings = parse_url(kafka_broker.url_of(cluster.addresses, tmp_path), "unused")
    with closing(KafkaLog(settings)), closing(TransactionalProducer(settings)) as producer:
        part = turns_topic(settings), 0
        producer.begin()
        producer.send(part, b"lost")
        producer.flush()
        # The brokers do the same where a transaction was open for too long.
        rival = Producer(settings.options(transactional_id=producer._slot.transactional_id))
        rival.init_transactions(30)
        producer.send(part, b"lost")
        with pytest.raises(LostTransactionError, match=f"brokers at {cluster.addresses} gave a transaction up"):
            producer.flush()
        producer.discard()
        producer.begin()
        producer.send(part, b"written")
        producer.flush()
        producer.commit()


def test_a_flow_writes_the_same_whatever_brokers_do(cluster: kafka_broker.Cluster, tmp_path: Path) -> None:
    def disturb(topic: str) -> Iterator[None]:
        leaders = Leaders(cluster, topic)
        before = leaders.now()
        cluster.nodes[before[0]].stop(kill=True)
        yield
        cluster.start(before[0])
        yield
        leaders.move_to(before)
        yield

    expected = undisturbed_flow(tmp_path)
    assert disturbed_flow(cluster.addresses, tmp_path, disturb) == expected
