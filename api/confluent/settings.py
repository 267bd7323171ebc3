"""Compatibility levels and modes, of all subjects and of each, as clients of a Confluent registry use them."""

from typing import Any, Final

from event_streaming_bus.api.confluent.requests import Call
from event_streaming_bus.api.confluent.rule_sets import check_metadata, check_rule_set
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.registry.registry_errors import (
    InvalidLevelError,
    InvalidModeError,
    NoLevelError,
    NoModeError,
    SubjectNotFoundError,
)
from event_streaming_bus.registry.settings import is_context
from event_streaming_bus.registry.subjects import check_subject

_LEVEL: Final = "compatibilityLevel"
_TYPES: Final[dict[str, tuple[type, str]]] = {
    "compatibilityGroup": (str, "a string"),
    "normalize": (bool, "true or false"),
    "defaultMetadata": (dict, "an object"),
    "overrideMetadata": (dict, "an object"),
    "defaultRuleSet": (dict, "an object"),
    "overrideRuleSet": (dict, "an object"),
}


def config(call: Call) -> Any:
    """The settings of a subject, a context or all subjects, with the level that counts."""
    settings, place = call.subjects.settings, call.place
    found = settings.config(call.tenant_id, place, inherited=_is_inherited(call))
    return {_LEVEL: settings.level(call.tenant_id, place), **found}


def set_config(call: Call) -> Any:
    """Change the settings that the body names; null takes one back. The answer is what was set."""
    place = _checked_place(call)
    data = call.fields()
    levels = [data.pop(name) for name in ("compatibility", _LEVEL) if name in data]
    for name, (kind, expected) in _TYPES.items():
        if data.get(name) is not None and not isinstance(data[name], kind):
            raise InvalidInputError(f"{name}: expected {expected}")
    for prefix in ("default", "override"):
        check_metadata(data.get(f"{prefix}Metadata"), f"{prefix}Metadata")
        check_rule_set(data.get(f"{prefix}RuleSet"), f"{prefix}RuleSet")
    level = _level(levels[0]) if levels else None
    call.subjects.settings.set_config(call.tenant_id, place, {**data, _LEVEL: level} if levels else data)
    return {name: value for name, value in {"compatibility": level, **data}.items() if value is not None}


def _level(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidLevelError(f"compatibility: expected the name of a level, got {value!r:.100}")
    return value and value.upper()


def delete_config(call: Call) -> Any:
    """Forget the settings of a subject, a context or all subjects; the answer is what they were."""
    try:
        return call.subjects.settings.delete_config(call.tenant_id, call.place)
    except NoLevelError as error:
        raise SubjectNotFoundError(error.message) from error


def mode(call: Call) -> Any:
    return {"mode": call.subjects.settings.mode(call.tenant_id, call.place, inherited=_is_inherited(call))}


def set_mode(call: Call) -> Any:
    place = _checked_place(call)
    wanted = call.fields().get("mode")
    if not isinstance(wanted, str):
        raise InvalidModeError(f"mode: expected the name of a mode, got {wanted!r:.100}")
    return {"mode": call.subjects.settings.set_mode(call.tenant_id, place, wanted.upper(), force=call.flag("force"))}


def delete_mode(call: Call) -> Any:
    try:
        return {"mode": call.subjects.settings.delete_mode(call.tenant_id, call.place)}
    except NoModeError as error:
        raise SubjectNotFoundError(error.message) from error


def _is_inherited(call: Call) -> bool:
    """Whether settings from above may be shown: those of a whole context are asked for without a name, as those of all are."""
    return "subject" not in call.values or call.flag("defaultToGlobal")


def _checked_place(call: Call) -> str:
    place = call.place
    if place and not is_context(place):
        check_subject(place)
    return place
