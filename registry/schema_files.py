"""Schemas declared in files: what a file's contents say, and the contents of files that say what is registered.

Files are read and written by others; here they are plain data. A file holds one schema configuration, several in a list
``schemas``, or a bare Avro schema, and may set compatibility levels of subjects under ``compatibility_levels`` (null: the
inherited one) and that of all others under ``default_compatibility_level``.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

import msgspec
import yaml

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.compatibility import CompatibilityLevel
from event_streaming_bus.registry.schema_configs import config_of
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.registry.settings import ALL_SUBJECTS
from event_streaming_bus.store.schemas import DEFAULT_CONTEXT, SchemaRecord, context_of

SUFFIXES: Final = (".json", ".yaml", ".yml", ".toml", ".avsc")
FORMATS: Final = ("yaml", "json")
LEVELS_FILE: Final = "compatibility-levels"
LEVEL: Final = "compatibilityLevel"
"""The setting that has the level."""
_LEVELS: Final = "compatibility_levels"
_DEFAULT_LEVEL: Final = "default_compatibility_level"
_FILE_KEYS: Final = ("schemas", _LEVELS, _DEFAULT_LEVEL)
_MAX_FOLDER_CHARACTERS: Final = 180
_PLACE: Final = re.compile(r"([a-z_]+(?:\.\w+|\[\d+\])*)(?:(?=:)|((?:/[^/:\s]*)+)(?=[:\s]))")
_PLAIN: Final = re.compile(r"[A-Za-z_/$][A-Za-z0-9_./@$-]*( [A-Za-z_][A-Za-z0-9_./@-]*)*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})

Path = tuple[str | int, ...]
LineOf = Callable[[Path], int | None]
"""The line of a place in a file's data, or of the nearest thing around it; None where lines are not known."""


class DeclaredSchema(msgspec.Struct, frozen=True):
    """A schema as a file declares it: its configuration, not checked yet, and where it stands."""

    config: Mapping[str, Any]
    file: str
    path: Path = ()
    line_of: LineOf = lambda path: None

    @property
    def name(self) -> str:
        """The schema's name; empty if it has none that is text."""
        name = self.config.get("schema_name")
        return name if isinstance(name, str) else ""

    @property
    def version(self) -> str | None:
        """The semantic version that it declares."""
        version = self.config.get("schema_version")
        return version if isinstance(version, str) else None

    def told(self, message: str) -> str:
        """A message about the configuration, with file and line in front."""
        found = _PLACE.match(message)
        parts: list[str | int] = []
        if found is not None:
            parts += [int(part) if part.isdigit() else part for part in re.findall(r"\w+", found[1])]
            parts += [_unescaped(part) for part in (found[2] or "").split("/")[1:]]
        line = self.line_of((*self.path, *parts))
        within = f"{self.path[0]}[{self.path[1]}]" if len(self.path) == 2 else ""
        separator = "" if not within else "." if found is not None else ": "
        return f"{self.file}{'' if line is None else f':{line}'}: {within}{separator}{message}"


class SchemaFile(msgspec.Struct, frozen=True):
    """What one file declares: schemas, and compatibility levels by subject (the empty one for all others)."""

    schemas: list[DeclaredSchema]
    levels: dict[str, CompatibilityLevel | None] = {}


def declared_in(data: Any, file: str, line_of: LineOf = lambda path: None) -> SchemaFile:
    """What a file with this data declares. Raises ``SchemaError`` with file and line for data of no known form.

    Of an ``.avsc`` file, which names the subject by its own name, ``data`` may be the text.
    """
    suffix = PurePath(file).suffix.lower()
    if suffix == ".avsc" and not (isinstance(data, dict) and "schema_name" in data):
        return SchemaFile([DeclaredSchema({"schema_name": PurePath(file).stem, "avro_schema": data}, file, (), line_of)])
    top = DeclaredSchema({}, file, (), line_of)
    if not isinstance(data, dict):
        raise SchemaError(top.told("expected a mapping with schema_name, or with a list 'schemas'"))
    if not any(key in data for key in _FILE_KEYS):
        if "schema_name" not in data:
            raise SchemaError(top.told("expected a schema_name, with json_schema or avro_schema beside it, or a list 'schemas'"))
        return SchemaFile([DeclaredSchema(data, file, (), line_of)])
    for key in data:
        if key not in _FILE_KEYS:
            raise SchemaError(top.told(f"{key}: unknown key (accepted: {', '.join(_FILE_KEYS)})"))
    schemas = data.get("schemas") or []
    if not isinstance(schemas, list):
        raise SchemaError(top.told("schemas: expected a list"))
    declared = []
    for i, config in enumerate(schemas):
        if not isinstance(config, dict):
            raise SchemaError(top.told(f"schemas[{i}]: expected a mapping with schema_name"))
        declared.append(DeclaredSchema(config, file, ("schemas", i), line_of))
    return SchemaFile(declared, _levels(data, top))


