"""Messages on WebSockets and between the hosts of a cluster, and the small texts that clients hand back."""

from typing import Final

import msgspec
from fuzz_target import Target

from event_streaming_bus.api.event_stream import read_token
from event_streaming_bus.api.monitoring_messages import METRICS, Subscription, changed
from event_streaming_bus.api.stream_browsing import places_of
from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.flows import cluster_messages
from event_streaming_bus.models import StreamConfig, StreamInfo
from event_streaming_bus.tracing.traceparent import parsed


def run_messages(data: bytes) -> None:
    """A client's message to the monitoring, and a line of one host to another."""
    subscription: Subscription | None = Subscription()
    for line in data.split(b"\n", 4):
        try:
            subscription = changed(subscription, line)
        except InvalidInputError as error:
            str(error).encode()
        else:
            assert subscription is None or set(subscription.metrics) <= set(METRICS)
        try:
            message = cluster_messages.decode(line)
        except msgspec.DecodeError:
            continue
        assert cluster_messages.decode(cluster_messages.encode(message)) == message


_STREAM: Final = StreamInfo(stream_id="str_1", config=StreamConfig(name="orders", partitions=4), created_at_ms=0)


def run_words(data: bytes) -> None:
    """Cursors, tokens of positions and trace contexts as clients hand them back."""
    text = data.decode("utf-8", "replace")
    for read in (read_token, lambda cursor: places_of(_STREAM, cursor, False), parsed):
        try:
            read(text)  # type: ignore[operator]
        except BusError as error:
            str(error).encode()


MESSAGES: Final = Target(
    "messages",
    run_messages,
    2048,
    (b'"type":"subscribe"', b'"type":"unsubscribe"', b'"streams":["a"]', b'"metrics":["latency"]', b"[" * 900),
)
WORDS: Final = Target("words", run_words, 1024, (b"kQ", b"AAAA", b"00-", b"-01", b"=="))
