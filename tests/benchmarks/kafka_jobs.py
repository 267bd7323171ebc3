"""The figures of bench_kafka.py, and Faust beside them, for the report: python tests/benchmarks/kafka_jobs.py ROUNDS [WORD]

One process for all of them, since they share a broker, which is in no figure's cost. After each run it prints a line ``FIGURE``
with the figure and its outcome. ``ESB_BENCH_KAFKA_EVENTS`` is the number of events.
"""

import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import bench_kafka
import kafka_broker
import peers
from confluent_kafka import Consumer, TopicPartition
from costs import Outcome, metered
from harness import Figure

from event_streaming_bus.store.log.reading import batches_between

FIGURE: Final = "FIGURE "
LEFT_OUT: Final = "LEFT OUT "
_PATIENCE_S: Final = 300.0


def bare_consumer() -> float:
    """Records a second of a consumer that asks for decided transactions only, from the events that the flows read."""
    topic, wanted, found = bench_kafka._orders(), bench_kafka.EVENTS + bench_kafka.KEYS, 0
    consumer = Consumer(bench_kafka._settings().options(group_id="bare", isolation_level="read_committed"))
    consumer.assign([TopicPartition(topic, i, 0) for i in range(bench_kafka.PARTITIONS)])
    started_s = time.perf_counter()
    while found < wanted:
        found += sum(message.error() is None for message in consumer.consume(10_000, 0.1))
        assert time.perf_counter() - started_s < _PATIENCE_S, (found, wanted)
    took_s = time.perf_counter() - started_s
    consumer.close()
    return found / took_s


def log_reader() -> float:
    """Events a second, read and decoded to envelopes, from the same topic."""
    bench_kafka._orders()
    with bench_kafka._bus() as bus:
        ends = bus.storage.log.end_offsets(bus.storage.log.find_stream("default", "orders").stream_id)
        started_s, found = time.perf_counter(), 0
        for split, end in ends.items():
            found += sum(len(batch.events()) for batch in batches_between(bus.storage.log, split, 0, end))
        took_s = time.perf_counter() - started_s
    assert found == bench_kafka.EVENTS + bench_kafka.KEYS, found
    return found / took_s


def figures() -> list[Figure]:
    """All of bench_kafka.py, and reading; Faust in front of a flow file that is told as a ratio to it."""
    bare = Figure("kafka: bare consumer", "events/s", bare_consumer)
    found = [*bench_kafka.figures(), bare, Figure("kafka: log, read to envelopes", "events/s", log_reader, None, bare.name)]
    try:
        command = [str(peers.python_of("faust")), str(bench_kafka.PEERS / "faust_sum.py")]
    except peers.MissingError as error:
        print(f"{LEFT_OUT}Faust: {error}")
        return found
    faust = Figure("kafka: Faust, at least once", "events/s", bench_kafka._peer(command))
    beside = "kafka: flow file, tumbling sum (beside Faust)"
    return [*found, faust, Figure(beside, "events/s", bench_kafka.flow_file, None, faust.name, 10.0)]


def main() -> int:
    """Run them in turns. A figure that fails is told, and left out of the rounds that follow."""
    rounds, word = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    if kafka_broker.jars() is None:
        print(f"{LEFT_OUT}Kafka: Java or the jars that deploy/kafka/fetch.py fetches are missing")
        return 0
    every = figures()
    named = {figure.name for figure in every if word in figure.name}
    named |= {figure.baseline for figure in every if figure.name in named and figure.baseline}
    failed: set[str] = set()
    for _ in range(rounds):
        for figure in every:
            if figure.name in named - failed:
                try:
                    with redirect_stdout(sys.stderr), metered() as meter:
                        value = figure.run()
                except Exception as error:
                    failed.add(figure.name)
                    print(f"{LEFT_OUT}{figure.name}: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}", flush=True)
                    continue
                events = bench_kafka.EVENTS if figure.unit == "events/s" else bench_kafka.SINGLE
                told: dict[str, Any] = asdict(Outcome(value, None, (meter.children_cpu_s or meter.cpu_s) * 1e6 / events, None))
                about = {"name": figure.name, "unit": figure.unit, "baseline": figure.baseline, "target": figure.target_ratio}
                print(f"{FIGURE}{json.dumps({**about, 'outcome': told})}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
