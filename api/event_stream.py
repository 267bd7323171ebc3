"""A member's events as server-sent events, the format that browsers read with ``EventSource``
(https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.api.consuming_sessions import ConsumingSessions
from event_streaming_bus.api.delivered import DeliveredEvent, delivered
from event_streaming_bus.api.hosted_member import Delivery, HostedMember
from event_streaming_bus.consumers.consumer import Consumer
from event_streaming_bus.consumers.model import Partition
from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.models import Split

JOINED: Final = "esb-joined"
"""The type of the first message: the member's id, its generation, and how it commits."""

FAILED: Final = "esb-error"
"""The type of the last message of a stream that cannot go on, with the reason."""

MAX_EVENTS: Final = 100
_ID_EVERY: Final = 10
KEEP_ALIVE_S: Final = 15.0
_RESUME_S: Final = 60.0
_RETRY_MS: Final = 1000
_MAX_TOKEN: Final = 1 << 16
_LINES: Final = str.maketrans("\r\n\0", "   ")


class Resume:
    """A consumer's listener that has it go on at the positions of a resume token: in each partition that it is given within the
    first minute, while the member of the connection before may still be on its way out. What it is given later other members
    have had meanwhile, so there it goes on where the group is."""

    def __init__(self, token: str) -> None:
        self._offsets = read_token(token)
        self._until_s = time.monotonic() + _RESUME_S

    def __call__(self, consumer: Consumer, partitions: Sequence[Partition]) -> None:
        here = {s: offset for s, offset in self._offsets.items() if Partition(s.stream_id, s.partition) in partitions}
        self._offsets = {s: offset for s, offset in self._offsets.items() if s not in here}
        if time.monotonic() < self._until_s:
            consumer.seek_to(here)


async def messages(
    sessions: ConsumingSessions, member: HostedMember, is_gone: Callable[[], bool], *, named: bool
) -> AsyncIterator[bytes]:
    """What is sent of an event stream, part by part, for as long as its client is there and the server does not stop.

    The next part is only made once the one before was taken, so a slow reader is read for at its own pace. With automatic commits
    a part is done then, and its messages have resume tokens for ids. ``named``: whether messages have the type of their
    event. The member leaves at the end.
    """

    def is_over() -> bool:
        return sessions.is_stopping or is_gone()

    seen: set[Split] = set()
    try:
        async with sessions.alive(member):
            joined = {
                "member_id": member.member_id,
                "generation": member.generation,
                "ack": "auto" if member.auto_commit else "manual",
                "session_timeout_ms": member.group.config.session_timeout_ms,
            }
            yield b"retry: %d\n" % _RETRY_MS + _message(JOINED, msgspec.json.encode(joined))
            while not is_over():
                deliveries = await member.poll(MAX_EVENTS, KEEP_ALIVE_S, is_over)
                if is_over():
                    return
                if deliveries:
                    yield await asyncio.to_thread(_part, member, deliveries, seen, named)
                else:
                    yield b": nothing new\n\n"
                await asyncio.sleep(0)  # a client that went away while this was sent is noticed before more is done
    except BusError as error:
        told = {"title": type(error).__name__.removesuffix("Error"), "detail": error.message}
        yield _message(FAILED, msgspec.json.encode(told))
    finally:
        sessions.end_soon(member, "its event stream was closed")


def _part(member: HostedMember, deliveries: Sequence[Delivery], seen: set[Split], named: bool) -> bytes:
    """Messages of events. With automatic commits, ids among them: of every tenth one, of the last, and in front if the part has
    events of splits that are new to ``seen``, so that wherever the part breaks off, what the client did not get comes again."""
    written = [_event(event, named) for event in delivered(deliveries, member.names)]
    if not member.auto_commit:
        return b"".join(written)
    is_new = not seen.issuperset(each.position.split for each in deliveries)
    seen |= {each.position.split for each in deliveries}
    offsets = member.offsets()
    after = {split: offsets[split] for split in seen if split in offsets}  # where to go on behind the message at hand
    for i in range(len(deliveries) - 1, -1, -1):
        if (i + 1) % _ID_EVERY == 0 or i == len(deliveries) - 1:
            written[i] = b"id: %b\n" % token_of(after).encode() + written[i]
        split, offset = deliveries[i].position
        after[split] = min(offset, after.get(split, offset))
    if is_new:
        written.insert(0, b"id: %b\n\n" % token_of(after).encode())  # no message, for it has no data
    return b"".join(written)


def _event(event: DeliveredEvent, named: bool) -> bytes:
    return _message(event.event_type.translate(_LINES) if named else "", msgspec.json.encode(event))


def _message(kind: str, data: bytes) -> bytes:
    if b"\n" in data or b"\r" in data:  # between the tokens of a payload: in texts they are escaped
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return (b"event: %b\n" % kind.encode() if kind else b"") + b"data: %b\n\n" % data


# --- resume tokens ----------------------------------------------------------------------------------------------------


def token_of(offsets: Mapping[Split, int]) -> str:
    """Positions as one word."""
    text = msgspec.json.encode({str(split): offset for split, offset in sorted(offsets.items())})
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def read_token(token: str) -> dict[Split, int]:
    """The positions of a token. Raises ``InvalidInputError``."""
    try:
        if len(token) > _MAX_TOKEN:
            raise InvalidInputError("too long")
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        offsets: dict[str, Any] = msgspec.json.decode(text, type=dict[str, int])
        found = {Split.parse(split): offset for split, offset in offsets.items()}
        if any(offset < 0 for offset in found.values()):
            raise InvalidInputError("an offset below 0")
    except (ValueError, binascii.Error, msgspec.DecodeError, InvalidInputError):
        raise InvalidInputError(
            "last_event_id: expected the id of a message of this event stream, or nothing to go on where the group is"
        ) from None
    return found
