"""The data folder opened: log and catalog, built once per process and shared."""

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import StreamConfig, StreamInfo
from event_streaming_bus.store.aggregates import AggregateStore
from event_streaming_bus.store.broker_groups import BrokerGroupStore
from event_streaming_bus.store.catalog import Catalog
from event_streaming_bus.store.database import Place, PostgresPlace
from event_streaming_bus.store.groups import GroupStore
from event_streaming_bus.store.history_records import DEAD_LETTER_STREAM, HISTORY_STREAM, SYSTEM_TENANT
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.group_broker import group_broker
from event_streaming_bus.store.log.outbox import OutboxLog
from event_streaming_bus.store.log.wire_schemas import WireSchemas
from event_streaming_bus.store.routes import RouteStore
from event_streaming_bus.store.schemas import SchemaStore
from event_streaming_bus.store.settings import Settings
from event_streaming_bus.store.subject_keys import SubjectKeys

if TYPE_CHECKING:
    from event_streaming_bus.store.log.kafka_settings import KafkaSettings

DEFAULT_FOLDER: Final = "./esb-data"
_SCHEMES: Final = ("embedded:",)


class Storage:
    """Where a bus keeps things: ``log``, ``catalog``, ``schemas``, ``groups``, ``routes``, ``settings``, ``subject_keys``;
    ``folder`` for what is rebuilt from them.

    ``synchronous`` is that of the log: commits of groups are as durable as events. ``url``: what opens the same storage in
    another process; the folder, unless the log is elsewhere. ``shared``: the database that has the tables of several nodes.
    """

    def __init__(
        self,
        folder: Path,
        log: EventLog,
        *,
        synchronous: str = "FULL",
        url: str | None = None,
        shared: PostgresPlace | None = None,
    ) -> None:
        self.folder = folder
        self.url = url or str(folder)
        self.shared = shared
        self.log = log
        place = self.place("log.db")
        self.catalog = Catalog(place)
        self.subject_keys = SubjectKeys(folder, shared)
        self.schemas = SchemaStore(place, self.subject_keys)
        self.groups: GroupStore | BrokerGroupStore
        if group_broker(log) is not None:
            self.groups = BrokerGroupStore(place, synchronous=synchronous)
        else:  # groups commit in the log's own database
            self.groups = GroupStore(folder / "log.db", synchronous=synchronous)
        self.routes = RouteStore(place)
        self.settings = Settings(place)
        self.aggregates = AggregateStore(place, log, synchronous=synchronous)
        self._internal: dict[tuple[str, str], StreamInfo] = {}
        self._wire_schemas = WireSchemas(log, self.schemas)  # lent for as long as this is kept

    def place(self, file: str) -> Place:
        """Where a store has its tables: in this file of the folder, or in the database that several nodes share."""
        return self.shared or self.folder / file

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


_open: dict[tuple[Path, str], Storage] = {}
_lock = threading.Lock()


def data_folder(url: str | os.PathLike[str] | None = None) -> Path:
    """The data folder that ``url`` names: a path, ``embedded:PATH``, a Kafka URL's ``data``, or by default ``ESB_DATA`` or
    ``./esb-data``."""
    text = _given(url)
    if _is_kafka(text):
        return _kafka_settings(text).folder
    for scheme in _SCHEMES:
        text = text.removeprefix(scheme)
    if "://" in text:
        raise InvalidInputError(f"{text.partition('://')[0]}:// is no data folder; expected a path, embedded:PATH or kafka://...")
    return Path(text).expanduser().resolve()


def is_elsewhere(url: str | os.PathLike[str] | None = None) -> bool:
    """Whether the log that ``url`` names is on Kafka, and not in the data folder."""
    return _is_kafka(_given(url))


def check_database(url: str | os.PathLike[str] | None) -> None:
    """Raise ``InvalidInputError`` if there is a database for what lies beside the log, but the log is embedded and keeps that
    itself."""
    if os.environ.get("ESB_DATABASE") and not _is_kafka(_given(url)):
        raise InvalidInputError(
            "ESB_DATABASE is set, but this log is a file of this machine, which keeps everything beside it: expected "
            "kafka://... as the data folder, or no ESB_DATABASE"
        )


def open_storage(url: str | os.PathLike[str] | None = None) -> Storage:
    """The storage of a data folder, made if it is missing; of a URL ``kafka://...``, with the log on Kafka and the rest in the
    folder that it names. The same folder and cluster give the same object until it is closed."""
    text = _given(url)
    folder = data_folder(text)
    key = folder, f"{text} {os.environ.get('ESB_DATABASE', '')}" if _is_kafka(text) else ""
    with _lock:
        storage = _open.get(key)
        if storage is None:
            synchronous = os.environ.get("ESB_SYNCHRONOUS", "FULL").upper()
            log: EventLog = _kafka_log(text, synchronous) if _is_kafka(text) else EmbeddedLog(folder, synchronous=synchronous)
            try:
                url, shared = (text, _kafka_settings(text).database) if _is_kafka(text) else (None, None)
                storage = Storage(folder, log, synchronous=synchronous, url=url, shared=shared)
            except BaseException:
                log.close()
                raise
            _open[key] = storage
        return storage


def _given(url: str | os.PathLike[str] | None) -> str:
    return os.fspath(url) if url is not None else os.environ.get("ESB_DATA") or DEFAULT_FOLDER


def _is_kafka(text: str) -> bool:
    return text.startswith("kafka://")


def _kafka_settings(url: str) -> "KafkaSettings":
    from event_streaming_bus.store.log.kafka_settings import parse_url

    return parse_url(url, DEFAULT_FOLDER)


def _kafka_log(url: str, synchronous: str) -> EventLog:
    try:
        from event_streaming_bus.store.log.kafka import KafkaLog
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise InvalidInputError("kafka:// needs the package confluent-kafka: pip install confluent-kafka") from error
    settings = _kafka_settings(url)
    log = KafkaLog(settings)
    try:
        return OutboxLog(log, settings.database or settings.folder / "log.db", synchronous=synchronous)
    except BaseException:
        log.close()
        raise
