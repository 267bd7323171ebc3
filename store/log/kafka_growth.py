"""Streams that follow their topics: partitions that somebody has added to one of them become the stream's.

Kafka's operators add partitions to a topic, and a stream is four of them. So each process that has the log open looks at the
topics now and then. Where one has more partitions than the stream's record says, it gives the topics of the other lanes as many,
and then has the record say so, which is what everybody goes by. Several that see it at the same time do no harm.
"""

import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from event_streaming_bus.errors import BusError
from event_streaming_bus.store.log.kafka_control import Control
from event_streaming_bus.store.log.kafka_offsets import TopicPart
from event_streaming_bus.store.log.kafka_streams import Streams

LOOK_S: Final = 5.0
"""How long partitions that were added may go unnoticed. A look is one request for the metadata of the streams' topics."""
_ANSWER_S: Final = 3.0
_CLOSE_S: Final = 1.0
_log: Final = logging.getLogger("event_streaming_bus.kafka")


class Growth:
    """Looks at the topics in a thread of its own, so that nobody waits for it. Safe to use from any thread.

    What cannot be done, for want of rights for instance, is told to the log of the process, once for each stream and reason, and
    tried again with the next look: the stream stays as it is until then.
    """

    def __init__(self, control: Control, streams: Streams) -> None:
        self._control = control
        self._streams = streams
        self._told: set[tuple[str, str]] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="esb-kafka-growth", daemon=True)
        self._thread.start()

    def admit(self, parts: Iterable[TopicPart]) -> frozenset[TopicPart]:
        """Those of the parts that are the streams', after these have grown to them where that can be done. Blocks."""
        parts = frozenset(parts)
        with suppress(BusError):
            self._control.refresh()
        wanted: dict[str, int] = {}
        infos = self._streams.of_topics()
        for topic, partition in parts:
            if topic in infos and partition >= infos[topic].config.partitions:
                stream_id = infos[topic].stream_id
                wanted[stream_id] = max(partition + 1, wanted.get(stream_id, 0))
        if wanted:
            self._grow(wanted)
            infos = self._streams.of_topics()
        return frozenset(part for part in parts if part[0] not in infos or part[1] < infos[part[0]].config.partitions)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._closing.wait(LOOK_S):
            try:
                self._control.refresh()
                self._grow(self._streams.larger(_ANSWER_S))
            except BusError:  # the brokers do not answer: who asks them for something that matters is told
                continue
            except Exception:  # the log was closed in the midst of it; or else the next look may be luckier
                if not self._closing.is_set():
                    _log.exception("looking for partitions that were added to topics failed")

    def _grow(self, wanted: dict[str, int]) -> None:
        for stream_id, partitions in wanted.items():
            before = self._control.stream(stream_id)
            name = stream_id if before is None else before.name
            try:
                info = self._streams.grow(stream_id, partitions)
            except BusError as error:
                if not self._closing.is_set() and (stream_id, error.message) not in self._told:
                    self._told.add((stream_id, error.message))
                    _log.warning("partitions that were added to a topic of %s are not used: %s", name, error.message)
            else:
                _log.info("the stream %s has %d partitions now: they were added to a topic", name, info.config.partitions)
