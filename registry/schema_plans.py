"""Plans: what registering declared schemas would do, found out by doing it in a registry that is thrown away."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum

import msgspec

from event_streaming_bus.errors import BusError, InvalidStateError, SchemaError
from event_streaming_bus.registry import semantic_versions
from event_streaming_bus.registry.compatibility import CompatibilityLevel, Incompatibility
from event_streaming_bus.registry.json_diff import Change, changes
from event_streaming_bus.registry.registry_errors import IncompatibleSchemaError
from event_streaming_bus.registry.schema_configs import config_of, read_config
from event_streaming_bus.registry.schema_files import LEVEL, DeclaredSchema, SchemaFile, own_level
from event_streaming_bus.registry.schema_references import LATEST, with_references
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.registry.settings import ALL_SUBJECTS
from event_streaming_bus.store.schemas import DEFAULT_CONTEXT, SchemaRecord, SchemaStore, context_of
from event_streaming_bus.store.storage import open_storage


class Verdict(StrEnum):
    """What becomes of a declared schema."""

    NEW = "new"
    NEW_VERSION = "new version"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one declared schema.

    ``before`` is the version that was the latest, ``change`` says whether the new one is a ``major``, ``minor`` or ``patch``
    version after it, ``changes`` what is different. ``incompatibilities`` are those at the ``level`` that counts; the schema is
    refused for them unless it is declared to break. ``reason`` tells why it is refused.
    """

    verdict: Verdict
    declared: DeclaredSchema
    schema_version: str | None
    before: str | None = None
    change: str | None = None
    changes: list[Change] = []
    level: str | None = None
    incompatibilities: list[Incompatibility] = []
    reason: str = ""


class LevelChange(msgspec.Struct, frozen=True):
    """A compatibility level that is set, of a subject, a context, or (the empty text) of all others. None: the inherited one."""

    subject: str
    before: str | None
    after: str | None


class Plan(msgspec.Struct, frozen=True):
    """What becomes of declared schemas, in the order in which they are registered, and of compatibility levels."""

    steps: list[Step]
    levels: list[LevelChange]
    wanted_levels: dict[str, CompatibilityLevel | None]

    @property
    def refused(self) -> list[Step]:
        return [step for step in self.steps if step.verdict is Verdict.REFUSED]

    @property
    def changing(self) -> list[Step]:
        """The steps that register something."""
        return [step for step in self.steps if step.verdict in (Verdict.NEW, Verdict.NEW_VERSION)]


def plan(registry: SchemaRegistryService, tenant_id: str, files: Iterable[SchemaFile]) -> Plan:
    """What registering all that the files declare would do. Nothing is registered.

    Schemas are ordered so that each comes after those it refers to, and after the lower versions of its own subject.
    """
    files = list(files)
    declared = [schema for file in files for schema in file.schemas]
    levels = {subject: level for file in files for subject, level in file.levels.items()}
    before = {subject: own_level(registry, tenant_id, subject) for subject in levels}
    with _scratch(registry.subjects.store, tenant_id, declared, levels) as scratch:
        for subject, level in levels.items():
            _set_level(scratch, tenant_id, subject, level)
        steps = [_try(scratch, tenant_id, each, reason) for each, reason in _ordered(scratch, tenant_id, declared)]
    changed = [LevelChange(name, before[name], level) for name, level in levels.items() if before[name] != level]
    return Plan(steps, changed, levels)


def apply(registry: SchemaRegistryService, tenant_id: str, made: Plan, created_by: str | None = None) -> list[SchemaRecord]:
    """Do what a plan says; returns the versions that are new. Raises ``InvalidStateError`` if it refuses anything, and an error
    that says how much was done if somebody else has registered something meanwhile that is in the way."""
    if made.refused:
        raise InvalidStateError("Nothing is registered while a schema is refused.")
    for subject, level in made.wanted_levels.items():
        _set_level(registry, tenant_id, subject, level)
    records: list[SchemaRecord] = []
    for step in made.changing:
        try:
            config = with_references(registry, tenant_id, step.declared.config)
            records.append(registry.register(config, tenant_id, created_by))
        except BusError as error:
            told = f"{step.declared.told(error.message)} ({len(records)} of {len(made.changing)} were registered before)"
            raise type(error)(told, **error.details) from error
    for subject, level in made.wanted_levels.items():  # once more: a version's own level becomes that of its subject
        _set_level(registry, tenant_id, subject, level)
    return records


def _try(scratch: SchemaRegistryService, tenant_id: str, declared: DeclaredSchema, reason: str) -> Step:
    """Register one schema in the scratch registry. A ``reason`` is one that keeps it from being tried."""
    level: CompatibilityLevel | None = None
    found: list[Incompatibility] = []
    versions = scratch.subjects.store.versions(tenant_id, declared.name) if declared.name else []
    before = versions[-1] if versions else None
    latest = None if before is None else before.schema_version
    try:
        if reason:
            raise SchemaError(reason)
        numbered = with_references(scratch, tenant_id, declared.config)
        config = read_config(numbered)
        level = config.compatibility_level or scratch.subjects.settings.level(tenant_id, config.schema_name)
        with suppress(BusError):  # what is wrong with the schema itself is told below
            found = scratch.subjects.check(tenant_id, config.schema_name, config.candidate(None).text, level=level)
        record = scratch.register(numbered, tenant_id)
    except BusError as error:
        is_incompatible = isinstance(error, IncompatibleSchemaError)
        return Step(
            verdict=Verdict.REFUSED,
            declared=declared,
            schema_version=declared.version,
            before=latest,
            level=None if level is None else level.value,
            incompatibilities=found if is_incompatible else [],
            reason=declared.told(f"incompatible at level {level}" if is_incompatible else error.message),
        )
    if any(record.schema_id == each.schema_id for each in versions):
        return Step(verdict=Verdict.UNCHANGED, declared=declared, schema_version=record.schema_version, before=latest)
    return Step(
        verdict=Verdict.NEW if before is None else Verdict.NEW_VERSION,
        declared=declared,
        schema_version=record.schema_version,
        before=latest,
        change=None if before is None else _kind(before.schema_version, record.schema_version),
        changes=[] if before is None else config_changes(before, record),
        level=level.value,
        incompatibilities=found,
    )


