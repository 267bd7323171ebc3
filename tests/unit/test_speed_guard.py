"""The speed is guarded by ratios to plain loops in the same process: a change that doubles a cost fails here, a busy machine
does not."""

from collections.abc import Iterator
from typing import NamedTuple

import guard
import pytest

from event_streaming_bus.bus import Bus
from event_streaming_bus.flows.items import Chunk
from event_streaming_bus.testing import temporary_bus


class Prepared(NamedTuple):
    """A bus, and the events of its stream ``nexmark``."""

    bus: Bus
    chunks: list[Chunk]


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    with temporary_bus() as bus:
        yield Prepared(bus, guard.prepared(bus))


def test_filter_and_map_cost_little_more_than_a_plain_loop(prepared: Prepared) -> None:
    cost = guard.flow_cost(*prepared, "q1", guard.loop_of_q1)
    assert cost.ratio < 4.0, cost


def test_a_tumbling_sum_costs_little_more_than_a_plain_loop(prepared: Prepared) -> None:
    cost = guard.flow_cost(*prepared, "sum_by_bidder", guard.loop_of_sum)
    assert cost.ratio < 5.0, cost


def test_an_append_costs_little_more_than_encoding_its_events() -> None:
    with temporary_bus() as bus:
        cost = guard.append_cost(bus)
    assert cost.ratio < 18.0, cost


def test_a_cost_that_doubles_is_seen() -> None:
    def work() -> None:
        sum(i * i for i in range(200_000))

    def twice() -> None:
        work()
        work()

    assert 1.3 < guard.cost(twice, work).ratio < 3.0  # a core may change its speed meanwhile
