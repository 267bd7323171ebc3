"""What things are like, for the audit's ``before`` and ``after``: their settings, as they are stored."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import NotFoundError
from event_streaming_bus.models import StreamInfo
from event_streaming_bus.store.schemas import SchemaRecord
from event_streaming_bus.store.settings import SETTINGS
from event_streaming_bus.store.storage import Storage


def describe(storage: Storage, noun: str, tenant_id: str, target: str) -> Any:
    """The tenant's thing of this kind with this id or name; None if there is none, or nothing is known of its kind."""
    look = _LOOK.get(noun)
    if look is None or not target:
        return None
    try:
        return look(storage, tenant_id, target)
    except NotFoundError:
        return None


def _stream(storage: Storage, tenant_id: str, target: str) -> Any:
    info: StreamInfo = storage.log.find_stream(tenant_id, target)
    return {"stream_id": info.stream_id, **msgspec.to_builtins(info.config)}


def _processor(storage: Storage, tenant_id: str, target: str) -> Any:
    record = storage.catalog.get_processor(tenant_id, target)
    told: dict[str, Any] = msgspec.to_builtins(record)
    kept = {name: told[name] for name in ("processor_id", "processor_name", "flow", "status") if name in told}
    return kept | {"config": msgspec.json.decode(record.config)}


def _group(storage: Storage, tenant_id: str, target: str) -> Any:
    with storage.groups.reading("describing a group") as tables:
        record = tables.find_group(tenant_id, target)
    if record is None:
        return None
    told = {name: getattr(record, name) for name in ("group_id", "state", "generation", "is_paused")}
    return told | {"config": msgspec.json.decode(record.config)}


def _schema(storage: Storage, tenant_id: str, target: str) -> Any:
    record: SchemaRecord = storage.schemas.get(tenant_id, target)
    told: dict[str, Any] = msgspec.to_builtins(record)
    return told


def _route(storage: Storage, tenant_id: str, target: str) -> Any:
    record = storage.routes.find(tenant_id, target)
    return None if record is None else {"version": record.version, **msgspec.json.decode(record.config)}


def _setting(storage: Storage, tenant_id: str, target: str) -> Any:
    return {"value": storage.settings.value(target)} if target in SETTINGS else None


_LOOK: Final[Mapping[str, Callable[[Storage, str, str], Any]]] = {
    "stream": _stream,
    "processor": _processor,
    "group": _group,
    "schema": _schema,
    "route": _route,
    "setting": _setting,
}
