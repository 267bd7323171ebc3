"""Publishing through routing rules: without any, with one, and with ten.

Events are published in durable batches of 1000, each with 10 fields and about 180 bytes of JSON. Every rule reads the payload.
One event in ten matches the first rule and is copied to another stream, with its priority and its metadata changed; the other
nine rules match one event in a thousand each.
"""

import time
from typing import Any, Final

from harness import Figure

from event_streaming_bus.models import EventConfig
from event_streaming_bus.routing.service import RoutingService
from event_streaming_bus.testing import temporary_bus

BATCH: Final = 1000
BATCHES: Final = 60
_COPIED: Final = {
    "name": "r0",
    "stream": "orders",
    "match": "payload.n % 10 == 0",
    "to": ["copies"],
    "priority": "HIGH",
    "set_metadata": {"country": "payload.country"},
}


def orders(count: int) -> list[dict[str, Any]]:
    """Payloads of about 180 bytes."""
    return [
        {"n": i, "order_id": f"ord_{i:08d}", "customer_id": f"c-{i % 997}", "total": i * 1.25, "currency": "EUR", "items": i % 7}
        | {"country": ("NL", "DE", "FR")[i % 3], "email": f"c{i}@company.com", "paid": i % 2 == 0, "note": "as agreed upon"}
        for i in range(count)
    ]


def rules(count: int) -> list[dict[str, Any]]:
    """The first ``count`` rules."""
    rare = [
        {"name": f"r{i}", "stream": "orders", "match": f"payload.n == {i * 100 + 1}", "to": ["copies"]} for i in range(1, count)
    ]
    return [_COPIED, *rare][:count]


def publish(count: int, *, given_ids: bool = False) -> float:
    """Events published per second with so many rules; the copies are not counted."""
    with temporary_bus() as bus:
        bus.create_stream("orders")
        bus.create_stream("copies")
        service = RoutingService(bus.storage)
        configs = rules(count)
        service.apply(service.read(configs, [""] * count))
        payloads = orders(BATCH)
        about: EventConfig | list[EventConfig] = EventConfig(event_type="order.created")
        started_s = time.perf_counter()
        for number in range(BATCHES):
            if given_ids:
                about = [EventConfig(event_type="order.created", event_id=f"{number}-{i}") for i in range(BATCH)]
            bus.publishing.submit(about, payloads, stream_id="orders").result()
        return BATCH * BATCHES / (time.perf_counter() - started_s)


FIGURES: Final = [
    Figure("routing: publish without rules", "events/s", lambda: publish(0)),
    Figure("routing: publish through 1 rule", "events/s", lambda: publish(1), None, "routing: publish without rules"),
    Figure("routing: publish through 10 rules", "events/s", lambda: publish(10), None, "routing: publish without rules"),
    Figure("routing: ids of publishers, without rules", "events/s", lambda: publish(0, given_ids=True)),
    Figure(
        "routing: ids of publishers, 1 rule",
        "events/s",
        lambda: publish(1, given_ids=True),
        None,
        "routing: ids of publishers, without rules",
    ),
]
