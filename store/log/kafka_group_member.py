"""A member of a Kafka consumer group: librdkafka's, which joins, sends heartbeats and commits, but fetches nothing.

One thread does all that is asked of librdkafka's consumer, since calls of its binding wait for each other: it polls, and between
two polls it does what others ask for. When librdkafka wants partitions back, it waits in that callback until they have been given
up, and meanwhile goes on doing what it is asked for, so that a last commit is one of the generation that ends.

Fencing: a commit carries the member's id and generation, and the broker refuses one that is over. librdkafka forgets both once it
hears that it was put out, and what it commits then would count as that of an administrator if nobody is in the group; so the
thread looks at both before each commit, and refuses it itself.

A cooperative member holds on to its partitions while it joins again, which librdkafka tells nobody of. A commit that is sent
behind a request to join is answered after it, when its generation is over, and librdkafka then drops everything. So before each
of its commits the thread asks whether the group is stable, and waits until it is.
"""

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from event_streaming_bus.errors import BusError, CorruptLogError, InvalidInputError, StorageError, UnknownMemberError
from event_streaming_bus.store.log.group_broker import MemberTerms, Part, Phase, Standing
from event_streaming_bus.store.log.kafka_errors import UNKNOWN_TOPIC, bus_error, error_of, kafka_errors
from event_streaming_bus.store.log.kafka_settings import KafkaSettings

STRATEGIES: Final[Mapping[str, str]] = {
    "range": "range",
    "roundrobin": "roundrobin",
    "sticky": "cooperative-sticky",
    "cooperative-sticky": "cooperative-sticky",
}
"""librdkafka's assignor for each of the bus's strategies. It has no eager sticky one."""

_LOOK_S: Final = 0.02
_GIVEN_UP_S: Final = 2.0
_CALL_S: Final = 60.0
_CLOSE_S: Final = 10.0
_FORGOTTEN_TIMES: Final = 3  # heartbeats of its user can be late while the brokers do not answer
_METADATA: Final = b"CGMDv2:"
_FENCED: Final = frozenset(
    {KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_INSTANCE_ID, KafkaError._ASSIGNMENT_LOST}
)
_HOPELESS: Final = frozenset(
    {
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
        KafkaError.INVALID_SESSION_TIMEOUT,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.GROUP_MAX_SIZE_REACHED,
        KafkaError._AUTHENTICATION,
        KafkaError._FATAL,
    }
)
_replace: Final = msgspec.structs.replace


