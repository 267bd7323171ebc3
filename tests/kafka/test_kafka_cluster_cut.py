"""The network between the brokers and whoever works with them, cut and healed."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import kafka_broker
import kafka_namespace
import pytest
from kafka_flow import disturbed_flow, undisturbed_flow
from kafka_load import under_load

if (reason := kafka_namespace.refusal()) is not None:
    pytest.skip(f"no network can be cut here: {reason}", allow_module_level=True)

ANSWERS_LOST_S = 4.0
CUT_S = 10.0


@pytest.fixture
def link() -> Iterator[kafka_namespace.Link]:
    with kafka_namespace.link() as link:
        yield link


@pytest.fixture
def broker(link: kafka_namespace.Link) -> Iterator[kafka_broker.Broker]:
    folder = kafka_broker.temporary_folder()
    broker = kafka_broker.Broker(folder, host=link.there, command=link.command)
    yield broker
    broker.stop(kill=True)
    shutil.rmtree(folder)


def test_publishers_a_reader_and_a_flow_go_on_after_the_network_was_cut(
    link: kafka_namespace.Link, broker: kafka_broker.Broker, tmp_path: Path
) -> None:
    expected = undisturbed_flow(tmp_path)
    with under_load(kafka_broker.url_of(broker.address, tmp_path / "load")) as load:

        def disturb(_: str) -> Iterator[None]:
            yield
            link.lose_answers()
            time.sleep(ANSWERS_LOST_S)
            link.cut()
            acknowledged = len(load.acknowledged)
            time.sleep(CUT_S)
            assert len(load.acknowledged) == acknowledged
            link.heal()
            yield

        assert disturbed_flow(broker.address, tmp_path, disturb) == expected
        load.await_more()
