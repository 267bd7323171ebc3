"""Kafka -> tumbling sums of 10 s by key, final results only -> Kafka, at least once, with Faust.

Arguments: brokers, source topic, target topic, consumer group, state folder. It prints RUNNING when it begins to read, and runs
until it is ended. It needs nothing but faust-streaming. Windows are closed here, by the newest time of a partition: Faust's own
windows end by the clock of the machine, which takes apart those of events that are read faster than they happened. Its table is
kept in memory with its changelog on Kafka. It is not exactly once, as the others are: that needs more of the broker and is
slower.
"""

import sys
from typing import Any

import faust

WINDOW_MS = 10_000
GRACE_MS = 1000
PARTITIONS = 2
brokers, source, target, group, folder = sys.argv[1:]

app = faust.App(
    group,
    broker=f"kafka://{brokers}",
    store="memory://",
    datadir=folder,
    topic_partitions=PARTITIONS,
    topic_replication_factor=1,
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
    broker_commit_interval=1.0,
    stream_wait_empty=False,
    web_enabled=False,
)
orders = app.topic(source, key_serializer="raw", value_serializer="json")
results = app.topic(target, key_serializer="raw", value_serializer="json")
sums: Any = app.Table("sums", default=int, partitions=PARTITIONS)
open_windows: dict[int, dict[int, set[str]]] = {}


async def close(partition: int, newest_ms: int) -> None:
    windows = open_windows[partition]
    for start_ms in [start for start in windows if start + WINDOW_MS + GRACE_MS <= newest_ms]:
        for place in windows.pop(start_ms):
            key = place.rpartition("|")[0]
            await results.send(key=key.encode(), value={"k": key, "start": start_ms, "sum_total": sums.pop(place)})


@app.agent(orders)
async def add(stream: Any) -> None:
    newest_ms: dict[int, int] = {}
    print("\nRUNNING", flush=True)  # on a line of its own: Faust writes to stdout too
    async for event in stream.events():
        order, partition = event.value, event.message.partition
        at_ms = order["at"]
        start_ms = at_ms - at_ms % WINDOW_MS
        place = f"{order['k']}|{start_ms}"
        sums[place] += order["total"]
        windows = open_windows.setdefault(partition, {})
        if start_ms not in windows:
            windows[start_ms] = set()
        windows[start_ms].add(place)
        if at_ms // 1000 > newest_ms.get(partition, 0) // 1000:
            newest_ms[partition] = at_ms
            await close(partition, at_ms)


if __name__ == "__main__":
    app.finalize()
    faust.Worker(app, loglevel="ERROR", quiet=True, redirect_stdouts=False).execute_from_commandline()
