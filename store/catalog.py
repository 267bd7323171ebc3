"""The catalog: schemas and processors, kept in the data folder's database beside the log."""

import sqlite3
import time
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import AlreadyExistsError, ProcessorNotFoundError, SchemaNotFoundError
from event_streaming_bus.models import ProcessorStatus
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.store.sqlite import Database, storage_errors

SQL: Final = load_queries("catalog.sql")


class SchemaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a schema. ``definition`` is its text; ``validation_rules`` are as they were registered."""

    schema_id: str
    tenant_id: str
    schema_name: str
    schema_version: str
    format: str
    definition: str
    event_type: str | None = None
    compatibility_level: str
    evolution_strategy: str
    validation_rules: dict[str, Any] | None = None
    is_active: bool = True
    created_by: str | None = None
    created_at_ms: int


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
    """Schemas and processors by tenant. Safe to use from any thread and any number of processes."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path)
        self._path = path
        with storage_errors(path, "opening"), self._db.write_lock():
            self._db.connection().executescript(SQL["create_tables"])

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self._db.close()

    # --- schemas ------------------------------------------------------------------------------------------------------

    def add_schema(self, record: SchemaRecord) -> SchemaRecord:
        """Keep a schema version. The same name, version and contents again give the record that is there already;
        other contents raise ``AlreadyExistsError``."""
        with self._db.transaction(f"registering schema {record.schema_name}") as db:
            for there in self._schemas(db, record.tenant_id, record.schema_name):
                if there.schema_version == record.schema_version:
                    if _contents(there) == _contents(record):
                        return there
                    raise AlreadyExistsError(
                        f"schema {record.schema_name} {record.schema_version} exists with other contents; register it under a "
                        "new version",
                        schema_id=there.schema_id,
                    )
            encoded = msgspec.json.encode(record).decode()
            key = (record.schema_id, record.tenant_id, record.schema_name, record.schema_version)
            db.execute(SQL["insert_schema"], (*key, encoded))
        return record

    def get_schema(self, tenant_id: str, schema_id: str) -> SchemaRecord:
        """The tenant's schema with this id. Raises ``SchemaNotFoundError``."""
        with storage_errors(self._path, "reading a schema"):
            row = self._db.connection().execute(SQL["select_schema_by_id"], (tenant_id, schema_id)).fetchone()
        if row is None:
            raise SchemaNotFoundError(f"There is no schema with the id '{schema_id}'.", schema_id=schema_id)
        return msgspec.json.decode(row[0], type=SchemaRecord)

    def find_schema(self, tenant_id: str, schema_name: str, schema_version: str | None = None) -> SchemaRecord:
        """The tenant's schema of this name, in this version or the one registered last. Raises ``SchemaNotFoundError``."""
        versions = self.list_schemas(tenant_id, schema_name)
        if not versions:
            hint = _near(schema_name, {r.schema_name for r in self.list_schemas(tenant_id)})
            raise SchemaNotFoundError(f"There is no schema '{schema_name}'.{hint}", schema_name=schema_name)
        if schema_version is None:
            return versions[-1]
        for record in versions:
            if record.schema_version == schema_version:
                return record
        known = ", ".join(r.schema_version for r in versions)
        raise SchemaNotFoundError(
            f"There is no version '{schema_version}' of schema '{schema_name}'; there is {known}.", schema_name=schema_name
        )

    def list_schemas(self, tenant_id: str, schema_name: str | None = None) -> list[SchemaRecord]:
        """The tenant's schema versions, by name, then in the order of registration."""
        with storage_errors(self._path, "listing schemas"):
            return self._schemas(self._db.connection(), tenant_id, schema_name)

    def _schemas(self, db: sqlite3.Connection, tenant_id: str, schema_name: str | None) -> list[SchemaRecord]:
        rows = db.execute(SQL["select_schemas"], {"tenant_id": tenant_id, "schema_name": schema_name})
        return [msgspec.json.decode(record, type=SchemaRecord) for (record,) in rows]

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
        with storage_errors(self._path, "reading a processor"):
            found = self._select(self._db.connection(), tenant_id=tenant_id, processor_id=processor_id)
        if not found:
            raise ProcessorNotFoundError(f"There is no processor with the id '{processor_id}'.", processor_id=processor_id)
        return found[0]

    def list_processors(self, tenant_id: str | None) -> list[ProcessorRecord]:
        """The processors of a tenant, or of all, oldest first."""
        with storage_errors(self._path, "listing processors"):
            return self._select(self._db.connection(), tenant_id=tenant_id)

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
        db: sqlite3.Connection,
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
    def _select(db: sqlite3.Connection, **where: str | None) -> list[ProcessorRecord]:
        wanted = dict.fromkeys(("tenant_id", "processor_id", "flow", "processor_name")) | where
        fields = ProcessorRecord.__struct_fields__
        rows = db.execute(SQL["select_processors"], wanted)
        return [msgspec.convert(dict(zip(fields, row, strict=True)), ProcessorRecord) for row in rows]


def _contents(record: SchemaRecord) -> SchemaRecord:
    """What makes two registrations of a version the same: everything but who registered it, when, and under which id."""
    return msgspec.structs.replace(record, schema_id="", created_by=None, created_at_ms=0)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(known), 1)
    return f" Did you mean '{near[0]}'?" if near else ""
