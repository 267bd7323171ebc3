"""Metadata and rule sets as clients send them: checked in form, kept as they are. The clients run the rules."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.registry.registry_errors import InvalidRuleSetError
from event_streaming_bus.struct_errors import path_and_reason

_KINDS: Final = ("CONDITION", "TRANSFORM")
_MIGRATION_MODES: Final = ("UPGRADE", "DOWNGRADE", "UPDOWN")
_DOMAIN_MODES: Final = ("READ", "WRITE", "WRITEREAD")


class _Metadata(msgspec.Struct):
    tags: dict[str, list[str]] | None = None
    properties: dict[str, str] | None = None
    sensitive: list[str] | None = None


class _Rule(msgspec.Struct, rename="camel"):
    name: str
    kind: str
    mode: str
    type: str
    doc: str | None = None
    tags: list[str] | None = None
    params: dict[str, str] | None = None
    expr: str | None = None
    on_success: str | None = None
    on_failure: str | None = None
    disabled: bool | None = None


class _RuleSet(msgspec.Struct, rename="camel"):
    migration_rules: list[_Rule] | None = None
    domain_rules: list[_Rule] | None = None
    encoding_rules: list[_Rule] | None = None
    enable_at: str | None = None


def check_metadata(data: dict[str, Any] | None, where: str = "metadata") -> None:
    """Raise ``InvalidInputError`` for metadata with members of other types than clients expect."""
    try:
        msgspec.convert(data, _Metadata | None)
    except msgspec.ValidationError as error:
        raise InvalidInputError(told(error, where)) from None


def check_rule_set(data: dict[str, Any] | None, where: str = "ruleSet") -> None:
    """Raise ``InvalidRuleSetError``, naming the place, for rules that no client could run: each needs a name of its own, a type,
    a kind and a mode, and the mode must be one for the list that the rule is in."""
    try:
        rule_set = msgspec.convert(data, _RuleSet | None)
    except msgspec.ValidationError as error:
        raise InvalidRuleSetError(told(error, where)) from None
    if rule_set is None:
        return
    names: set[str] = set()
    for field, rules, modes in (
        ("migrationRules", rule_set.migration_rules, _MIGRATION_MODES),
        ("domainRules", rule_set.domain_rules, _DOMAIN_MODES),
        ("encodingRules", rule_set.encoding_rules, _DOMAIN_MODES),
    ):
        for i, rule in enumerate(rules or []):
            _check_rule(rule, f"{where}.{field}[{i}]", modes)
            if rule.name in names:
                raise InvalidRuleSetError(f"{where}.{field}[{i}].name: another rule is named {rule.name!r} already")
            names.add(rule.name)


def _check_rule(rule: _Rule, where: str, modes: Sequence[str]) -> None:
    for name, value in (("name", rule.name), ("type", rule.type)):
        if not value.strip():
            raise InvalidRuleSetError(f"{where}.{name}: expected a word, got {value!r}")
    if rule.kind not in _KINDS:
        raise InvalidRuleSetError(f"{where}.kind: expected {' or '.join(_KINDS)}, got {rule.kind!r}")
    if rule.mode not in modes:
        raise InvalidRuleSetError(f"{where}.mode: expected one of {', '.join(modes)}, got {rule.mode!r}")


def told(error: msgspec.ValidationError, where: str = "") -> str:
    """msgspec's message with the path in front."""
    below, reason = path_and_reason(str(error))
    path = ".".join(part for part in (where, below) if part)
    return f"{path}: {reason}" if path else reason
