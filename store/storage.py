"""The data folder opened: log and catalog, built once per process and shared."""

import os
import threading
from pathlib import Path
from typing import Final

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import StreamConfig, StreamInfo
from event_streaming_bus.store.aggregates import AggregateStore
from event_streaming_bus.store.catalog import Catalog
from event_streaming_bus.store.groups import GroupStore
from event_streaming_bus.store.history_records import DEAD_LETTER_STREAM, HISTORY_STREAM, SYSTEM_TENANT
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.routes import RouteStore
from event_streaming_bus.store.schemas import SchemaStore
from event_streaming_bus.store.settings import Settings

DEFAULT_FOLDER: Final = "./esb-data"
_SCHEMES: Final = ("embedded:",)


class Storage:
    """Where a bus keeps things: ``log``, ``catalog``, ``schemas``, ``groups``, ``routes``, ``settings``, ``subject_keys``;
    ``folder`` for what is rebuilt from them.

    ``synchronous`` is that of the log: commits of groups are as durable as events.
    """

    def __init__(self, folder: Path, log: EventLog, *, synchronous: str = "FULL") -> None:
        self.folder = folder
        self.log = log
        self.catalog = Catalog(folder / "log.db")
        self.schemas = SchemaStore(folder / "log.db")
        self.groups = GroupStore(folder / "log.db", synchronous=synchronous)
        self.routes = RouteStore(folder / "log.db")
        self.settings = Settings(folder / "log.db")
        self.aggregates = AggregateStore(folder / "log.db", log, synchronous=synchronous)
        self.subject_keys = self.schemas.subject_keys
        self._internal: dict[tuple[str, str], StreamInfo] = {}

    def internal_stream(self, tenant_id: str, name: str) -> StreamInfo:
        """One of the bus's own streams (``_history``, ``_dead_letters``), made when it is first needed."""
        info = self._internal.get((tenant_id, name))
        if info is None:
            info = self.log.create_stream(StreamConfig(name=name, tenant_id=tenant_id))
            self._internal[tenant_id, name] = info
        return info

    def dead_letters(self, tenant_id: str) -> StreamInfo:
        """The tenant's stream of dead letters."""
        return self.internal_stream(tenant_id, DEAD_LETTER_STREAM)

    def history(self) -> StreamInfo:
        """The stream that all of history goes through. It belongs to no tenant: its records name theirs."""
        return self.internal_stream(SYSTEM_TENANT, HISTORY_STREAM)

    def close(self) -> None:
        """Close what is open. Closing twice is harmless."""
        with _lock:
            for key in [key for key, storage in _open.items() if storage is self]:
                del _open[key]
        self.log.close()
        self.catalog.close()
        self.schemas.close()
        self.groups.close()
        self.routes.close()
        self.settings.close()
        self.aggregates.close()
        self.subject_keys.close()


_open: dict[Path, Storage] = {}
_lock = threading.Lock()


def data_folder(url: str | os.PathLike[str] | None = None) -> Path:
    """The data folder that ``url`` names: a path, ``embedded:PATH``, or by default ``ESB_DATA`` or ``./esb-data``."""
    text = os.fspath(url) if url is not None else os.environ.get("ESB_DATA") or DEFAULT_FOLDER
    for scheme in _SCHEMES:
        text = text.removeprefix(scheme)
    if "://" in text:
        raise InvalidInputError(f"{text!r} is no data folder; expected a path or embedded:PATH")
    return Path(text).expanduser().resolve()


def open_storage(url: str | os.PathLike[str] | None = None) -> Storage:
    """The storage of a data folder, made if it is missing. The same folder gives the same object until it is closed."""
    folder = data_folder(url)
    with _lock:
        storage = _open.get(folder)
        if storage is None:
            synchronous = os.environ.get("ESB_SYNCHRONOUS", "FULL").upper()
            log = EmbeddedLog(folder, synchronous=synchronous)
            try:
                storage = Storage(folder, log, synchronous=synchronous)
            except BaseException:
                log.close()
                raise
            _open[folder] = storage
        return storage
