"""Subjects: schemas registered under a name, version after version, each checked against those before it."""

import re
import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import AlreadyExistsError, SchemaError, SchemaNotFoundError
from event_streaming_bus.registry import semantic_versions
from event_streaming_bus.registry.compatibility import (
    CompatibilityLevel,
    Incompatibility,
    incompatibilities,
    sentences,
)
from event_streaming_bus.registry.metadata import completed, property_of
from event_streaming_bus.registry.parsing import ParsedSchema, Parser
from event_streaming_bus.registry.registry_errors import (
    IdMismatchError,
    IncompatibleSchemaError,
    InvalidSubjectError,
    NotPermittedError,
    ReferenceExistsError,
    SubjectDeletedError,
    SubjectNotDeletedError,
    SubjectNotFoundError,
    VersionDeletedError,
    VersionNotDeletedError,
    VersionNotFoundError,
)
from event_streaming_bus.registry.settings import Mode, RegistrySettings, is_context
from event_streaming_bus.store.schemas import (
    SchemaRecord,
    SchemaStore,
    SchemaText,
    guid_of,
)

LATEST: Final = -1
_MAX_REFERENCES: Final = 1000
_SUBJECT: Final = re.compile(r"[^\x00-\x1f\x7f]{1,249}")
_RESERVED: Final = ("__GLOBAL", "__EMPTY")


