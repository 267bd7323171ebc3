# Made by `python -m event_streaming_bus.client.twin` of client/positions.py; change that one, and make this one anew.
"""Where a consumer of a server reads: what it has, how far it has come, and going elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.hands import Hands, Place
from event_streaming_bus.client.sync.session import Membership, Session, partitions_of
from event_streaming_bus.consumers.model import Partition
from event_streaming_bus.errors import InvalidInputError, InvalidStateError, StreamNotFoundError
from event_streaming_bus.models import Event, Position, Split, time_ms


class Positions:
    """The part of a consumer that its user navigates by."""

    def __init__(self, session: Session, group: str, tenant_id: str) -> None:
        self._session, self._group, self._tenant_id = session, group, tenant_id
        self._hands = Hands()
        self._member_id: str | None = None
        self._assigned: dict[str, Any] = {"assignment": []}
        self._ids: dict[str, str] = {}

    @property
    def assignment(self) -> tuple[Partition, ...]:
        """The partitions that this consumer reads, as it was last told: when it joined, and at every heartbeat and commit."""
        ids = {}
        for name in {each["stream"] for each in self._assigned["assignment"]}:
            with suppress(StreamNotFoundError):  # dropped since
                ids[name] = self._id_of(name)
        return partitions_of(self._assigned, ids)

    @property
    def retry_stream_id(self) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote(
            "knowing the stream of retried dead letters", "their events come with the place where they were at first"
        )

    def position(self, event: Event) -> Position:
        """Where an event that is in hand was read; for one that is redelivered, at first. Raises ``InvalidStateError`` for
        another."""
        place = self._hands.place(event)
        if place is None:
            raise InvalidStateError(f"The event {event.event_id} is not in hand: it is done, or its partition was taken away.")
        return Position(Split(self._id_of(place.stream), place.lane, place.partition), place.offset)

    def offsets(self) -> dict[Split, int]:
        """For each split of which events were handed out, where to go on once these are done."""
        following = dict(self._hands.following)
        return {Split(self._id_of(stream), lane, partition): at for (stream, partition, lane), at in following.items()}

    def seek(self, split: Split, offset: int) -> None:
        """Go on reading a split at ``offset``; what is in hand of it is forgotten. Blocks. Raises ``InvalidStateError`` for one
        that is not assigned."""
        if offset < 0:
            raise InvalidInputError(f"offset: expected 0 or more, got {offset}")
        self._session.seek_now(self._member(), _of_split(split) | {"offset": offset}, self._tenant_id)
        self._forget([split])

    def seek_to(self, offsets: Mapping[Split, int]) -> None:
        """``seek`` for each of these splits that is assigned; the others are passed over."""
        assigned = set(self.assignment)
        for split, offset in offsets.items():
            if Partition(split.stream_id, split.partition) in assigned:
                self.seek(split, offset)

    def seek_to_beginning(self, splits: Iterable[Split] | None = None) -> None:
        """Go on with the oldest events kept, in these splits or all that are assigned."""
        self._seek_each("earliest", splits)

    def seek_to_end(self, splits: Iterable[Split] | None = None) -> None:
        """Go on with what is published from now on, in these splits or all that are assigned."""
        self._seek_each("latest", splits)

    def seek_to_time(self, time: str | int | datetime, splits: Iterable[Split] | None = None) -> None:
        """Go on with the oldest record batch that has an event at or after this time, in these splits or all that are
        assigned."""
        self._seek_each({"timestamp": time_ms(time)}, splits)

    def _seek_each(self, to: object, splits: Iterable[Split] | None) -> None:
        member = self._member()
        chosen = None if splits is None else list(splits)
        for where in [{}] if chosen is None else [_of_split(split) for split in chosen]:
            self._session.seek(member, where | {"to": to}, self._tenant_id)
        self._forget(chosen)

    def _forget(self, splits: Sequence[Split] | None) -> None:
        lanes = None if splits is None else {(each.stream_id, each.partition, each.lane) for each in splits}

        def is_meant(place: Place) -> bool:
            return lanes is None or (self._ids.get(place.stream, place.stream), place.partition, place.lane) in lanes

        if lanes is not None:
            for stream, _, _ in list(self._hands.following):
                self._id_of(stream)
        self._hands.forget(is_meant)

    def pause(self, *partitions: Partition) -> None:
        """Hand out nothing of these partitions, until ``resume`` or a rebalance. Blocks. Raises ``InvalidStateError`` for one
        that is not assigned."""
        self._set_paused(partitions, paused=True)

    def resume(self, *partitions: Partition) -> None:
        """Go on with paused partitions. Blocks."""
        self._set_paused(partitions, paused=False)

    def _set_paused(self, partitions: Sequence[Partition], *, paused: bool) -> None:
        meant = [{"stream": each.stream_id, "partition": each.partition} for each in partitions]
        self._note_paused(self._session.set_paused(self._member(), meant, self._tenant_id, paused=paused))

    def _note_paused(self, told: Mapping[str, Any]) -> None:
        """The server has told what this member reads."""
        self._hands.pause((each["stream"], each["partition"]) for each in told["assignment"] if each["is_paused"])

    def _id_of(self, stream: str) -> str:
        if stream not in self._ids:
            self._ids[stream] = self._session.of_stream_id(stream, self._tenant_id)
        return self._ids[stream]

    def _member(self) -> Membership:
        """The member as requests name it. Raises ``InvalidStateError``."""
        if self._member_id is None:
            raise InvalidStateError("The consumer is no member of its group yet: poll, or enter it.")
        return self._group, self._member_id


def _of_split(split: Split) -> dict[str, Any]:
    return {"stream": split.stream_id, "partition": split.partition, "lane": split.lane}
