"""The members of consumer groups that the server hosts for clients over HTTP: bounded in number, and ended with their clients."""

import asyncio
import logging
import signal
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, Final, NamedTuple

from event_streaming_bus.api.hosted_member import HostedMember, unknown_member
from event_streaming_bus.api.log_watch import LogWatch
from event_streaming_bus.errors import BusError, ClosedError, FencedError, GroupNotFoundError, InvalidStateError
from event_streaming_bus.store.storage import Storage

MAX_MEMBERS: Final = 200
"""How many members a server hosts. Each has a thread for its heartbeats and up to two for its reads."""

MAX_TENANT_MEMBERS: Final = 100
_MAX_GONE: Final = 1000
_TICK_S: Final = 0.1
_RETRY_AFTER_S: Final = 5
_log: Final = logging.getLogger(__name__)


class TooManyMembersError(BusError):
    """The server hosts as many members as it can. Try again later, or let other members leave."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = _RETRY_AFTER_S


class _Gone(NamedTuple):
    tenant_id: str
    group: str
    group_id: str
    why: str


class ConsumingSessions:
    """The hosted members. Belongs to one event loop, but for ``abandon``.

    A member whose client shows no sign of life (a request being answered, or an open event stream) for its group's
    ``session_timeout_ms`` leaves: what its client had not acknowledged, or got last, is delivered again. What is acknowledged is
    committed within a fifth of a second or so.
    """

    def __init__(self, storage: Storage, *, max_members: int = MAX_MEMBERS, max_tenant_members: int = MAX_TENANT_MEMBERS) -> None:
        self._storage = storage
        self._watch = LogWatch(storage.log)
        self._max_members, self._max_tenant_members = max_members, max_tenant_members
        self._members: dict[str, HostedMember] = {}
        self._joining: Counter[str] = Counter()
        self._gone: OrderedDict[str, _Gone] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._is_watching = False
        self.is_stopping = False
        """Whether the server stops: polls and event streams end, nobody joins."""

    # --- coming -------------------------------------------------------------------------------------------------------

    async def join(
        self,
        tenant_id: str,
        group: str,
        streams: Sequence[str],
        *,
        auto_commit: bool = True,
        is_streamed: bool = False,
        **options: Any,
    ) -> HostedMember:
        """A new member of a group, by its id or name; ``options`` are those of a ``Consumer``. Raises ``TooManyMembersError``,
        and what ``HostedMember.join`` raises."""
        self._check_room(tenant_id)
        self._joining[tenant_id] += 1
        try:
            member = await HostedMember.join(
                self._storage,
                self._watch,
                tenant_id,
                group,
                streams,
                auto_commit=auto_commit,
                is_streamed=is_streamed,
                **options,
            )
        finally:
            self._joining[tenant_id] -= 1
        self._members[member.member_id] = member
        member.heard_s = time.monotonic()
        if self.is_stopping:
            await self.end(member, "the server stopped")
            raise ClosedError("The server stops.")
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep())
        self.watch_for_the_end()
        return member

    def _check_room(self, tenant_id: str) -> None:
        if self.is_stopping:
            raise ClosedError("The server stops.")
        if len(self._members) + self._joining.total() >= self._max_members:
            raise TooManyMembersError(f"This server hosts {self._max_members} members of consumer groups, and no more.", 503)
        theirs = sum(member.tenant_id == tenant_id for member in self._members.values()) + self._joining[tenant_id]
        if theirs >= self._max_tenant_members:
            raise TooManyMembersError(f"A tenant may have {self._max_tenant_members} members on this server, and no more.", 429)

    # --- being there --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def using(self, tenant_id: str, group: str, member_id: str) -> AsyncIterator[HostedMember]:
        """The tenant's member of this group while a request of its client is answered. Raises ``UnknownMemberError``."""
        member = self._members.get(member_id)
        if member is None or member.tenant_id != tenant_id or group not in (member.group.name, member.group.group_id):
            raise unknown_member(group, member_id, self._why_gone(tenant_id, group, member_id) or "")
        async with self.alive(member):
            yield member

    @asynccontextmanager
    async def alive(self, member: HostedMember) -> AsyncIterator[None]:
        """The member's client is there as long as this is open."""
        member.requests += 1
        try:
            yield
        except GroupNotFoundError:
            self.end_soon(member, "its group was deleted")
            raise
        except ClosedError as error:
            if member.member_id in self._members:
                raise
            raise member.unknown(self._gone[member.member_id].why) from error
        except FencedError:
            if not member.is_member():
                self.end_soon(member, "it was put out of its group")
            raise
        finally:
            member.requests -= 1
            member.heard_s = time.monotonic()

    def _why_gone(self, tenant_id: str, group: str, member_id: str) -> str | None:
        gone = self._gone.get(member_id)
        return gone.why if gone and gone.tenant_id == tenant_id and group in (gone.group, gone.group_id) else None

    async def _keep(self) -> None:
        """Look after the members, as long as there are any."""
        while self._members:
            await asyncio.sleep(_TICK_S)
            now_s = time.monotonic()
            for member in list(self._members.values()):
                if member.is_silent(now_s):
                    timeout_ms = member.group.config.session_timeout_ms
                    self.end_soon(member, f"nothing was heard of its client for session_timeout_ms = {timeout_ms}")
                elif member.is_dirty:
                    member.is_dirty = False
                    self._start(member.commit_soon())

    # --- going --------------------------------------------------------------------------------------------------------

    async def leave(self, tenant_id: str, group: str, member_id: str, *, received: int | None = None) -> None:
        """Let a member leave; harmless for one that has left. Raises ``UnknownMemberError`` for what was never one.
        ``received``: as for a poll."""
        if self._why_gone(tenant_id, group, member_id) is None:
            async with self.using(tenant_id, group, member_id) as member:
                await self.end(member, "it left", settle=True, received=received)

    async def end(self, member: HostedMember, why: str, *, settle: bool = False, received: int | None = None) -> None:
        """Let a member leave its group. With ``settle`` and automatic commits, what was handed out last is done."""
        if self._members.pop(member.member_id, None) is None:
            return
        self._gone[member.member_id] = _Gone(member.tenant_id, member.group.name, member.group.group_id, why)
        if len(self._gone) > _MAX_GONE:
            self._gone.popitem(last=False)
        try:
            await member.close(settle=settle, received=received)
        except (BusError, TimeoutError) as error:  # its session ends all the same: the group puts it out
            _log.warning("member %s of group %s did not leave in good order: %s", member.member_id, member.group.name, error)

    def end_soon(self, member: HostedMember, why: str) -> None:
        """As ``end``, without waiting for it."""
        self._start(self.end(member, why))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all members, in good order."""
        self.is_stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
        await asyncio.gather(*(self.end(member, "the server stopped") for member in list(self._members.values())))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def abandon(self) -> None:
        """End what is left without last commits. Blocks; for whoever closes the data folder."""
        self.is_stopping = True
        while self._members:
            self._members.popitem()[1].abandon()

    def watch_for_the_end(self) -> None:
        """Note when the server is told to stop: it tells its application only once all requests are answered, and those that wait
        for events would keep it waiting."""
        if self._is_watching or threading.current_thread() is not threading.main_thread():
            return
        self._is_watching = True
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            if not callable(before):
                continue

            def told(signum: int, frame: FrameType | None, before: Any = before) -> None:
                self.is_stopping = True
                before(signum, frame)

            signal.signal(number, told)


def streamed_only(member: HostedMember) -> InvalidStateError:
    """What to tell who polls a member whose events go to an event stream."""
    return InvalidStateError(
        f"The events of member '{member.member_id}' go to its event stream; let another member join to poll."
    )
