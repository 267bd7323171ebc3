"""Kafka -> tumbling sums of 10 s by key, final results only -> Kafka, exactly once, with Quix Streams.

Arguments: brokers, source topic, target topic, consumer group, state folder. It prints RUNNING with the first event that it
reads, and runs until it is ended. It needs nothing but quixstreams.
"""

import sys
from typing import Any

from quixstreams import Application
from quixstreams.dataframe.windows import Sum


def main() -> None:
    brokers, source, target, group, folder = sys.argv[1:]
    app = Application(
        broker_address=brokers,
        consumer_group=group,
        auto_offset_reset="earliest",
        commit_interval=1.0,  # as often as a flow takes a snapshot
        state_dir=folder,
        processing_guarantee="exactly-once",
        loglevel="ERROR",
    )

    def event_time(value: Any, headers: Any, timestamp_ms: int, kind: Any) -> int:
        return int(value["at"])

    said: list[bool] = []

    def say(value: Any) -> None:
        if not said:
            said.append(True)
            print("RUNNING", flush=True)

    events = app.dataframe(app.topic(source, key_deserializer="str", timestamp_extractor=event_time))
    events = events.update(say)
    sums = events.tumbling_window(10_000, grace_ms=1000).agg(sum_total=Sum("total")).final()
    sums.to_topic(app.topic(target, key_serializer="str"))
    app.run()


main()