def _levels(data: Mapping[str, Any], top: DeclaredSchema) -> dict[str, CompatibilityLevel | None]:
    levels = data.get(_LEVELS) or {}
    if not isinstance(levels, dict):
        raise SchemaError(top.told(f"{_LEVELS}: expected a mapping of schema names to levels"))
    wanted = {**levels, ALL_SUBJECTS: data[_DEFAULT_LEVEL]} if data.get(_DEFAULT_LEVEL) is not None else levels
    for name, level in wanted.items():
        if level is not None and level not in CompatibilityLevel.__members__:
            where = _DEFAULT_LEVEL if name == ALL_SUBJECTS else f"{_LEVELS}.{name}"
            raise SchemaError(top.told(f"{where}: {level!r} is no level; accepted: {', '.join(CompatibilityLevel)}"))
    return {name: None if level is None else CompatibilityLevel(level) for name, level in wanted.items()}


def _unescaped(part: str) -> str | int:
    return int(part) if part.isdigit() else part.replace("~1", "/").replace("~0", "~")


# --- what is registered, as files -------------------------------------------------------------------------------------


def exported(registry: SchemaRegistryService, tenant_id: str, names: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """The contents of files, by their paths without a suffix, that declare every version of these schemas, and of those they
    refer to; without names, of all.

    Declared in an empty registry, they make the same versions: the references name semantic versions, and one more file has the
    compatibility levels. Raises ``SubjectNotFoundError``.
    """
    wanted = list(names) or [name for name, is_deleted in registry.subjects.store.subjects(tenant_id).items() if not is_deleted]
    files: dict[str, dict[str, Any]] = {}
    levels: dict[str, Any] = {}
    to_do = list(dict.fromkeys(wanted))
    while to_do:
        name = to_do.pop(0)
        if name in levels:
            continue
        for record in registry.subjects.versions(tenant_id, name):
            files[f"{folder_of(name)}/{record.schema_version}"] = _contents(registry, record)
            to_do += [reference.subject for reference in record.text.references]
        levels[name] = own_level(registry, tenant_id, name)
    settings: dict[str, Any] = {_LEVELS: {name: levels[name] for name in sorted(levels)}}
    for context in {context_of(name) for name in levels} - {DEFAULT_CONTEXT}:
        settings[_LEVELS][f":{context}:"] = own_level(registry, tenant_id, f":{context}:")
    default = own_level(registry, tenant_id, ALL_SUBJECTS)
    if default is not None and not list(names):
        settings[_DEFAULT_LEVEL] = default
    return {**files, LEVELS_FILE: settings} if levels else {}


def own_level(registry: SchemaRegistryService, tenant_id: str, subject: str) -> str | None:
    """The compatibility level that was set for a subject, a context or (the empty subject) all others; None if none was."""
    level: str | None = (registry.subjects.store.setting(tenant_id, subject, "config") or {}).get(LEVEL)
    return level


def _contents(registry: SchemaRegistryService, record: SchemaRecord) -> dict[str, Any]:
    contents = config_of(record)
    if record.text.references:
        contents["references"] = [
            {
                "name": reference.name,
                "subject": reference.subject,
                "version": registry.subjects.version(
                    record.tenant_id, reference.subject, reference.version, deleted=True
                ).schema_version,
            }
            for reference in record.text.references
        ]
    return contents


def folder_of(name: str) -> str:
    """The folder of a schema's files: its name, with what is not safe in the name of a folder written as ``%`` and two digits."""
    folder = quote(name, safe="")
    if folder.startswith("."):
        folder = f"%2E{folder[1:]}"
    if len(folder) > _MAX_FOLDER_CHARACTERS:
        folder = f"{folder[:_MAX_FOLDER_CHARACTERS].rstrip('%')}-{blake2b(name.encode(), digest_size=8).hexdigest()}"
    return folder


def written(contents: Mapping[str, Any], form: str) -> str:
    """The contents of a file as text, in one of the ``FORMATS``."""
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(contents)).decode() + "\n"
    return str(yaml.dump(contents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=130, default_flow_style=False))


class _Dumper(yaml.SafeDumper):
    """Writes text so that it is text by everybody's rules: in quotes, but for words that look like nothing else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text)
