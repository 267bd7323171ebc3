"""A process that appends to an aggregate without end, for tests that kill it: ``python kafka_appenders.py URL AGGREGATE OWNER``.

Each append is of two events, at the version that the aggregate was read at. It prints ``VERSION OWNER-NUMBER`` once an append is
acknowledged, and ``conflict`` when another process was faster.
"""

import sys

from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.store.aggregate_errors import AggregateNotFoundError, VersionConflictError


def main(url: str, aggregate_id: str, owner: str) -> None:
    number, version = 0, 0
    with open_bus(url) as bus:
        store = bus.storage.aggregates
        while True:
            events = [NewEvent(event_type="t", event_data={"owner": owner, "number": number, "part": x}) for x in "ab"]
            append = NewEvents(aggregate_id=aggregate_id, aggregate_type="Race", events=events, expected_version=version)
            try:
                version = bus.sourcing.append_now([append])[-1].version
            except VersionConflictError:
                print("conflict", flush=True)
                try:
                    version = store.find(DEFAULT_TENANT, aggregate_id).version
                except AggregateNotFoundError:
                    version = 0
                continue
            print(f"{version} {owner}-{number}", flush=True)
            number += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
