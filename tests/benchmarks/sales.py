"""The sales of each day by customer segment and region: orders, a plain loop over them, and the flow of the documentation."""

import gc
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from bytewax.testing import run_main
from costs import Outcome, age_s, metered, outcome

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, time_ms
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import read_all, temporary_bus

_DAY_MS: Final = 86_400_000
_SEGMENTS: Final = ("PREMIUM", "STANDARD", "BASIC")
_REGIONS: Final = tuple(f"region-{i}" for i in range(20))


class _Order(msgspec.Struct, gc=False):
    customer_segment: str
    region: str
    order_total: float


def _orders(events: int) -> Iterator[list[tuple[int, bytes]]]:
    """Orders of thirty days, in order, as ``(time, payload)`` in batches of a thousand. Totals are whole, so that any order of
    adding them gives the same sum."""
    step_ms = 30 * _DAY_MS // events
    for start in range(0, events, 1000):
        yield [
            (
                i * step_ms,
                b'{"order_id":"ord_%08d","customer_segment":"%b","region":"%b","order_total":%d.0,"note":"%b"}'
                % (i, _SEGMENTS[i * 7 % 3].encode(), _REGIONS[i * 13 % 20].encode(), i * 31 % 997, b"n" * 80),
            )
            for i in range(start, min(start + 1000, events))
        ]


def sales(subject: str, events: str) -> Outcome:
    """Events per second of the sum of each day by customer segment and region."""
    batches = list(_orders(int(events)))
    expected = _summed(batches)
    if subject == "plain":
        gc.freeze()
        start_s = age_s()
        with metered() as meter:
            found = _summed(batches)
        assert found == expected
        return outcome(int(events), meter, start_s)
    with temporary_bus() as bus:
        logic = {"aggregation_function": "sum", "aggregation_field": "order_total", "group_by": ["customer_segment", "region"]}
        window = {"window_type": "tumbling", "window_size_ms": _DAY_MS, "grace_period_ms": 3_600_000}
        processor = {
            "processor_name": "daily_sales_aggregator",
            "processor_type": "AGGREGATE",
            "source_stream_id": "order_events",
            "target_stream_id": "daily_sales",
            "processing_logic": logic,
            "window_config": window,
        }
        data = {"streams": [{"name": "order_events"}, {"name": "daily_sales"}], "processors": [processor]}
        plan = deploy(parse_flow(data, name="sales"), bus.storage)
        fill(bus, "order_events", batches)
        flow = build(plan, bus.storage, until=current_ends(plan, bus.storage))
        gc.freeze()
        start_s = age_s()
        with metered() as meter:
            run_main(flow)
        rows = [event.payload for event in read_all(bus, "daily_sales")]
        places = [(time_ms(row["window_start"]) // _DAY_MS, row["customer_segment"], row["region"]) for row in rows]
        sums = {place: row["sum_order_total"] for place, row in zip(places, rows, strict=True)}
        assert len(rows) == len(expected), (len(rows), len(expected))
        assert sums == expected
        return outcome(int(events), meter, start_s)


def _summed(batches: list[list[tuple[int, bytes]]]) -> dict[tuple[int, str, str], float]:
    decode, sums = msgspec.json.Decoder(_Order).decode, dict[tuple[int, str, str], float]()
    for batch in batches:
        for at_ms, data in batch:
            order = decode(data)
            place = at_ms // _DAY_MS, order.customer_segment, order.region
            sums[place] = sums.get(place, 0.0) + order.order_total
    return sums


def fill(bus: Bus, stream: str, batches: Iterable[list[tuple[int, bytes]]]) -> int:
    """Append batches of ``(time, payload)`` to a stream, a transaction each; how many events there were."""
    stream_id, count = bus.log.find_stream("default", stream).stream_id, 0
    for batch in batches:
        named = zip(ids.new_ids(ids.EVENT, len(batch)), batch, strict=True)
        events = [Event(event_id, "order", at_ms, data) for event_id, (at_ms, data) in named]
        bus.log.append([Append(stream_id, events, new_ids=True)])
        count += len(events)
    return count
