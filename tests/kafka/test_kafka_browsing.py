"""Browsing a stream on Kafka, where offsets have gaps: behind the last event of a split comes the end of its transaction."""

from collections.abc import Iterator

import pytest

from event_streaming_bus import EventConfig
from event_streaming_bus.api.stream_browsing import Found, Places, browse, places_at
from event_streaming_bus.bus import Bus
from event_streaming_bus.models import StreamConfig
from event_streaming_bus.store.storage import open_storage


@pytest.fixture
def bus(url: str) -> Iterator[Bus]:
    with Bus(open_storage(url)) as bus:
        yield bus


async def test_a_page_says_that_it_is_the_last_one(bus: Bus) -> None:
    orders = bus.log.create_stream(StreamConfig(name="orders", partitions=2))
    splits = orders.splits()

    def page(places: Places, **how: bool) -> Found:
        return browse(bus.storage, orders, splits, places, limit=8, **how)  # type: ignore[arg-type]

    for number in range(5):
        await bus.publishing.publish_batch(EventConfig(event_type="t", key=f"k{number}"), [{}, {}], "orders")
    first = page(places_at(bus.log, splits, "earliest"))
    second = page(first.places)
    nothing = page(second.places)
    assert [(len(each.events), each.is_end) for each in (first, second, nothing)] == [(8, False), (2, True), (0, True)]
    newest = page(places_at(bus.log, splits, "latest"), newest_first=True)
    oldest = page(newest.places, newest_first=True)
    assert [(len(each.events), each.is_end) for each in (newest, oldest)] == [(8, False), (2, True)]
    await bus.publishing.publish_event(EventConfig(event_type="t"), {}, "orders")
    assert len(page(nothing.places).events) == 1