def config_changes(before: SchemaRecord, after: SchemaRecord) -> list[Change]:
    """What is different between two versions, but for their names and numbers."""
    old, new = config_of(before), config_of(after)
    for config in (old, new):
        for name in ("schema_name", "schema_version"):
            config.pop(name, None)
    return changes(old, new)


def _kind(before: str, after: str) -> str:
    old, new = semantic_versions.numbers(before), semantic_versions.numbers(after)
    return "major" if old[0] != new[0] else "minor" if old[1] != new[1] else "patch"


# --- order ------------------------------------------------------------------------------------------------------------


def _ordered(
    scratch: SchemaRegistryService, tenant_id: str, declared: Sequence[DeclaredSchema]
) -> Iterator[tuple[DeclaredSchema, str]]:
    """The declared schemas, each when it can be tried: what it refers to has been tried before. Those in a circle come last, with
    the reason why they cannot be registered."""
    waiting = sorted(declared, key=lambda each: (each.name, _numbers(each)))
    while waiting:
        ready = [each for i, each in enumerate(waiting) if not _waits(scratch, tenant_id, each, waiting, i)]
        if not ready:
            circle = ", ".join(sorted({each.name for each in waiting}))
            yield from ((each, f"references: these refer to each other in a circle: {circle}") for each in waiting)
            return
        for each in ready:
            yield each, ""
        waiting = [each for each in waiting if not any(each is one for one in ready)]


def _waits(
    scratch: SchemaRegistryService, tenant_id: str, each: DeclaredSchema, waiting: Sequence[DeclaredSchema], index: int
) -> bool:
    if any(other.name == each.name for other in waiting[:index]):
        return True
    references = each.config.get("references")
    for reference in references if isinstance(references, list) else ():
        if not isinstance(reference, dict) or reference.get("subject") == each.name:
            continue
        subject, version = reference.get("subject"), reference.get("version")
        if not any(other.name == subject for other in waiting):
            continue
        there = scratch.subjects.store.versions(tenant_id, subject)
        is_there = any(version in (record.version, record.schema_version) for record in there)
        if version in (None, LATEST) or not is_there:
            return True
    return False


def _numbers(declared: DeclaredSchema) -> tuple[int, ...]:
    """What the versions of a subject are ordered by; those without a number come last, in the order in which they stand."""
    version = declared.version
    if version is None or not semantic_versions.is_version(version):
        return (1,)
    return (0, *semantic_versions.numbers(version))


# --- the registry that is thrown away -----------------------------------------------------------------------------------


@contextmanager
def _scratch(
    store: SchemaStore, tenant_id: str, declared: Sequence[DeclaredSchema], levels: Iterable[str]
) -> Iterator[SchemaRegistryService]:
    """A registry with all that the declared schemas have to do with."""
    subjects = [each.name for each in declared if each.name]
    for each in declared:
        references = each.config.get("references")
        subjects += [
            reference["subject"]
            for reference in (references if isinstance(references, list) else ())
            if isinstance(reference, dict) and isinstance(reference.get("subject"), str)
        ]
    with tempfile.TemporaryDirectory(prefix="esb-schemas-") as folder:
        storage = open_storage(folder)
        try:
            _copy(store, storage.schemas, tenant_id, [*subjects, *(name for name in levels if name)])
            yield SchemaRegistryService(storage)
        finally:
            storage.close()


def _copy(store: SchemaStore, scratch: SchemaStore, tenant_id: str, subjects: Sequence[str]) -> None:
    """Copy subjects and what they refer to, with settings."""
    to_do, done = list(dict.fromkeys(subjects)), set[str]()
    while to_do:
        subject = to_do.pop()
        if subject in done:
            continue
        done.add(subject)
        for record in store.versions(tenant_id, subject, deleted=True):
            scratch.add(record, scratch.state_of(tenant_id, subject))
            if record.is_deleted:
                scratch.update(record)
            to_do += [reference.subject for reference in record.text.references]
    contexts = {f":{context_of(subject)}:" for subject in done} - {f":{DEFAULT_CONTEXT}:"}
    for place in (ALL_SUBJECTS, *contexts, *done):
        for name in ("config", "mode"):
            value = store.setting(tenant_id, place, name)
            if value is not None:
                scratch.set_setting(tenant_id, place, name, value)


def _set_level(registry: SchemaRegistryService, tenant_id: str, subject: str, level: CompatibilityLevel | None) -> None:
    if level is not None:
        if level != own_level(registry, tenant_id, subject):
            registry.subjects.settings.set_config(tenant_id, subject, {LEVEL: level.value})
        return
    config = registry.subjects.store.setting(tenant_id, subject, "config") or {}
    if config.pop(LEVEL, None) is not None:
        registry.subjects.store.set_setting(tenant_id, subject, "config", config or None)
