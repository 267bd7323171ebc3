"""Kafka -> tumbling sums of 10 s by key -> Kafka, exactly once, from a flow file: what a worker process runs.

Arguments: the URL of the bus, the flow file, the milliseconds between snapshots. It prints RUNNING before it reads, and runs
until it is ended.
"""

import sys
from datetime import timedelta

from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main

from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.flows.worker import _spare_the_collector, prepare_recovery
from event_streaming_bus.store.storage import open_storage


def main() -> None:
    url, file, interval_ms = sys.argv[1:]
    storage = open_storage(url)
    plan = deploy(load_flow(file), storage)
    flow = build(plan, storage)
    folder = prepare_recovery(storage, plan)
    _spare_the_collector()
    print("RUNNING", flush=True)
    interval = timedelta(milliseconds=int(interval_ms))
    cli_main(flow, epoch_interval=interval, recovery_config=RecoveryConfig(str(folder), timedelta(0)))


main()