class KafkaMember:
    """See ``BrokerMember``. ``topics`` is what it subscribes to; ``is_stable`` asks the brokers whether nobody is joining, and
    ``admit`` the log which of the parts that it is given it may hold."""

    def __init__(
        self,
        settings: KafkaSettings,
        terms: MemberTerms,
        topics: Sequence[str],
        is_stable: Callable[[], bool],
        admit: Callable[[Iterable[Part]], frozenset[Part]],
    ) -> None:
        self._terms = terms
        self._is_stable = is_stable
        self._admit = admit
        self._brokers = settings.brokers
        self._topics = list(topics)
        self._assignor = STRATEGIES[terms.strategy]
        self._session_s = terms.session_timeout_ms / 1000
        self._changed = threading.Condition()
        self._standing = Standing()
        self._calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._given_up = self._is_closing = self._is_rejoining = False
        self._touched_s = time.monotonic()
        options: dict[str, Any] = {
            "group.id": settings.prefix + terms.group,
            "partition.assignment.strategy": self._assignor,
            "session.timeout.ms": terms.session_timeout_ms,
            "heartbeat.interval.ms": terms.heartbeat_interval_ms,
            # How long the brokers wait for it in a rebalance. Whether its user polls is not librdkafka's to see.
            "max.poll.interval.ms": max(terms.rebalance_timeout_ms, terms.session_timeout_ms),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "allow.auto.create.topics": False,
            "topic.metadata.refresh.interval.ms": 10_000,
        }
        if terms.client_id:
            options["client.id"] = terms.client_id
        with kafka_errors(self._brokers, f"joining group {terms.group}"):
            self._consumer = Consumer(settings.options() | options)
            self._subscribe()
        self._thread = threading.Thread(target=self._run, name=f"esb-kafka-member-{terms.group}", daemon=True)
        self._thread.start()

    # --- any thread ---------------------------------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        return self._standing

    @property
    def is_cooperative(self) -> bool:
        return self._assignor == "cooperative-sticky"

    def touch(self) -> None:
        self._touched_s = time.monotonic()

    def await_change(self, standing: Standing, timeout_s: float) -> Standing:
        with self._changed:
            self._changed.wait_for(lambda: self._standing is not standing, timeout_s)
            return self._standing

    def give_up(self) -> None:
        with self._changed:
            if self._standing.phase is Phase.REVOKING:
                self._given_up = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._standing.phase is not Phase.REVOKING, _GIVEN_UP_S)

    def subscribe(self, topics: Sequence[str]) -> None:
        def subscribe() -> None:
            self._topics = list(topics)
            self._subscribe()

        self._call(subscribe)

    def rejoin(self) -> None:
        def rejoin() -> None:
            if self.is_cooperative:  # it takes no notice of being subscribed to what it is subscribed to
                self._is_rejoining = True
                self._consumer.unsubscribe()
            self._subscribe()

        self._call(rejoin)

    def commit(self, offsets: Mapping[Part, int]) -> None:
        self._call(lambda: self._commit(offsets))

    def put_out(self, why: str) -> None:
        self._out(why)

    def close(self) -> None:
        self._out("it left")
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_S)

    def _call(self, do: Callable[[], None]) -> None:
        """Let the thread do it; what it raises is raised here."""
        done: Future[None] = Future()
        with self._changed:
            if self._is_closing:
                raise self._unknown()
            self._calls.append((do, done))
            self._changed.notify_all()
        try:
            done.result(_CALL_S)
        except TimeoutError as error:
            raise StorageError(
                f"No Kafka broker at {self._brokers} answered a member of group {self._terms.group} for {_CALL_S:g} s.",
                brokers=self._brokers,
            ) from error

    def _unknown(self) -> UnknownMemberError:
        standing = self._standing
        return UnknownMemberError(
            f"'{standing.member_id}' is not in consumer group '{self._terms.group}' any more: {standing.why}. "
            "Join without a member id to become a member.",
            group=self._terms.group,
            member_id=standing.member_id,
        )

    def _stands(self, **changes: Any) -> None:
        with self._changed:
            if self._standing.phase is not Phase.OUT:
                self._standing = _replace(self._standing, **changes)
                self._changed.notify_all()

    def _out(self, why: str, failure: BusError | None = None) -> None:
        with self._changed:
            self._is_closing = True
            if self._standing.phase is not Phase.OUT:
                nothing: frozenset[Part] = frozenset()
                self._standing = _replace(
                    self._standing, phase=Phase.OUT, holds=nothing, leaving=nothing, why=why, failure=failure
                )
            self._changed.notify_all()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_closing:
                message = self._consumer.poll(0)
                if message is not None and (error := message.error()) is not None:
                    self._hear(error)
                self._look()
                self._serve(_LOOK_S)
        except KafkaException as error:
            self._out(str(error), bus_error(error_of(error), self._brokers, f"being in group {self._terms.group}"))
        except BusError as error:
            self._out(error.message, error)
        finally:
            self._out("it left")
            with suppress(KafkaException, RuntimeError):
                self._consumer.close()
            self._serve(0)

    def _serve(self, timeout_s: float) -> None:
        """Do what was asked for; wait for it, if there is nothing."""
        with self._changed:
            if not self._calls and not self._is_closing and timeout_s:
                self._changed.wait(timeout_s)
            calls, self._calls = self._calls, deque()
        for do, done in calls:
            try:
                if self._is_closing:
                    raise self._unknown()
                do()
                done.set_result(None)
            except KafkaException as error:
                done.set_exception(bus_error(error_of(error), self._brokers, f"being in group {self._terms.group}"))
            except BaseException as error:
                done.set_exception(error)

    def _subscribe(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _look(self) -> None:
        """See whether it is still the member that it was, and in which generation."""
        if time.monotonic() - self._touched_s > _FORGOTTEN_TIMES * self._session_s:
            self._out(f"nobody asked for it for {_FORGOTTEN_TIMES} times session_timeout_ms")
            return
        generation, member_id = self._identity()
        standing = self._standing
        if standing.member_id and member_id != standing.member_id:
            if not self._is_rejoining:
                self._lose()
                return
            if member_id:
                self._stands(member_id=member_id)
        elif (standing.generation, standing.member_id) != (generation, member_id) and generation >= standing.generation:
            self._stands(member_id=member_id, generation=generation)

    def _identity(self) -> tuple[int, str]:
        """Generation and id as librdkafka knows them, ``-1`` and empty if it has none."""
        metadata: bytes = self._consumer.consumer_group_metadata()
        if not metadata.startswith(_METADATA):
            raise CorruptLogError("This version of librdkafka tells of groups in another way than the bus understands.")
        (generation,) = struct.unpack_from("=i", metadata, len(_METADATA))
        texts = metadata[len(_METADATA) + 4 :].split(b"\0")  # group and member, each with a zero behind it
        return generation, texts[1].decode() if len(texts) > 2 else ""

    def _hear(self, error: KafkaError) -> None:
        """An error that librdkafka tells of. It tries again by itself whatever can be tried again."""
        code, group = error.code(), self._terms.group
        if code not in _HOPELESS:
            return
        failure: BusError
        if code == KafkaError.INVALID_SESSION_TIMEOUT:
            failure = InvalidInputError(
                f"session_timeout_ms of group '{group}' is {self._terms.session_timeout_ms}, which the Kafka brokers do not "
                "take: group.min.session.timeout.ms (6000 unless it is set) and group.max.session.timeout.ms are their bounds.",
                path="session_timeout_ms",
            )
        elif code == KafkaError.INCONSISTENT_GROUP_PROTOCOL:
            failure = StorageError(
                f"The Kafka group '{group}' has members that share out partitions in another way than {self._assignor}: "
                "consumers that are not the bus's, or were started before the group's settings changed. Stop them first.",
            )
        else:
            failure = bus_error(error, self._brokers, f"joining group {group}")
        self._out(failure.message, failure)

    # --- what librdkafka asks for, in the thread ----------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._is_closing:
            return
        given = self._admit((part.topic, part.partition) for part in partitions)
        if self.is_cooperative:
            consumer.incremental_assign(partitions)
            given |= self._standing.holds
        else:
            consumer.assign(partitions)
        if partitions:
            consumer.pause(partitions)  # what is in them is read elsewhere
        self._is_rejoining = False
        generation, member_id = self._identity()
        self._stands(phase=Phase.ASSIGNED, generation=generation, member_id=member_id, holds=given, leaving=frozenset())

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        leaving = frozenset((part.topic, part.partition) for part in partitions) & self._standing.holds
        deadline = time.monotonic() + self._terms.rebalance_timeout_ms / 1000
        self._given_up = False
        if leaving:
            self._stands(phase=Phase.REVOKING, leaving=leaving)
        while leaving and not self._given_up and not self._is_closing:
            if time.monotonic() > deadline:
                self._out(f"it did not join again within rebalance_timeout_ms = {self._terms.rebalance_timeout_ms}")
                return
            self._serve(_LOOK_S)
            self._look()
        kept = self._standing.holds - leaving
        phase = Phase.ASSIGNED if self.is_cooperative and not self._is_rejoining else Phase.JOINING
        self._stands(phase=phase, holds=kept, leaving=frozenset())

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._lose()

    def _lose(self) -> None:
        self._out(
            f"the brokers had no heartbeat of it for session_timeout_ms = {self._terms.session_timeout_ms}, or it did not join a "
            "rebalance in time"
        )

    # --- commits, in the thread ---------------------------------------------------------------------------------------

    def _commit(self, offsets: Mapping[Part, int]) -> None:
        parts = [TopicPartition(*part, offset) for part, offset in offsets.items()]
        deadline = time.monotonic() + self._session_s
        while parts:
            if self.is_cooperative and not self._is_stable():
                self._check_patience(deadline)
                time.sleep(_LOOK_S)
                continue
            generation, member_id = self._identity()
            if generation < 0 or member_id != self._standing.member_id:
                self._lose()
                raise self._unknown()
            try:
                answered = self._consumer.commit(offsets=parts, asynchronous=False) or []
                errors = [(part.error, part) for part in answered if part.error is not None]
            except KafkaException as error:
                errors = [(error_of(error), part) for part in parts]
            codes = {error.code() for error, _ in errors}
            if codes & _FENCED:
                self._lose()
                raise self._unknown()
            parts = [part for error, part in errors if error.code() == KafkaError.REBALANCE_IN_PROGRESS]
            others = [error for error, _ in errors if error.code() != KafkaError.REBALANCE_IN_PROGRESS]
            if others and others[0].code() not in UNKNOWN_TOPIC:  # what is dropped is passed over
                raise bus_error(others[0], self._brokers, f"committing offsets of {self._terms.group}")
            if parts:
                self._check_patience(deadline)
                parts = [TopicPartition(part.topic, part.partition, offsets[part.topic, part.partition]) for part in parts]
                time.sleep(_LOOK_S)

    def _check_patience(self, deadline: float) -> None:
        if self._is_closing:
            raise self._unknown()
        if time.monotonic() > deadline:
            raise StorageError(f"Consumer group '{self._terms.group}' is rebalancing for too long. Commit again.")
