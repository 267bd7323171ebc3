"""A member of a consumer group that the server hosts: the requests of its client."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from event_streaming_bus.client.answers import PolledData
from event_streaming_bus.client.hands import Act
from event_streaming_bus.client.remote_service import Data, RemoteService
from event_streaming_bus.client.requests import path_of
from event_streaming_bus.consumers.model import Partition
from event_streaming_bus.errors import AlreadyExistsError, GroupNotFoundError

MAX_POLL_S: Final = 20.0
"""How long one request waits for events; the server takes up to 30 s."""
MAX_POLL_EVENTS: Final = 5000
Membership = tuple[str, str]
"""A group, by its name or id, and the id of a member."""


class Session(RemoteService):
    """One member, from when it joins until it leaves. What it has acknowledged is done, and nothing else."""

    async def join(self, group: str, wanted: Data, tenant_id: str) -> Data:
        """Become a member that reads what is wanted; the group is made with the default settings if it is not there."""
        body = {**wanted, "auto_commit": False}
        path = path_of("consumer-groups", group, "members")
        try:
            return await self._asked(Data, "POST", path, tenant_id, body)
        except GroupNotFoundError:
            try:
                config = {"group_name": group}
                await self._asked(Data, "POST", path_of("consumer-groups"), tenant_id, config, is_keyed=True)
            except AlreadyExistsError:  # made by somebody else since, with other settings
                pass
        return await self._asked(Data, "POST", path, tenant_id, body)

    async def poll(self, member: Membership, max_events: int, timeout_s: float, received: int, tenant_id: str) -> PolledData:
        """The next events. ``received`` the number of the last answer that came, so that one
        which was lost on its way is given again."""
        body = {"max_events": max_events, "timeout_ms": int(timeout_s * 1000), "received": received}
        path = path_of(*_path(member), "poll")
        return await self._asked(PolledData, "POST", path, tenant_id, body, is_repeatable=True, more_s=timeout_s)

    async def act(self, member: Membership, act: Act, tenant_id: str) -> int:
        """Do something with events in hand; of how many of them nothing is in hand any more."""
        path = path_of(*_path(member), act.kind)
        return len((await self._asked(Data, "POST", path, tenant_id, act.body(), is_repeatable=True))["not_in_hand"])

    async def tell(self, member: Membership, what: str, tenant_id: str) -> Data:
        """``commit`` or ``heartbeat``; says the generation and the assignment."""
        path = path_of(*_path(member), what)
        return await self._asked(Data, "POST", path, tenant_id, is_repeatable=True)

    async def seek(self, member: Membership, place: Mapping[str, Any], tenant_id: str) -> Data:
        """Go on elsewhere."""
        path = path_of(*_path(member), "seek")
        return await self._asked(Data, "POST", path, tenant_id, place, is_repeatable=True)

    async def leave(self, member: Membership, received: int, tenant_id: str) -> Data:
        """Leave the group; leaving twice is harmless."""
        path = path_of(*_path(member), received=received)
        return await self._asked(Data, "DELETE", path, tenant_id, is_repeatable=True)

    async def stream_id(self, stream: str, tenant_id: str) -> str:
        """The id of a stream, by its name or id."""
        return str((await self._asked(Data, "GET", path_of("streams", stream), tenant_id))["stream_id"])

    def of_stream_id(self, stream: str, tenant_id: str) -> str:
        """As ``stream_id``, blocking."""
        return self._connection.now(self.stream_id(stream, tenant_id))

    def beat(self, member: Membership, tenant_id: str) -> Data:
        """A heartbeat, blocking."""
        return self._connection.now(self.tell(member, "heartbeat", tenant_id))

    def seek_now(self, member: Membership, place: Mapping[str, Any], tenant_id: str) -> None:
        """As ``seek``, blocking."""
        self._connection.now(self.seek(member, place, tenant_id))

    def set_paused(self, member: Membership, partitions: Sequence[Mapping[str, Any]], tenant_id: str, *, paused: bool) -> Data:
        """Have nothing handed out of these partitions, or go on with them. Blocks."""
        path = path_of(*_path(member), "pause" if paused else "resume")
        asked = self._asked(Data, "POST", path, tenant_id, {"partitions": partitions}, is_repeatable=True)
        told: Data = self._connection.now(asked)
        return told

    def leave_now(self, member: Membership, received: int, tenant_id: str) -> None:
        """As ``leave``, blocking."""
        self._connection.now(self.leave(member, received, tenant_id))


def _path(member: Membership) -> tuple[str, ...]:
    return "consumer-groups", member[0], "members", member[1]


def partitions_of(told: Data, ids: Mapping[str, str]) -> tuple[Partition, ...]:
    """An assignment as the server tells it; streams of which no id is known are under their names."""
    return tuple(sorted(Partition(ids.get(each["stream"], each["stream"]), each["partition"]) for each in told["assignment"]))
