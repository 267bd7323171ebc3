"""Metadata and rule sets of schemas: what a version takes over from the one before it, and from the settings."""

from collections.abc import Mapping
from typing import Any

import msgspec

from event_streaming_bus.store.schemas import SchemaText


def completed(text: SchemaText, before: SchemaText | None, config: Mapping[str, Any]) -> SchemaText:
    """The text with its metadata and rule set: those of the version ``before`` where it brings none, above the defaults and below
    the overrides of the settings."""
    metadata = text.metadata if text.metadata is not None else before.metadata if before else None
    rule_set = text.rule_set if text.rule_set is not None else before.rule_set if before else None
    return msgspec.structs.replace(
        text,
        metadata=_merged(config.get("defaultMetadata"), metadata, config.get("overrideMetadata")),
        rule_set=_merged(config.get("defaultRuleSet"), rule_set, config.get("overrideRuleSet")),
    )


def property_of(text: SchemaText, name: str) -> Any:
    """A property of the metadata; None without it."""
    return ((text.metadata or {}).get("properties") or {}).get(name)


def _merged(default: Any, own: Any, override: Any) -> Any:
    """Objects laid over each other, member by member; lists of named rules are replaced rule by rule."""
    result = default
    for above in (own, override):
        result = result if above is None else above if result is None else _over(result, above)
    return result


def _over(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{name: _over(below[name], value) if name in below else value for name, value in above.items()}}
    if isinstance(below, list) and isinstance(above, list) and all(isinstance(r, dict) and "name" in r for r in below + above):
        return list({rule["name"]: rule for rule in below + above}.values())
    return above
