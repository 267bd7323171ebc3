"""The same bus in process, at a URL, and at a URL for blocking code, so that one test can be about all of them."""

import inspect
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.client.bus import connect
from event_streaming_bus.client.sync.bus import connect as connect_blocking
from event_streaming_bus.consumers.service import ConsumerManagementService

KINDS = ("in process", "at a URL", "blocking")
T = TypeVar("T")


@contextmanager
def bus_of(kind: str, url: str, folder: Path) -> Iterator[Any]:
    """A bus of a kind, with nothing in it."""
    if kind == KINDS[0]:
        with open_bus(folder / "data") as bus:
            yield bus
    else:
        opened = connect if kind == KINDS[1] else connect_blocking
        with opened(url, tenant_id=ids.new_id("tenant_")) as remote:
            yield remote


async def done(value: Awaitable[T] | T) -> T:
    """What a call comes to, whether it blocked or is to be awaited."""
    return await value if inspect.isawaitable(value) else value


def groups_of(bus: Any) -> Any:
    """The service for consumer groups."""
    return ConsumerManagementService(bus.storage) if isinstance(bus, Bus) else bus.consumers


async def events_of(consumer: Any, most: int) -> list[Any]:
    """So many events, iterated over."""
    found = []
    if hasattr(consumer, "__aiter__"):
        async for event in consumer:
            found.append(event)
            if len(found) == most:
                break
    else:
        for event in consumer:
            found.append(event)
            if len(found) == most:
                break
    return found
