"""Settings of the registry: compatibility and mode, for all subjects, for those of a context, and for each."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from event_streaming_bus.registry.compatibility import DEFAULT_LEVEL, CompatibilityLevel
from event_streaming_bus.registry.registry_errors import (
    InvalidLevelError,
    InvalidModeError,
    NoLevelError,
    NoModeError,
    NotPermittedError,
)
from event_streaming_bus.store.schemas import DEFAULT_CONTEXT, SchemaStore, context_of

ALL_SUBJECTS: Final = ""
_LEVEL: Final = "compatibilityLevel"


class Mode(StrEnum):
    """What may be registered: READWRITE anything, READONLY nothing, IMPORT what brings its own id and version, unchecked."""

    READWRITE = "READWRITE"
    READONLY = "READONLY"
    IMPORT = "IMPORT"


def is_context(subject: str) -> bool:
    """Whether it names a context, as ``:.ctx:`` does, and no subject in it."""
    return subject.startswith(":.") and subject.endswith(":") and subject.count(":") == 2


class RegistrySettings:
    """The settings of each tenant's subjects. What a subject does not say, its context says, or else the whole registry."""

    def __init__(self, store: SchemaStore) -> None:
        self._store = store

    def level(self, tenant_id: str, subject: str) -> CompatibilityLevel:
        """The level that counts for a subject."""
        return CompatibilityLevel(self.config(tenant_id, subject, inherited=True)[_LEVEL])

    def config(self, tenant_id: str, subject: str, *, inherited: bool = False) -> dict[str, Any]:
        """The settings for a subject, a context or all subjects: ``compatibilityLevel`` and whatever else was set.

        Raises ``NoLevelError`` for a subject without settings of its own, unless they may be ``inherited``.
        """
        own = self._store.setting(tenant_id, subject, "config")
        if subject == ALL_SUBJECTS or inherited:
            above: dict[str, Any] = {_LEVEL: DEFAULT_LEVEL.value}
            for place in _above(subject):
                above |= self._store.setting(tenant_id, place, "config") or {}
            return above | (own or {})
        if own is None:
            raise NoLevelError(f"Subject '{subject}' does not have subject-level compatibility configured")
        return dict(own)

    def set_config(self, tenant_id: str, subject: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change some settings; those that are not named stay, None takes one back. Returns them all.

        Raises ``InvalidLevelError``.
        """
        level = changes.get(_LEVEL)
        if level is not None and level not in CompatibilityLevel.__members__:
            raise InvalidLevelError(f"Invalid compatibility level {level!r}; accepted: {', '.join(CompatibilityLevel)}")
        config: dict[str, Any] = {**(self._store.setting(tenant_id, subject, "config") or {}), **changes}
        config = {name: value for name, value in config.items() if value is not None}
        self._store.set_setting(tenant_id, subject, "config", config)
        return config

    def delete_config(self, tenant_id: str, subject: str) -> dict[str, Any]:
        """Forget the settings of a subject, a context or all; returns what they were."""
        config = self.config(tenant_id, subject)
        self._store.set_setting(tenant_id, subject, "config", None)
        return config

    def mode(self, tenant_id: str, subject: str, *, inherited: bool = False) -> Mode:
        """The mode of a subject, a context or all subjects. Raises ``NoModeError`` for a subject without one of its own,
        unless it may be ``inherited``."""
        for place in (subject, *(reversed(_above(subject)) if inherited else ())):
            if (mode := self._store.setting(tenant_id, place, "mode")) is not None:
                return Mode(mode)
        if subject == ALL_SUBJECTS or inherited:
            return Mode.READWRITE
        raise NoModeError(f"Subject '{subject}' does not have subject-level mode configured")

    def set_mode(self, tenant_id: str, subject: str, mode: str, *, force: bool = False) -> Mode:
        """Set a mode. IMPORT is for subjects that have no versions, unless ``force`` is given, as ids could be taken
        otherwise."""
        if mode not in Mode.__members__:
            raise InvalidModeError(f"Invalid mode {mode!r}; accepted: {', '.join(Mode)}")
        if mode == Mode.IMPORT and not force and self._holds_versions(tenant_id, subject):
            raise NotPermittedError("Cannot import since found existing subjects; delete them first, or use force=true")
        self._store.set_setting(tenant_id, subject, "mode", mode)
        return Mode(mode)

    def delete_mode(self, tenant_id: str, subject: str) -> Mode:
        """Forget the mode of a subject or a context; returns what it was."""
        mode = self.mode(tenant_id, subject)
        self._store.set_setting(tenant_id, subject, "mode", None)
        return mode

    def _holds_versions(self, tenant_id: str, subject: str) -> bool:
        if subject == ALL_SUBJECTS:
            return bool(self._store.subjects(tenant_id))
        if is_context(subject):
            return any(context_of(name) == context_of(subject) for name in self._store.subjects(tenant_id))
        return bool(self._store.versions(tenant_id, subject))


def _above(subject: str) -> list[str]:
    """The places whose settings count for a subject where it has none, the widest first."""
    if subject == ALL_SUBJECTS:
        return []
    context = context_of(subject)
    return [ALL_SUBJECTS] if context == DEFAULT_CONTEXT or is_context(subject) else [ALL_SUBJECTS, f":{context}:"]
