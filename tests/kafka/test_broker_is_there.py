"""That the tests of the Kafka log can run here."""

import kafka_broker
import pytest


def test_there_is_a_broker_for_the_tests_of_the_kafka_log() -> None:
    if kafka_broker.jars() is None:
        pytest.skip("the Kafka log is not tested: needs Java 17 and the jars that deploy/kafka/fetch.py fetches")
    assert any(kafka_broker.jars().glob("kafka-clients-*.jar"))  # type: ignore[union-attr]
