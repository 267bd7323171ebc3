"""Where dead letters go when they are retried: to a processor, to a consumer group, or to a stream; and why some go nowhere."""

import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, TypeAlias

import msgspec

from event_streaming_bus.errors import AlreadyExistsError, BusError, GroupNotFoundError, NotFoundError, StreamNotFoundError
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.reprocessing import plan_around, reprocess
from event_streaming_bus.models import StreamConfig, StreamInfo, rfc3339
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.store.letters import Letter, group_name
from event_streaming_bus.store.redeliveries import retry_stream_name
from event_streaming_bus.store.storage import Storage

VALIDATION: Final = "validation"
"""The step of the letters of events that broke their stream's schema."""
ROUTING: Final = "routing"
"""The step of the letters of events that a routing rule set aside, or could not send on."""
ROUTED_ASIDE: Final = "RoutedToDeadLetters"
"""The type of error of those that it set aside."""


class Kind(StrEnum):
    """What letters go to."""

    PROCESSOR = "PROCESSOR"
    GROUP = "GROUP"
    STREAM = "STREAM"


class Destination(msgspec.Struct, frozen=True):
    """What a letter goes to, with its name as it is now."""

    kind: Kind
    id: str
    name: str


Target: TypeAlias = tuple[StreamInfo, SchemaGuard | None]


class Destinations:
    """Where the letters of one tenant go. For one call: streams, schemas and flows are looked up once, groups at each
    ``lookup``, for what is sent to a group that is no longer there would be lost."""

    def __init__(self, storage: Storage, tenant_id: str) -> None:
        self._storage = storage
        self._tenant_id = tenant_id
        self._schemas = SchemaRegistryService(storage)
        self._plans: dict[str, tuple[Plan, Destination] | BusError] = {}
        self._streams: dict[str, Destination | BusError] = {}  # by the id that letters tell
        self._targets: dict[str, Target] = {}
        self._groups: dict[str, Destination | BusError] = {}

    def lookup(self, letters: Sequence[Letter]) -> list[Destination | BusError]:
        """Where each letter goes, or why it cannot be retried. Nothing is changed."""
        self._groups.clear()
        return [self._destination(letter) for letter in letters]

    def plan(self, destination: Destination) -> Plan:
        """The part of the flow around a processor that ``lookup`` found."""
        found = self._plans[destination.id]
        assert not isinstance(found, BusError)  # noqa: S101 - it was found
        return found[0]

    def target(self, destination: Destination) -> Target:
        """The stream that ``lookup`` found, and its guard."""
        return self._targets[destination.id]

    def guard(self, stream_id: str) -> SchemaGuard | None:
        """The guard of a stream that ``lookup`` found; ``None`` for one without, and for any other stream."""
        return self._targets.get(stream_id, (None, None))[1]

    def retry_stream(self, destination: Destination, first: Letter) -> StreamInfo:
        """The stream of redeliveries of a group, made if it is missing: with as many partitions as the stream that the ``first``
        letter comes from, so that as many members as there can be are kept busy."""
        log, name = self._storage.log, retry_stream_name(destination.id)
        try:
            return log.find_stream(self._tenant_id, name)
        except StreamNotFoundError:
            pass
        try:
            partitions = self._find_stream(first).config.partitions
        except StreamNotFoundError:
            partitions = 1
        try:
            return log.create_stream(StreamConfig(name=name, tenant_id=self._tenant_id, partitions=partitions))
        except AlreadyExistsError:  # another retry was first, with letters of another stream
            return log.find_stream(self._tenant_id, name)

    def _destination(self, letter: Letter) -> Destination | BusError:
        why = letter.why
        step, group_id = why.get("step"), why.get("group_id")
        if why.get("processor_id") is not None:
            return self._processor(str(why["processor_id"]))
        if group_name(why) is not None and group_id is not None:
            return _expired(why) or self._group(str(group_id), str(group_name(why)))
        if step == VALIDATION or (step == ROUTING and why.get("error_type") == ROUTED_ASIDE):
            return self._stream(letter)
        if step == ROUTING:
            return BusError(
                f"the rule '{why.get('rule')}' could not send it on, and a retry does not route: publish the event anew"
            )
        return BusError(f"it comes from {step or 'no known step'}, which cannot be retried; publish the event anew")

    def _processor(self, processor_id: str) -> Destination | BusError:
        if processor_id not in self._plans:
            try:
                plan = plan_around(self._storage, self._tenant_id, processor_id)
                name = next(node.name for node in plan.nodes() if node.processor_id == processor_id)
                reprocess(self._storage, plan, name, [])  # no letter, but all that it needs
                self._plans[processor_id] = plan, Destination(Kind.PROCESSOR, processor_id, name)
            except BusError as error:
                self._plans[processor_id] = error
        found = self._plans[processor_id]
        return found if isinstance(found, BusError) else found[1]

    def _group(self, group_id: str, name: str) -> Destination | BusError:
        if group_id not in self._groups:
            with self._storage.groups.reading("looking for a consumer group") as tables:
                group = tables.group(group_id)
            if group is not None and group.tenant_id == self._tenant_id:
                self._groups[group_id] = Destination(Kind.GROUP, group_id, group.name)
            else:
                self._groups[group_id] = GroupNotFoundError(
                    f"the consumer group '{name}' ({group_id}), whose member set it aside, no longer exists: publish the event "
                    "anew, or drop the letter"
                )
        return self._groups[group_id]

    def _stream(self, letter: Letter) -> Destination | BusError:
        stream_id = str(letter.why.get("stream_id"))
        if stream_id not in self._streams:
            try:
                stream = self._find_stream(letter)
                self._targets[stream.stream_id] = stream, self._schemas.guard_of(stream)
                self._streams[stream_id] = Destination(Kind.STREAM, stream.stream_id, stream.name)
            except NotFoundError as error:
                self._streams[stream_id] = error
        return self._streams[stream_id]

    def _find_stream(self, letter: Letter) -> StreamInfo:
        """The stream of a letter's event, by its id or, where it was made anew, its name."""
        log, why = self._storage.log, letter.why
        try:
            return log.find_stream(self._tenant_id, str(why.get("stream_id")))
        except StreamNotFoundError:
            return log.find_stream(self._tenant_id, str(why.get("stream")))


def _expired(why: Mapping[str, Any]) -> BusError | None:
    """Why an event that has expired goes to no group: its members would skip it."""
    expires_at_ms = why.get("expires_at_ms")
    if not isinstance(expires_at_ms, int) or expires_at_ms > time.time_ns() // 1_000_000:
        return None
    return BusError(f"the event expired at {rfc3339(expires_at_ms)}, and consumers skip it: publish it anew, or drop the letter")
