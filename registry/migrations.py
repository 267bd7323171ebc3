"""Migrations: what turns a payload of the version before into one of this version, declared with the version."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.expressions import Expression, Scope, parse

_MAX_FIELDS: Final = 200
Payload = dict[str, Any]


class MigrationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A migration as it is registered. ``fields``: the new value of each field, by its dotted path, as an expression over the old
    payload. ``remove``: the dotted paths of fields that there are no more."""

    fields: dict[str, str] = {}
    remove: list[str] = []


class Migration:
    """A compiled migration. ``where`` names its place for errors. Raises ``SchemaError`` and ``ExpressionError``."""

    def __init__(self, config: MigrationConfig, where: str = "migration") -> None:
        if len(config.fields) + len(config.remove) > _MAX_FIELDS:
            raise SchemaError(f"{where}: more than {_MAX_FIELDS} fields are changed")
        for name in (*config.fields, *config.remove):
            if not all(name.split(".")):
                raise SchemaError(f"{where}: expected the path of a field as in 'customer.email', got {name!r}")
        self._sets: list[tuple[list[str], Expression, Callable[[Any], Any]]] = []
        for field, text in config.fields.items():
            expression = parse(text, Scope.PAYLOAD, where=f"{where}.fields.{field}")
            self._sets.append((field.split("."), expression, expression.compile()))
        self._removes = [name.split(".") for name in config.remove]

    def __call__(self, payload: Any) -> Payload:
        """The payload as this version has it; what is given stays as it is. Raises ``ValueError`` if a field cannot be
        computed."""
        old = payload if isinstance(payload, dict) else {}
        new = dict(old)
        for path in self._removes:
            _remove(new, path)
        for path, expression, compute in self._sets:
            try:
                _set(new, path, compute(old))
            except Exception as error:  # whatever went wrong is the payload's doing: expressions cannot do anything else
                told = expression.explain(error, old)
                raise ValueError(f"the field {'.'.join(path)} cannot be migrated: {expression.text}: {told}") from error
        return new


def migration_of(data: Mapping[str, Any] | None) -> Migration | None:
    """The migration that a version declares; None if it declares none. Raises ``SchemaError`` and ``ExpressionError``."""
    if not data:
        return None
    try:
        return Migration(msgspec.convert(dict(data), MigrationConfig))
    except msgspec.ValidationError as error:
        raise SchemaError(f"migration: {error}") from None


def _remove(payload: Payload, path: Sequence[str]) -> None:
    for name in path[:-1]:
        inner = payload.get(name)
        if not isinstance(inner, dict):
            return
        below = dict(inner)
        payload[name] = below
        payload = below
    payload.pop(path[-1], None)


def _set(payload: Payload, path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        inner = payload.get(name)
        below = dict(inner) if isinstance(inner, dict) else {}
        payload[name] = below
        payload = below
    payload[path[-1]] = value
