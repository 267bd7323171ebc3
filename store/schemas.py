"""The schema store: the versions of each subject, the texts that ids stand for, and the settings of subjects.

An id stands for a text: the same text registered again, under whatever subject of a context, has the same id. A version is a
subject's use of a text, with all that the registry knows of it besides.
"""

import uuid
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import AlreadyExistsError, SchemaNotFoundError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.store.database import Connection, Place, open_database
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.store.subject_keys import SubjectKeys

SQL: Final = load_queries("schemas.sql")
DEFAULT_CONTEXT: Final = "."


class SchemaReference(msgspec.Struct, frozen=True):
    """A schema that another one refers to by ``name``: a version of a subject."""

    name: str
    subject: str
    version: int


class SchemaText(msgspec.Struct, frozen=True, kw_only=True):
    """What an id stands for. ``metadata`` and ``rule_set`` are kept for clients, as they were given."""

    format: str
    definition: str
    references: tuple[SchemaReference, ...] = ()
    metadata: dict[str, Any] | None = None
    rule_set: dict[str, Any] | None = None


class Deprecation(msgspec.Struct, frozen=True):
    """A version that should not be used any more. From ``refuse_after_ms`` on, if that is given, producers are refused."""

    since_ms: int
    refuse_after_ms: int | None = None
    message: str = ""


class SchemaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a subject.

    ``schema_id`` is its own id, unique everywhere; ``id`` and ``guid`` are those of its text. ``version`` counts the versions of
    the subject, ``schema_version`` is its semantic version. ``group_version`` is the version that began the compatibility group:
    versions of one group are compatible with each other, at the level at which they were registered.
    """

    schema_id: str
    tenant_id: str
    schema_name: str
    version: int = 0
    schema_version: str
    text: SchemaText
    id: int = 0
    guid: str = ""
    event_type: str | None = None
    compatibility_level: str
    evolution_strategy: str
    group_version: int = 0
    validation_rules: dict[str, Any] | None = None
    migration: dict[str, Any] | None = None
    more: dict[str, Any] | None = None
    """Fields that clients gave and nobody here knows."""
    is_active: bool = True
    deprecation: Deprecation | None = None
    is_deleted: bool = False
    created_by: str | None = None
    created_at_ms: int

    @property
    def format(self) -> str:
        """``JSON`` or ``AVRO``."""
        return self.text.format

    @property
    def definition(self) -> str:
        """The text as it was registered."""
        return self.text.definition

    @property
    def context(self) -> str:
        """The context that the subject is in."""
        return context_of(self.schema_name)


def context_of(subject: str) -> str:
    """The context of a subject: ``.ctx`` for ``:.ctx:orders``, and ``.`` for one that names none."""
    if subject.startswith(":."):
        context, separator, _ = subject[1:].partition(":")
        if separator:
            return context
    return DEFAULT_CONTEXT


def contents_of(definition: str) -> bytes:
    """What a definition says, whatever its white space and the order of its keys, which libraries write differently."""
    try:
        return msgspec.json.encode(msgspec.json.decode(definition), order="deterministic")
    except (msgspec.DecodeError, RecursionError):  # the bare name of a primitive type, or what no parser accepts
        return definition.strip().encode()


def guid_of(text: SchemaText) -> str:
    """The id of a text that is the same in every registry: made of its contents."""
    definition = contents_of(text.definition)
    rest = msgspec.json.encode((text.format, text.references, text.metadata, text.rule_set))
    return str(uuid.UUID(bytes=blake2b(definition + b"\0" + rest, digest_size=16).digest()))


class SchemaStore:
    """Schemas by tenant. Safe to use from any thread and any number of processes."""

    def __init__(self, place: Place, subject_keys: SubjectKeys) -> None:
        """``subject_keys``: of those whose personal data the schemas' payloads have; closed with this."""
        self.subject_keys = subject_keys
        self._db = open_database(place, tables=SQL["create_tables"], name="schemas")
        self._take_over()

    def _take_over(self) -> None:
        """Take over what was kept before there were ids of texts: one table with a name and a version for each schema."""
        with self._db.transaction("taking over the schemas") as db:
            if db.execute(SQL["select_old_table"]).fetchone() is None:
                return
            old = [msgspec.json.decode(record) for (record,) in db.execute(SQL["select_old_records"])]
            db.execute(SQL["drop_old_table"])
            for fields in old:
                text = {"format": fields.pop("format"), "definition": fields.pop("definition")}
                record = msgspec.convert({**fields, "text": text}, SchemaRecord)
                self._insert(db, record, self._state_of(db, record.tenant_id, record.schema_name)[0] + 1)

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self.subject_keys.close()
        self._db.close()

    # --- versions -----------------------------------------------------------------------------------------------------

    def state_of(self, tenant_id: str, subject: str) -> tuple[int, int, int]:
        """What changes whenever a version is registered under the subject or removed for good; the first number is its highest
        version."""
        with self._db.querying("reading schemas") as db:
            return self._state_of(db, tenant_id, subject)

    def add(self, record: SchemaRecord, seen: tuple[int, int, int]) -> SchemaRecord | None:
        """Keep a new version; returns it with the numbers it was given. ``None``, and nothing is kept, if the subject is no
        longer in the state ``seen``.

        A record that has a ``version`` or an ``id`` keeps it: then ``AlreadyExistsError`` is raised if the version is there, or
        the id stands for another text.
        """
        with self._db.transaction(f"registering schema {record.schema_name}") as db:
            if self._state_of(db, record.tenant_id, record.schema_name) != seen:
                return None
            version = record.version or seen[0] + 1
            if record.version and self._select(db, record.tenant_id, subject=record.schema_name, version=version):
                raise AlreadyExistsError(f"version {version} of {record.schema_name} is there already")
            return self._insert(db, record, version)

    def _insert(self, db: Connection, record: SchemaRecord, version: int) -> SchemaRecord:
        guid, context = guid_of(record.text), record.context
        record = msgspec.structs.replace(
            record,
            version=version,
            id=self._text_id(db, record, guid),
            guid=guid,
            group_version=record.group_version or version,
        )
        key = (record.schema_id, record.tenant_id, record.schema_name, version, context, record.id)
        db.execute(SQL["insert_version"], (*key, _encode(record)))
        fault_point("registry.writing")
        return record

    @staticmethod
    def _text_id(db: Connection, record: SchemaRecord, guid: str) -> int:
        """The id of a text, which is kept if it is new."""
        tenant_id, context, text = record.tenant_id, record.context, record.text
        there = db.execute(SQL["select_text_by_guid"], (tenant_id, context, guid)).fetchone()
        if there is not None and record.id in (0, there[0]):
            return int(there[0])
        if there is not None:
            raise AlreadyExistsError(f"this schema has the id {there[0]} already", id=there[0])
        number = record.id
        if number and (taken := db.execute(SQL["select_text"], (tenant_id, context, number)).fetchone()) is not None:
            raise AlreadyExistsError(f"the id {number} stands for another schema", id=number, guid=taken[2])
        (highest,) = db.execute(SQL["select_highest_id"], {"tenant_id": tenant_id, "context": context}).fetchone()
        number = number or highest + 1
        db.execute(SQL["upsert_highest_id"], (tenant_id, context, max(number, highest)))
        db.execute(SQL["insert_text"], (tenant_id, context, number, guid, msgspec.json.encode(text).decode()))
        rows = [(tenant_id, each.subject, each.version, context, number) for each in text.references]
        db.executemany(SQL["insert_reference"], rows)
        return number

    def update(self, record: SchemaRecord) -> None:
        """Keep what changes of a version: whether it is active, deprecated or deleted, and its level."""
        with self._db.transaction(f"updating schema {record.schema_name}") as db:
            db.execute(SQL["update_version"], (_encode(record), record.is_deleted, record.schema_id))

    def remove(self, records: Sequence[SchemaRecord]) -> None:
        """Remove versions for good, and texts that nothing uses any more. Their ids are never given to others: there may be data
        written with them."""
        with self._db.transaction("removing schemas") as db:
            for record in records:
                db.execute(SQL["delete_version"], (record.schema_id,))
                key = (record.tenant_id, record.context, record.id)
                if db.execute(SQL["count_versions_of_id"], key).fetchone() == (0,):
                    db.execute(SQL["delete_references_of"], key)
                    db.execute(SQL["delete_text"], key)

    def copy_to(self, other: "SchemaStore", tenant_id: str) -> None:
        """Keep the tenant's versions in another store too, which has none of that tenant, with their ids and numbers."""
        for record in self.versions(tenant_id, deleted=True):
            other.add(record, other.state_of(tenant_id, record.schema_name))
            if record.is_deleted:
                other.update(record)

    def get(self, tenant_id: str, schema_id: str) -> SchemaRecord:
        """The tenant's version with this id, deleted ones included. Raises ``SchemaNotFoundError``."""
        record = self.find(schema_id)
        if record is None or record.tenant_id != tenant_id:
            raise SchemaNotFoundError(f"There is no schema with the id '{schema_id}'.", schema_id=schema_id)
        return record

    def find(self, schema_id: str) -> SchemaRecord | None:
        """The version with this id, of whichever tenant."""
        with self._db.querying("reading a schema") as db:
            row = db.execute(SQL["select_by_schema_id"], (schema_id,)).fetchone()
        return None if row is None else _decode(row)

    def versions(
        self, tenant_id: str, subject: str | None = None, *, deleted: bool = False, version: int | None = None
    ) -> list[SchemaRecord]:
        """Versions of a subject, or of all, by subject and version; those that are deleted only if asked for."""
        with self._db.querying("reading schemas") as db:
            records = self._select(db, tenant_id, subject=subject, version=version)
        return [record for record in records if deleted or not record.is_deleted]

    def versions_of_id(self, tenant_id: str, context: str, number: int, *, deleted: bool = False) -> list[SchemaRecord]:
        """The versions whose text has this id, by subject and version."""
        with self._db.querying("reading schemas") as db:
            records = self._select(db, tenant_id, context=context, id=number)
        return [record for record in records if deleted or not record.is_deleted]

    def subjects(self, tenant_id: str) -> dict[str, bool]:
        """The tenant's subjects in order, and whether all versions of each are deleted."""
        with self._db.querying("listing subjects") as db:
            rows = db.execute(SQL["select_subjects"], (tenant_id,)).fetchall()
        return {subject: bool(all_deleted) for subject, all_deleted in rows}

    def contexts(self, tenant_id: str) -> list[str]:
        """The contexts that hold versions."""
        with self._db.querying("listing contexts") as db:
            return [context for (context,) in db.execute(SQL["select_contexts"], (tenant_id,))]

    # --- texts --------------------------------------------------------------------------------------------------------

    def text(self, tenant_id: str, context: str, number: int) -> tuple[str, SchemaText] | None:
        """``(guid, text)`` of an id in a context."""
        with self._db.querying("reading a schema") as db:
            row = db.execute(SQL["select_text"], (tenant_id, context, number)).fetchone()
        return None if row is None else (row[2], msgspec.json.decode(row[3], type=SchemaText))

    def text_by_guid(self, tenant_id: str, guid: str) -> tuple[str, int, SchemaText] | None:
        """``(context, id, text)`` of a guid."""
        with self._db.querying("reading a schema") as db:
            row = db.execute(SQL["select_text_of_any_context"], (tenant_id, guid)).fetchone()
        return None if row is None else (row[0], row[1], msgspec.json.decode(row[3], type=SchemaText))

    def referenced_by(self, tenant_id: str, subject: str, version: int) -> list[int]:
        """The ids of the texts, in use by a version that is not deleted, that refer to a version of a subject."""
        with self._db.querying("reading references") as db:
            rows = db.execute(SQL["select_referenced_by"], (tenant_id, subject, version))
            return [number for (number,) in rows]

    # --- settings -----------------------------------------------------------------------------------------------------

    def setting(self, tenant_id: str, subject: str, name: str) -> Any:
        """A setting of a subject, of a context (``:.ctx:``) or of the whole registry (the empty subject); None without one."""
        with self._db.querying("reading a setting") as db:
            row = db.execute(SQL["select_setting"], (tenant_id, subject, name)).fetchone()
        return None if row is None else msgspec.json.decode(row[0])

    def set_setting(self, tenant_id: str, subject: str, name: str, value: Any) -> None:
        """Keep a setting; ``None`` removes it."""
        with self._db.transaction(f"setting the {name} of {subject or 'all subjects'}") as db:
            if value is None:
                db.execute(SQL["delete_setting"], (tenant_id, subject, name))
            else:
                db.execute(SQL["upsert_setting"], (tenant_id, subject, name, msgspec.json.encode(value).decode()))

    @staticmethod
    def _state_of(db: Connection, tenant_id: str, subject: str) -> tuple[int, int, int]:
        highest, count, newest = db.execute(SQL["select_highest_version"], (tenant_id, subject)).fetchone()
        return highest, count, newest

    @staticmethod
    def _select(db: Connection, tenant_id: str, **where: Any) -> list[SchemaRecord]:
        given = {name for name, value in where.items() if value is not None}
        query = _QUERIES[frozenset(given)]
        return [_decode(row) for row in db.execute(SQL[query], {**where, "tenant_id": tenant_id})]


_QUERIES: Final = {
    frozenset(): "select_versions",
    frozenset({"subject"}): "select_versions_of_subject",
    frozenset({"subject", "version"}): "select_version",
    frozenset({"context", "id"}): "select_versions_of_id",
}
"""The query for what versions are told by: one for each, as an index serves no condition that may be left out."""

_TEXT_FIELDS: Final = ("text", "id", "guid", "is_deleted")
"""What is kept beside the record."""


def _encode(record: SchemaRecord) -> str:
    kept = {name: value for name, value in msgspec.to_builtins(record).items() if name not in _TEXT_FIELDS}
    return msgspec.json.encode(kept).decode()


def _decode(row: Sequence[Any]) -> SchemaRecord:
    record, is_deleted, number, guid, contents = row
    text = msgspec.json.decode(contents)
    fields = msgspec.json.decode(record) | {"text": text, "id": number, "guid": guid, "is_deleted": bool(is_deleted)}
    return msgspec.convert(fields, SchemaRecord)
