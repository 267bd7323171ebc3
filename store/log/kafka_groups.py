"""Consumer groups as Kafka has them: their members, and in its own ``__consumer_offsets`` where they go on reading, so that its
tools show them.

A group of the bus has its name there, with the tenant before it as topics have. The topic of the lane NORMAL decides who reads a
partition, with all of its lanes. With the strategy range members subscribe to the topics of the other lanes as well, which have
as many partitions, so Kafka gives each partition of all four to the same member, and its tools show whose they are. The other
strategies would give them to anybody, so with these members subscribe to the lane NORMAL only; Kafka takes commits of all lanes.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription  # type: ignore[attr-defined]

from event_streaming_bus.errors import InvalidInputError, InvalidStateError
from event_streaming_bus.models import DEFAULT_TENANT, LANES, EventPriority, Split, StreamInfo
from event_streaming_bus.store.log.group_broker import DescribedGroup, DescribedMember, MemberTerms, Part
from event_streaming_bus.store.log.kafka_errors import UNKNOWN_TOPIC, bus_error, error_of
from event_streaming_bus.store.log.kafka_group_member import KafkaMember
from event_streaming_bus.store.log.kafka_offsets import REQUEST_S, TopicPart, UnknownTopicError
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_topics import topic_of

_NO_GROUP: Final = frozenset({KafkaError.GROUP_ID_NOT_FOUND, KafkaError.INVALID_GROUP_ID})
_OWN: Final = frozenset({"esb-reader", "esb-tail"})
_ANSWER_S: Final = 3.0
_AGAIN_S: Final = 0.05
_AGAIN: Final = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
    }
)
_NOBODY: Final = DescribedGroup(is_stable=True, members=())


class Groups:
    """See ``GroupBroker``; and commits for groups that have no member that Kafka knows of. Safe to use from any thread. ``admit``
    is asked which of the parts that a member is given are the streams'; it may wait for these to grow."""

    def __init__(self, settings: KafkaSettings, admin: AdminClient, admit: Callable[[Iterable[Part]], frozenset[Part]]) -> None:
        self._settings = settings
        self._admin = admin
        self._admit = admit

    # --- members ------------------------------------------------------------------------------------------------------

    def group_name(self, tenant_id: str, name: str) -> str:
        if ".." in name or name in _OWN:
            raise InvalidInputError(
                f"group_name {name!r}: on Kafka, '..' and the names {' and '.join(sorted(_OWN))} are taken", path="group_name"
            )
        return name if tenant_id == DEFAULT_TENANT else f"{tenant_id}..{name}"

    def topics(self, info: StreamInfo, strategy: str) -> list[str]:
        lanes = LANES if strategy == "range" else (EventPriority.NORMAL,)
        return [topic_of(self._settings.prefix, info.config, lane) for lane in lanes]

    def part(self, info: StreamInfo, split: Split) -> Part:
        return topic_of(self._settings.prefix, info.config, split.lane), split.partition

    def join(self, terms: MemberTerms, topics: Sequence[str]) -> KafkaMember:
        def is_stable() -> bool:
            return self.describe([terms.group])[terms.group].is_stable

        return KafkaMember(self._settings, terms, topics, is_stable, self._admit)

    def describe(self, groups: Collection[str]) -> dict[str, DescribedGroup]:
        prefix = self._settings.prefix
        if not groups:
            return {}
        names = [prefix + group for group in groups]
        answers = self._ask(lambda admin: admin.describe_consumer_groups(names, request_timeout=_ANSWER_S), "describing groups")
        return {name.removeprefix(prefix): _NOBODY if told is None else _described(told) for name, told in answers.items()}

    def delete(self, group: str) -> None:
        name = self._settings.prefix + group
        self._ask(lambda admin: admin.delete_consumer_groups([name], request_timeout=_ANSWER_S), f"deleting group {group}")

    # --- offsets ------------------------------------------------------------------------------------------------------

    def commit(self, group: str, offsets: Mapping[TopicPart, int]) -> None:
        """Set the offsets. ``UnknownTopicError`` where a topic is not there."""
        if not offsets:
            return
        parts = [TopicPartition(*part, offset) for part, offset in offsets.items()]
        asked = ConsumerGroupTopicPartitions(self._settings.prefix + group, parts)
        (answer,) = self._ask(
            lambda admin: admin.alter_consumer_group_offsets([asked], request_timeout=_ANSWER_S), f"committing offsets of {group}"
        ).values()
        for part in () if answer is None else answer.topic_partitions or ():
            if (error := part.error) is not None:
                if error.code() in UNKNOWN_TOPIC:
                    raise UnknownTopicError(part.topic)
                if error.code() == KafkaError.UNKNOWN_MEMBER_ID:  # what brokers say to who commits for a group from outside
                    raise InvalidStateError(f"The Kafka group '{group}' has members. Stop them first.", group=group)
                raise bus_error(error, self._settings.brokers, f"committing offsets of {group}")

    def committed(self, group: str) -> dict[TopicPart, int]:
        """Everything that the group has committed."""
        asked = ConsumerGroupTopicPartitions(self._settings.prefix + group)
        (answer,) = self._ask(
            lambda admin: admin.list_consumer_group_offsets([asked], request_timeout=_ANSWER_S), f"reading offsets of {group}"
        ).values()
        parts = () if answer is None else answer.topic_partitions or ()
        return {(part.topic, part.partition): part.offset for part in parts if part.offset >= 0}

    def _ask(self, ask: Callable[[AdminClient], Mapping[str, Any]], doing: str) -> dict[str, Any]:
        """What is answered for each group, ``None`` for one that the brokers do not know. Asks again while they do not answer."""
        deadline = time.monotonic() + REQUEST_S
        while True:
            try:
                return {name: _answered(future) for name, future in ask(self._admin).items()}
            except KafkaException as error:
                reason = error_of(error)
                if reason.code() == KafkaError.NON_EMPTY_GROUP:
                    raise InvalidStateError("The Kafka group has members. Stop them first.") from error
                if reason.code() not in _AGAIN or time.monotonic() > deadline:
                    raise bus_error(reason, self._settings.brokers, doing) from error
            self._admin = AdminClient(self._settings.options())  # one that has missed a broker can go on waiting for it
            time.sleep(_AGAIN_S)


def _answered(future: "Future[Any]") -> Any:
    """What a future of the admin client says, ``None`` where there is no such group."""
    try:
        return future.result()
    except KafkaException as error:
        if error_of(error).code() in _NO_GROUP:
            return None
        raise


def _described(group: ConsumerGroupDescription) -> DescribedGroup:
    members = tuple(
        DescribedMember(
            member_id=member.member_id,
            client_id=member.client_id,
            host=member.host.removeprefix("/"),
            parts=tuple((part.topic, part.partition) for part in member.assignment.topic_partitions),
        )
        for member in group.members
    )
    is_stable = group.state not in (ConsumerGroupState.PREPARING_REBALANCING, ConsumerGroupState.COMPLETING_REBALANCING)
    return DescribedGroup(is_stable=is_stable, members=members)
