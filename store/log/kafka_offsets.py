"""Where the partitions of topics begin and end, as the brokers say at this moment."""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

from confluent_kafka import OFFSET_INVALID, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from event_streaming_bus.store.log.kafka_errors import UNKNOWN_TOPIC, bus_error, error_of
from event_streaming_bus.store.log.kafka_settings import KafkaSettings

TopicPart: TypeAlias = tuple[str, int]
"""A partition of a topic."""

REQUEST_S: Final = 30.0
_AGAIN_S: Final = 0.02
_ANSWER_S: Final = 2.0  # librdkafka waits as long as it may for a leader that it has missed, where asking anew finds it
_NO_LEADER: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError._NOENT,
        KafkaError._TIMED_OUT,
    }
)
_EARLIEST: Final[Any] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Final[Any] = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class UnknownTopicError(Exception):
    """A topic is not there; ``args`` has its name."""


class Offsets:
    """Asks for offsets. Safe to use from any thread."""

    def __init__(self, admin: AdminClient, settings: KafkaSettings) -> None:
        self._admin = admin
        self._settings = settings

    def begins(self, parts: Iterable[TopicPart]) -> dict[TopicPart, int]:
        """The offset of the oldest record kept. Like all here, ``UnknownTopicError`` where a topic is not there."""
        return self._ask(list(parts), _EARLIEST)

    def ends(self, parts: Iterable[TopicPart]) -> dict[TopicPart, int]:
        """The last stable offset: everything before it is decided and can be read."""
        return self._ask(list(parts), _LATEST)

    def bounds(self, parts: Iterable[TopicPart]) -> tuple[dict[TopicPart, int], dict[TopicPart, int]]:
        """``(begins, ends)``, asked together."""
        parts = list(parts)
        sent = self._send(parts, _EARLIEST), self._send(parts, _LATEST)
        return self._ask(parts, _EARLIEST, sent=sent[0]), self._ask(parts, _LATEST, sent=sent[1])

    def undecided_ends(self, parts: Iterable[TopicPart]) -> dict[TopicPart, int]:
        """The offset that the next record gets, whether or not the transactions before it are decided."""
        return self._ask(list(parts), _LATEST, IsolationLevel.READ_UNCOMMITTED)

    def from_time(self, parts: Iterable[TopicPart], at_ms: int) -> dict[TopicPart, int | None]:
        """The offset of the first record whose time is at or after ``at_ms``; ``None`` if there is none."""
        found = self._ask(list(parts), OffsetSpec.for_timestamp(max(0, at_ms)))
        return {part: None if offset < 0 else offset for part, offset in found.items()}

    def _send(
        self, parts: Iterable[TopicPart], spec: Any, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> Mapping[TopicPartition, Any]:
        asked = {TopicPartition(*part): spec for part in parts}
        return self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=_ANSWER_S) if asked else {}

    def _ask(
        self,
        parts: Iterable[TopicPart],
        spec: Any,
        isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
        sent: Mapping[TopicPartition, Any] | None = None,
    ) -> dict[TopicPart, int]:
        """The answers for all parts; what fails because a partition changes its leader is asked again."""
        found: dict[TopicPart, int] = {}
        deadline = time.monotonic() + REQUEST_S
        futures = self._send(parts, spec, isolation) if sent is None else sent
        while futures:
            again: list[TopicPart] = []
            timed_out = False
            for part, future in futures.items():
                try:
                    offset = future.result().offset
                    if offset == OFFSET_INVALID:  # no answer, and no error either: while its leader goes, librdkafka does that
                        raise KafkaException(KafkaError(KafkaError.OFFSET_NOT_AVAILABLE))
                    found[part.topic, part.partition] = offset
                except KafkaException as error:
                    reason = error_of(error)
                    if reason.code() in UNKNOWN_TOPIC:
                        raise UnknownTopicError(part.topic) from error
                    if reason.code() not in _NO_LEADER or time.monotonic() > deadline:
                        raise bus_error(reason, self._settings.brokers, f"asking for the offsets of {part.topic}") from error
                    timed_out = timed_out or reason.code() == KafkaError._TIMED_OUT
                    again.append((part.topic, part.partition))
            if timed_out:
                self._admin = AdminClient(self._settings.options())  # one that has missed a broker can go on waiting for it
            if again:
                time.sleep(_AGAIN_S)
                with suppress(KafkaException):
                    self._admin.list_topics(again[0][0], timeout=_ANSWER_S)  # else it goes on asking the leader it knows of
            futures = self._send(again, spec, isolation)
        return found
