"""A flow's events, published a few at a time, and what came out: for tests of clusters, to be run in the broker's namespace.

``python cluster_events.py URL FLOW``: makes the streams and says ``ready``; for a line on stdin, publishes; then waits for the
counts that the next line tells (JSON), and prints what came out (JSON).
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.models import EventConfig
from event_streaming_bus.testing import read_all

EVENTS: Final = 4000
AT_ONCE: Final = 40
PAUSE_S: Final = 0.1
END_MS: Final = EVENTS * 10
"""All windows that end by then are closed by the last events."""
PARTITIONS: Final = 4
_PATIENCE_S: Final = 60.0
FLOW: Final = f"""
streams: [{{name: orders, partitions: {PARTITIONS}}}, {{name: big}}, {{name: sums}}]
processors:
  - {{processor_name: big_orders, processor_type: FILTER, source_stream_id: orders, target_stream_id: big,
     processing_logic: {{filter_expression: payload.total > 900}}}}
  - processor_name: sums_of_keys
    processor_type: AGGREGATE
    source_stream_id: orders
    target_stream_id: sums
    processing_logic: {{group_by: [k], aggregations: [{{function: sum, field: total}}, {{function: count}}]}}
    window_config: {{window_type: tumbling, window_size_ms: 1000, grace_period_ms: 1000}}
"""


def publish(bus: Bus, *, pause_s: float = 0.0) -> None:
    """Publish the events, in the order of their times, and in the end one far ahead in each partition."""
    rows = [(i * 10, {"k": f"k{i % 23}", "total": i * 37 % 1000}) for i in range(EVENTS)]
    for start in range(0, EVENTS, AT_ONCE):
        _publish(bus, rows[start : start + AT_ONCE])
        time.sleep(pause_s)
    # So many keys that every partition has one.
    _publish(bus, [(END_MS + 60_000, {"k": f"last-{i}", "total": 0}) for i in range(20 * PARTITIONS)])


def _publish(bus: Bus, rows: list[tuple[int, dict[str, Any]]]) -> None:
    bus.publishing.submit(
        EventConfig(event_type="order"),
        [payload for _, payload in rows],
        stream_id="orders",
        keys=[str(payload["k"]) for _, payload in rows],
        timestamps_ms=[at_ms for at_ms, _ in rows],
    ).result()


def outcome(bus: Bus) -> dict[str, list[Any]]:
    """What came out of the windows that have closed, and of the filter; where it lies and what its ids are aside."""
    found = {}
    for stream in ("big", "sums"):
        events = [event for event in read_all(bus, stream) if event.timestamp_ms <= END_MS]
        found[stream] = sorted([event.timestamp_ms, event.key or "", event.data.decode()] for event in events)
    return found


def main(url: str, file: str) -> None:
    with open_bus(url) as bus:
        deploy(load_flow(Path(file)), bus.storage)
        print("ready", flush=True)
        sys.stdin.readline()
        publish(bus, pause_s=PAUSE_S)
        expected = json.loads(sys.stdin.readline())
        deadline = time.monotonic() + _PATIENCE_S
        while any(len(events) < expected[name] for name, events in outcome(bus).items()) and time.monotonic() < deadline:
            time.sleep(0.3)
        time.sleep(1)  # for what should not come
        print(json.dumps(outcome(bus)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
