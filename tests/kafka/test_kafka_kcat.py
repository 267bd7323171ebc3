"""kcat at the bus's topics: it sees keys, headers and payloads, and what it writes enters streams."""

import shutil
import subprocess

import pytest

from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import EventConfig, StreamConfig
from event_streaming_bus.store.log.kafka_partitions import partition_of
from event_streaming_bus.store.log.kafka_settings import parse_url
from event_streaming_bus.testing import read_all

pytestmark = pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is missing (Debian: kcat)")
KEYS = ["a", "customer-1", "ключ"]


def kcat(url: str, topic: str, *options: str, given: str = "") -> list[str]:
    """The lines that kcat prints."""
    settings = parse_url(url, "unused")
    command = ["kcat", "-b", settings.brokers, "-t", settings.prefix + topic, *options]
    done = subprocess.run(command, input=given, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_kcat_reads_what_the_bus_publishes(url: str) -> None:
    with open_bus(url) as bus:
        bus.storage.log.create_stream(StreamConfig(name="to-kcat", partitions=3))
        payloads = [{"n": n} for n in range(3)]
        await bus.publishing.publish_batch(EventConfig(event_type="seen"), payloads, stream_id="to-kcat", keys=KEYS)
    lines = kcat(url, "to-kcat", "-C", "-e", "-q", "-f", "%k\t%p\t%s\t%h\n")
    seen = {key: (int(partition), payload, headers) for key, partition, payload, headers in (line.split("\t") for line in lines)}
    assert sorted(seen) == sorted(KEYS)
    for n, key in enumerate(KEYS):
        partition, payload, headers = seen[key]
        assert (partition, payload) == (partition_of(key, 3), f'{{"n":{n}}}')
        assert {"ce_type=seen", "content-type=application/json"} <= set(headers.split(","))


def test_the_bus_reads_what_kcat_writes(url: str) -> None:
    with open_bus(url) as bus:
        bus.storage.log.create_stream(StreamConfig(name="of-kcat", partitions=3))
        lines = "".join(f'{key}|{{"n":{n}}}\n' for n, key in enumerate(KEYS))
        kcat(url, "of-kcat", "-P", "-K", "|", "-X", "partitioner=murmur2_random", given=lines)
        events = read_all(bus, "of-kcat")
        ends = bus.log.end_offsets(bus.log.find_stream("default", "of-kcat").stream_id)
    assert sorted((event.key, event.payload["n"]) for event in events) == sorted(zip(KEYS, range(3), strict=True))
    counts = [sum(end for split, end in ends.items() if split.partition == partition) for partition in range(3)]
    assert counts == [sum(partition_of(key, 3) == partition for key in KEYS) for partition in range(3)]