class EvolutionStrategy(StrEnum):
    """How a new version relates to those before it.

    COMPATIBLE: it is compatible with them, at its level. BREAKING_CHANGE: it need not be; it has a new major version and begins a
    new compatibility group, the only one that later versions are compared with. DEPRECATE: it is compatible, and those before it
    are deprecated: they are read as before, producers that use them are refused from a date on, and answers are marked.
    """

    COMPATIBLE = "COMPATIBLE"
    BREAKING_CHANGE = "BREAKING_CHANGE"
    DEPRECATE = "DEPRECATE"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A version to be registered. ``schema_version`` follows from what has changed if it is not given, ``compatibility_level``
    from the settings. ``version`` and ``id`` are for the mode IMPORT."""

    text: SchemaText
    schema_version: str | None = None
    compatibility_level: CompatibilityLevel | None = None
    evolution_strategy: EvolutionStrategy = EvolutionStrategy.COMPATIBLE
    event_type: str | None = None
    validation_rules: dict[str, Any] | None = None
    migration: dict[str, Any] | None = None
    more: dict[str, Any] | None = None
    is_active: bool = True
    created_by: str | None = None
    version: int = 0
    id: int = 0


class Subjects:
    """The subjects of each tenant. ``used_by`` tells which streams a version is the schema of; those are not deleted."""

    def __init__(self, store: SchemaStore, used_by: Callable[[SchemaRecord], Sequence[str]] = lambda record: ()) -> None:
        self.store = store
        self._used_by = used_by
        self.settings = RegistrySettings(store)
        self._parse = Parser()

    # --- registering --------------------------------------------------------------------------------------------------

    def register(
        self,
        tenant_id: str,
        subject: str,
        candidate: Candidate,
        is_same: Callable[[SchemaRecord], bool],
        *,
        normalize: bool = False,
    ) -> tuple[SchemaRecord, bool]:
        """Register a version; returns it, and whether it is new: the newest version that ``is_same`` is returned as it is.

        Raises ``SchemaError`` for a malformed one, ``IncompatibleSchemaError``, ``SemanticVersionError``, ``NotPermittedError``
        in a mode that does not allow it, ``IdMismatchError`` for an id or version that is taken.
        """
        check_subject(subject)
        mode = self.settings.mode(tenant_id, subject, inherited=True)
        if mode is Mode.READONLY:
            raise NotPermittedError(f"Subject {subject} is in read-only mode")
        if (candidate.id or candidate.version) and mode is not Mode.IMPORT:
            raise NotPermittedError(f"Subject {subject} is not in import mode: ids and versions are given by the registry")
        config = self.settings.config(tenant_id, subject, inherited=True)
        parsed = self.parse(tenant_id, candidate.text)
        if normalize or config.get("normalize"):
            candidate = msgspec.structs.replace(candidate, text=_normalized(candidate.text, parsed))
        while True:
            seen = self.store.state_of(tenant_id, subject)
            earlier = self.store.versions(tenant_id, subject)
            for record in reversed(earlier):
                if is_same(record) and candidate.version in (0, record.version):
                    return record, False
            text = completed(candidate.text, earlier[-1].text if earlier else None, config)
            complete = msgspec.structs.replace(candidate, text=text)
            record = self._new_version(tenant_id, subject, complete, parsed, earlier, mode)
            try:
                added = self.store.add(record, seen)
            except AlreadyExistsError as error:
                raise IdMismatchError(error.message, **error.details) from error
            if added is not None:  # else another process was quicker, and this one has to look again
                return added, True

    def _new_version(
        self,
        tenant_id: str,
        subject: str,
        candidate: Candidate,
        parsed: ParsedSchema,
        earlier: Sequence[SchemaRecord],
        mode: Mode,
    ) -> SchemaRecord:
        level = candidate.compatibility_level or self.settings.level(tenant_id, subject)
        is_breaking = candidate.evolution_strategy is EvolutionStrategy.BREAKING_CHANGE
        group = self._group(tenant_id, subject, earlier, candidate.text)
        if not is_breaking and mode is not Mode.IMPORT:
            found = incompatibilities(parsed, candidate.text.format, self._parsed(tenant_id, group), level)
            if found:
                raise incompatible(subject, level, found)
        return SchemaRecord(
            schema_id=ids.new_id(ids.SCHEMA),
            tenant_id=tenant_id,
            schema_name=subject,
            version=candidate.version,
            schema_version=self._semantic_version(tenant_id, candidate, parsed, earlier, is_breaking),
            text=candidate.text,
            id=candidate.id,
            event_type=candidate.event_type,
            compatibility_level=level.value,
            evolution_strategy=candidate.evolution_strategy.value,
            group_version=group[-1].group_version if group and not is_breaking else 0,
            validation_rules=candidate.validation_rules,
            migration=candidate.migration,
            more=candidate.more,
            is_active=candidate.is_active,
            created_by=candidate.created_by,
            created_at_ms=time.time_ns() // 1_000_000,
        )

    def _semantic_version(
        self, tenant_id: str, candidate: Candidate, parsed: ParsedSchema, earlier: Sequence[SchemaRecord], is_breaking: bool
    ) -> str:
        wanted = candidate.schema_version
        if not earlier:
            if wanted is not None:
                semantic_versions.numbers(wanted)
            return wanted or semantic_versions.FIRST
        latest = max(earlier, key=lambda record: semantic_versions.numbers(record.schema_version))
        if not is_breaking:
            # A level of NONE, or FORWARD, lets through what breaks those who read old events with the new version.
            before = self._parsed(tenant_id, [latest])
            is_breaking = bool(incompatibilities(parsed, candidate.text.format, before, CompatibilityLevel.BACKWARD))
        if wanted is None:
            return semantic_versions.next_version(latest.schema_version, breaking=is_breaking)
        semantic_versions.check_version(wanted, latest.schema_version, breaking=is_breaking)
        return wanted

    def _group(self, tenant_id: str, subject: str, earlier: Sequence[SchemaRecord], text: SchemaText) -> list[SchemaRecord]:
        """The versions that a new one is to be compatible with: those since the last breaking change and, where the settings
        name a property of the metadata as ``compatibilityGroup``, with the same value of it."""
        group = [record for record in earlier if record.group_version == earlier[-1].group_version]
        named = self.settings.config(tenant_id, subject, inherited=True).get("compatibilityGroup")
        if named:
            wanted = property_of(text, named)
            group = [record for record in group if property_of(record.text, named) == wanted]
        return group

    def check(
        self,
        tenant_id: str,
        subject: str,
        text: SchemaText,
        version: int | None = None,
        *,
        level: CompatibilityLevel | None = None,
    ) -> list[Incompatibility]:
        """How the text, were it registered now, would be incompatible: with the versions that the ``level`` asks for (by
        default the subject's), or with one ``version`` (or ``LATEST``). Raises ``SchemaError``; for a ``version``,
        ``SubjectNotFoundError`` and ``VersionNotFoundError``."""
        parsed = self.parse(tenant_id, text)
        level = level or self.settings.level(tenant_id, subject)
        if version is None:
            earlier = self.store.versions(tenant_id, subject)
            group = self._group(tenant_id, subject, earlier, text)
            return incompatibilities(parsed, text.format, self._parsed(tenant_id, group), level)
        record = self.version(tenant_id, subject, version)
        return incompatibilities(parsed, text.format, self._parsed(tenant_id, [record]), level)

    def _parsed(self, tenant_id: str, records: Sequence[SchemaRecord]) -> list[tuple[SchemaRecord, ParsedSchema]]:
        return [(record, self.parse(tenant_id, record.text)) for record in records]

    # --- parsing ------------------------------------------------------------------------------------------------------

    def parse(self, tenant_id: str, text: SchemaText) -> ParsedSchema:
        """The text, and what it refers to, ready for use. Raises ``SchemaError``."""
        return self._parse(text, self.references(tenant_id, text))

    def normalized(self, tenant_id: str, text: SchemaText) -> SchemaText:
        """The text as all that mean the same are written. Raises ``SchemaError``."""
        return _normalized(text, self.parse(tenant_id, text))

    def references(self, tenant_id: str, text: SchemaText) -> dict[str, SchemaText]:
        """What a text refers to by name, directly or through others, each after all that it refers to itself.

        Raises ``SchemaError`` for a reference to nowhere, or two of one name that lead to different schemas.
        """
        found: dict[str, SchemaText] = {}
        self._collect(tenant_id, text, found, "references")
        return found

    def _collect(self, tenant_id: str, text: SchemaText, found: dict[str, SchemaText], where: str) -> None:
        # Versions never change and refer to what was there before them, so there are no circles.
        for i, reference in enumerate(text.references):
            here = f"{where}[{i}]"
            try:
                referred = self.version(tenant_id, reference.subject, reference.version, deleted=True).text
            except (SubjectNotFoundError, VersionNotFoundError) as error:
                raise SchemaError(f"{here} ({reference.name}): {error.message}") from None
            if reference.name in found:
                if found[reference.name] != referred:
                    raise SchemaError(f"{here}: the name {reference.name!r} stands for two different schemas")
                continue
            if len(found) >= _MAX_REFERENCES:
                raise SchemaError(f"{here}: more than {_MAX_REFERENCES} schemas are referred to")
            self._collect(tenant_id, referred, found, f"{here}.references")
            found[reference.name] = referred

    # --- finding ------------------------------------------------------------------------------------------------------

    def lookup(
        self, tenant_id: str, subject: str, text: SchemaText, *, normalize: bool = False, deleted: bool = False
    ) -> SchemaRecord:
        """The newest version of the subject with this text. Raises ``SubjectNotFoundError`` and ``SchemaNotFoundError``."""
        versions = self.store.versions(tenant_id, subject, deleted=deleted)
        if not versions:
            raise self._no_subject(tenant_id, subject)
        if normalize:
            text = self.normalized(tenant_id, text)
        for record in reversed(versions):
            if has_text(record, text):
                return record
        raise SchemaNotFoundError(f"Schema not found under subject '{subject}'")

    def version(self, tenant_id: str, subject: str, version: int, *, deleted: bool = False) -> SchemaRecord:
        """A version by its number, or the ``LATEST``. Raises ``SubjectNotFoundError`` and ``VersionNotFoundError``."""
        if version == LATEST:
            versions = self.store.versions(tenant_id, subject, deleted=deleted)
            if not versions:
                raise self._no_subject(tenant_id, subject)
            return versions[-1]
        found = self.store.versions(tenant_id, subject, deleted=deleted, version=version)
        if found:
            return found[0]
        known = self.store.versions(tenant_id, subject, deleted=deleted)
        if not known:
            raise self._no_subject(tenant_id, subject)
        raise VersionNotFoundError(
            f"Version {version} not found: subject '{subject}' has {', '.join(str(r.version) for r in known[-20:])}"
        )

    def versions(self, tenant_id: str, subject: str, *, deleted: bool = False, deleted_only: bool = False) -> list[SchemaRecord]:
        """A subject's versions, oldest first. Raises ``SubjectNotFoundError`` if there are none."""
        versions = self.store.versions(tenant_id, subject, deleted=deleted or deleted_only)
        found = [record for record in versions if record.is_deleted or not deleted_only]
        if not found:
            raise self._no_subject(tenant_id, subject)
        return found

    def _no_subject(self, tenant_id: str, subject: str) -> SubjectNotFoundError:
        return SubjectNotFoundError(f"Subject '{subject}' not found.{self.near(tenant_id, subject)}", subject=subject)

    def near(self, tenant_id: str, subject: str) -> str:
        """A hint at a subject with a name that is like this one."""
        near = get_close_matches(subject, list(self.store.subjects(tenant_id)), 1)
        return f" Did you mean '{near[0]}'?" if near else ""

    # --- deleting -----------------------------------------------------------------------------------------------------

    def delete_version(self, tenant_id: str, subject: str, version: int, *, permanent: bool = False) -> SchemaRecord:
        """Delete a version: it is not shown any more, and nothing new can use it, while what was written with it can be read. One
        that is deleted can be removed for good with ``permanent``; its id is never given to another schema."""
        record = self.version(tenant_id, subject, version, deleted=permanent or version != LATEST)
        self._check_deletable(tenant_id, [record])
        if permanent and not record.is_deleted:
            raise VersionNotDeletedError(
                f"Subject '{subject}' version {record.version} was not deleted first before being permanently deleted"
            )
        if not permanent and record.is_deleted:
            raise VersionDeletedError(
                f"Subject '{subject}' version {record.version} was soft deleted. Set permanent=true to delete permanently"
            )
        self._delete([record], permanent)
        return record

    def delete_subject(self, tenant_id: str, subject: str, *, permanent: bool = False) -> list[SchemaRecord]:
        """Delete all versions of a subject; see ``delete_version``."""
        records = self.store.versions(tenant_id, subject, deleted=True)
        if not records:
            raise self._no_subject(tenant_id, subject)
        live = [record for record in records if not record.is_deleted]
        if permanent and live:
            raise SubjectNotDeletedError(f"Subject '{subject}' was not deleted first before being permanently deleted")
        if not permanent and not live:
            raise SubjectDeletedError(f"Subject '{subject}' was soft deleted. Set permanent=true to delete permanently")
        deleted = records if permanent else live
        self._check_deletable(tenant_id, deleted)
        self._delete(deleted, permanent)
        if permanent:
            for name in ("config", "mode"):
                self.store.set_setting(tenant_id, subject, name, None)
        return deleted

    def _check_deletable(self, tenant_id: str, records: Sequence[SchemaRecord]) -> None:
        subject = records[0].schema_name
        if self.settings.mode(tenant_id, subject, inherited=True) is Mode.READONLY:
            raise NotPermittedError(f"Subject {subject} is in read-only mode")
        for record in records:
            by = self.store.referenced_by(tenant_id, record.schema_name, record.version)
            if by:
                raise ReferenceExistsError(
                    f"One or more references exist to the schema {record.schema_name} version {record.version}, by the ids {by}",
                    referenced_by=by,
                )
            if streams := self._used_by(record):
                raise NotPermittedError(
                    f"{record.schema_name} version {record.version} is the schema of the stream {streams[0]}; move it to another "
                    "version first",
                    streams=list(streams),
                )

    def _delete(self, records: Sequence[SchemaRecord], permanent: bool) -> None:
        if permanent:
            self.store.remove(records)
            return
        for record in records:
            self.store.update(msgspec.structs.replace(record, is_deleted=True))


def check_subject(subject: str) -> None:
    """Raise ``InvalidSubjectError`` for what cannot name a subject."""
    if not _SUBJECT.fullmatch(subject) or subject in _RESERVED or is_context(subject):
        raise InvalidSubjectError(f"{subject[:300]!r} cannot name a subject: 1 to 249 characters without control characters can")


def incompatible(subject: str, level: CompatibilityLevel, found: Sequence[Incompatibility]) -> IncompatibleSchemaError:
    """The error for a schema that is incompatible at a level."""
    told = "; ".join(sentences(found))
    return IncompatibleSchemaError(
        f"The schema is incompatible with an earlier version of '{subject}' at level {level}: {told}",
        compatibility_level=level.value,
        incompatibilities=msgspec.to_builtins(list(found)),
    )


def has_text(record: SchemaRecord, text: SchemaText) -> bool:
    """Whether a version has this text; metadata and rule set only count if ``text`` has them."""
    there = record.text
    for name in ("metadata", "rule_set"):
        if getattr(text, name) is None:
            there = msgspec.structs.replace(there, **{name: None})
    return guid_of(there) == guid_of(text)


def _normalized(text: SchemaText, parsed: ParsedSchema) -> SchemaText:
    references = tuple(sorted(text.references, key=lambda reference: reference.name))
    return msgspec.structs.replace(text, definition=parsed.canonical, references=references)
