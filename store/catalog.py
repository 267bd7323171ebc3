"""The catalog: processors, kept in the data folder's database beside the log."""

import time
from typing import Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import AlreadyExistsError, ProcessorNotFoundError
from event_streaming_bus.models import ProcessorStatus
from event_streaming_bus.store.database import Connection, Place, open_database
from event_streaming_bus.store.sql import load_queries

SQL: Final = load_queries("catalog.sql")


class ProcessorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A processor: its configuration as JSON, and where it is in its life.

    ``flow`` is the flow it belongs to; a processor created by itself is a flow of its own, named by its id.
    """

    processor_id: str
    tenant_id: str
    flow: str
    processor_name: str
    config: str
    status: ProcessorStatus
    created_by: str | None
    created_at_ms: int
    updated_at_ms: int
    last_error: str | None


class Catalog:
    """Processors by tenant. Safe to use from any thread and any number of processes."""

    def __init__(self, place: Place) -> None:
        self._db = open_database(place, tables=SQL["create_tables"], name="catalog")

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self._db.close()

    # --- processors ---------------------------------------------------------------------------------------------------

    def upsert_processor(
        self, tenant_id: str, flow: str, processor_name: str, config: str, *, created_by: str | None
    ) -> ProcessorRecord:
        """Enter a processor of a flow, or give the one that is there the new configuration; its id stays."""
        with self._db.transaction(f"entering processor {processor_name}") as db:
            there = self._select(db, tenant_id=tenant_id, flow=flow, processor_name=processor_name)
            if not there:
                self._insert(db, ids.new_id(ids.PROCESSOR), tenant_id, flow, processor_name, config, created_by)
            elif there[0].config != config:
                db.execute(SQL["update_processor_config"], (config, _now_ms(), there[0].processor_id))
            return self._select(db, tenant_id=tenant_id, flow=flow, processor_name=processor_name)[0]

    def create_processor(self, tenant_id: str, processor_name: str, config: str, *, created_by: str | None) -> ProcessorRecord:
        """Enter a processor that is a flow of its own. The same name and configuration again give the one that is there;
        another configuration raises ``AlreadyExistsError``."""
        with self._db.transaction(f"creating processor {processor_name}") as db:
            for there in self._select(db, tenant_id=tenant_id, processor_name=processor_name):
                if there.flow != there.processor_id:
                    continue
                if there.config == config:
                    return there
                raise AlreadyExistsError(
                    f"processor {processor_name} exists with another configuration, as {there.processor_id}",
                    processor_id=there.processor_id,
                )
            processor_id = ids.new_id(ids.PROCESSOR)
            self._insert(db, processor_id, tenant_id, processor_id, processor_name, config, created_by)
            return self._select(db, processor_id=processor_id)[0]

    def get_processor(self, tenant_id: str, processor_id: str) -> ProcessorRecord:
        """The tenant's processor with this id. Raises ``ProcessorNotFoundError``."""
        with self._db.querying("reading a processor") as db:
            found = self._select(db, tenant_id=tenant_id, processor_id=processor_id)
        if not found:
            raise ProcessorNotFoundError(f"There is no processor with the id '{processor_id}'.", processor_id=processor_id)
        return found[0]

    def list_processors(self, tenant_id: str | None) -> list[ProcessorRecord]:
        """The processors of a tenant, or of all, oldest first."""
        with self._db.querying("listing processors") as db:
            return self._select(db, tenant_id=tenant_id)

    def set_processor_status(
        self, tenant_id: str, processor_id: str, status: ProcessorStatus, *, last_error: str | None = None
    ) -> None:
        """Note where a processor is in its life, and what went wrong, if anything did."""
        with self._db.transaction(f"updating processor {processor_id}") as db:
            db.execute(SQL["update_processor_status"], (status.value, last_error, _now_ms(), tenant_id, processor_id))

    def rename_processor(self, tenant_id: str, processor_id: str, processor_name: str) -> None:
        """Give a processor another name, which no other of its flow may have; its id stays."""
        with self._db.transaction(f"renaming processor {processor_id}") as db:
            db.execute(SQL["update_processor_name"], (processor_name, _now_ms(), tenant_id, processor_id))

    def delete_processor(self, tenant_id: str, processor_id: str) -> None:
        """Forget a processor. Raises ``ProcessorNotFoundError``."""
        self.get_processor(tenant_id, processor_id)
        with self._db.transaction(f"deleting processor {processor_id}") as db:
            db.execute(SQL["delete_processor"], (tenant_id, processor_id))

    @staticmethod
    def _insert(
        db: Connection,
        processor_id: str,
        tenant_id: str,
        flow: str,
        processor_name: str,
        config: str,
        created_by: str | None,
    ) -> None:
        status, now_ms = ProcessorStatus.CREATED.value, _now_ms()
        values = (processor_id, tenant_id, flow, processor_name, config, status, created_by, now_ms, now_ms)
        db.execute(SQL["insert_processor"], values)

    @staticmethod
    def _select(db: Connection, **where: str | None) -> list[ProcessorRecord]:
        wanted = dict.fromkeys(("tenant_id", "processor_id", "flow", "processor_name")) | where
        fields = ProcessorRecord.__struct_fields__
        rows = db.execute(SQL["select_processors"], wanted)
        return [msgspec.convert(dict(zip(fields, row, strict=True)), ProcessorRecord) for row in rows]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
