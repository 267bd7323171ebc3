"""What the outbox needs of the log that it stands around."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Final, Protocol

from event_streaming_bus.errors import StorageError, StreamNotFoundError
from event_streaming_bus.models import Event, Position, StreamInfo
from event_streaming_bus.store.log.base import EventLog

_ASK_S: Final = 1.0


class InnerLog(EventLog, Protocol):
    """A log that keeps no event aside and knows no database."""

    def stream_info(self, stream_id: str) -> StreamInfo:
        """The stream with this id, as of now. ``StreamNotFoundError``."""
        ...

    def find_ids(self, tenant_id: str, event_ids: Sequence[str]) -> Mapping[str, Position]:
        """The places of those of the tenant's event ids that the log holds, whoever made them."""
        ...

    def partition_of(self, key: str, partitions: int) -> int:
        """The partition that events of this key go to."""
        ...

    def check(self, event: Event) -> object:
        """Raises ``InvalidInputError`` for an event that the log cannot write."""
        ...


class KnownStreams:
    """The settings of streams, also while the log does not answer: then as they were last known, since what is kept in the outbox
    must not depend on the log being there. Safe to use from any thread."""

    def __init__(self, log: InnerLog) -> None:
        self._log = log
        self._known: dict[str, StreamInfo] = {}
        self._lock = threading.Lock()
        self._asking: Future[StreamInfo] | None = None  # which has taken longer than it should

    def info(self, stream_id: str) -> StreamInfo:
        """The stream with this id. Raises ``StreamNotFoundError``; ``StorageError`` if nothing is known of it and the log does
        not answer. Waits for the log a second at the most where something is known."""
        known = self._known.get(stream_id)
        if known is None:
            info = self._log.stream_info(stream_id)
        elif self._is_late():
            return known
        else:
            try:
                info = self._asked(stream_id)
            except TimeoutError:
                return known
            except StreamNotFoundError:
                self._known.pop(stream_id, None)
                raise
            except StorageError:
                return known
        self._known[stream_id] = info
        return info

    def _is_late(self) -> bool:
        with self._lock:
            if self._asking is not None and self._asking.done():
                self._asking = None
            return self._asking is not None

    def _asked(self, stream_id: str) -> StreamInfo:
        answer: Future[StreamInfo] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._log.stream_info(stream_id))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name="esb-outbox-streams", daemon=True).start()
        try:
            return answer.result(_ASK_S)
        except TimeoutError:
            with self._lock:
                self._asking = answer
            raise
