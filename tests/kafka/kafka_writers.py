"""A process that appends without end, for tests that kill it: ``python kafka_writers.py URL STREAM_ID OWNER``.

Each append is of three streams' worth: two events of a stream, one of another, a mark that counts, and the journal. It prints the
count once it is acknowledged.
"""

import sys
from collections.abc import Sequence

from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append, AppendResult, Mark
from event_streaming_bus.store.log.kafka import KafkaLog
from event_streaming_bus.store.log.kafka_settings import parse_url


def main(url: str, stream_id: str, other_id: str, owner: str) -> None:
    log = KafkaLog(parse_url(url, "unused"))
    value = log.marks(owner).get("count")

    def journal(results: Sequence[AppendResult]) -> Append:
        ((_, offset, count),) = results[0].written
        return Append(other_id, [Event(f"journal-{owner}-{number}", "journal", offset, b"%d" % count)])

    while True:
        number = int(value or b"0") + 1
        events = [Event(f"{owner}-{number}-{x}", "t", number, b"%d" % number, key=owner) for x in "ab"]
        log.append([Append(stream_id, events)], marks=[Mark(owner, "count", value, b"%d" % number)], journal=journal)
        value = b"%d" % number
        print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
