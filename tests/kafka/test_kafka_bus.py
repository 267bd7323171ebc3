"""A bus whose log is on Kafka: what its services make of it, and what they say they cannot do there."""

from collections.abc import Iterator

import pytest

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.models import EventConfig
from event_streaming_bus.store.history.history import History
from event_streaming_bus.store.storage import open_storage
from event_streaming_bus.testing import read_all


@pytest.fixture(scope="module")
def bus(url: str) -> Iterator[Bus]:
    with open_bus(url) as opened:
        opened.create_stream("orders", partitions=2)
        yield opened


def test_a_url_gives_the_same_storage_until_it_is_closed(bus: Bus, url: str) -> None:
    assert open_storage(url) is bus.storage
    assert bus.storage.url == url


async def test_publishing_an_id_again_appends_nothing_and_history_is_told_once(bus: Bus) -> None:
    for total in (5, 6):
        config = EventConfig(event_type="order.created", event_id="order-1", key="k")
        await bus.publishing.publish_event(config, {"total": total}, stream_id="orders")
    assert [event.payload for event in read_all(bus, "orders")] == [{"total": 5}]
    history = History(bus.storage)
    try:
        assert history.catch_up() > 0
        assert history.catch_up() == 0
    finally:
        history.close()
