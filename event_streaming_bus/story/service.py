"""Stories: why an event is where it is, what was done with it, and what came of it."""

import asyncio
import threading
from typing import Final

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.store.history import History
from event_streaming_bus.store.storage import Storage, open_storage
from event_streaming_bus.story.model import Story
from event_streaming_bus.story.teller import tell

MAX_ITEMS: Final = 10_000
DEFAULT_ITEMS: Final = 200


class StoryService:
    """Tells the stories of a tenant's events.

    It asks the history, after loading what the log has. The history belongs to one process: one that has it open hands its
    ``history`` in; without it, each call opens it, and raises ``InUseError`` if a server has it. That one answers over REST.
    """

    def __init__(self, storage: Storage | None = None, *, history: History | None = None) -> None:
        self._storage = storage or open_storage()
        self._history = history
        self._opening = threading.Lock()

    async def story(self, event_id: str, tenant_id: str = DEFAULT_TENANT, *, max_items: int = DEFAULT_ITEMS) -> Story:
        """The story of an event; each list in it has at most ``max_items`` (1 to 10,000). Raises ``EventNotFoundError``."""
        if not 1 <= max_items <= MAX_ITEMS:
            raise InvalidInputError(f"max_items: expected 1 to {MAX_ITEMS:,}, got {max_items}", path="max_items")
        return await asyncio.to_thread(self._story, event_id, tenant_id, max_items)

    def _story(self, event_id: str, tenant_id: str, most: int) -> Story:
        if self._history is not None:
            self._history.reach()
            return tell(self._storage, self._history, tenant_id, event_id, most=most)
        with self._opening:  # a process cannot open it twice either
            history = History(self._storage)
            try:
                history.catch_up()
                return tell(self._storage, history, tenant_id, event_id, most=most)
            finally:
                history.close()
