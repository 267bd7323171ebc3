"""What the settings of a consumer group may be."""

import re
from difflib import get_close_matches
from enum import Enum, StrEnum
from typing import Final, TypeVar

import msgspec

from event_streaming_bus.consumers.model import AssignmentStrategy, GroupConfig, OffsetReset
from event_streaming_bus.errors import InvalidInputError

RANGES: Final[dict[str, tuple[int, int]]] = {
    "session_timeout_ms": (1_000, 1_800_000),
    "heartbeat_interval_ms": (100, 600_000),
    "max_poll_interval_ms": (1_000, 86_400_000),
    "rebalance_timeout_ms": (1_000, 3_600_000),
    "max_retries": (0, 1_000),
}
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
Choice = TypeVar("Choice", bound=StrEnum)


def checked(config: GroupConfig) -> GroupConfig:
    """The configuration, its choices as such if they were given by name. ``InvalidInputError`` says what is not acceptable."""
    if not isinstance(config.group_name, str) or not _NAME.fullmatch(config.group_name):
        raise InvalidInputError(
            f"group_name {config.group_name!r}: expected 1 to 200 letters, digits, '.', '_' or '-'", path="group_name"
        )
    for field, (low, high) in RANGES.items():
        value = getattr(config, field)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidInputError(f"{field}: expected {low} to {high}, got {value!r}", path=field)
    if config.heartbeat_interval_ms >= config.session_timeout_ms:
        raise InvalidInputError(
            f"heartbeat_interval_ms: {config.heartbeat_interval_ms} is not shorter than session_timeout_ms, "
            f"{config.session_timeout_ms}; a third of it is usual",
            path="heartbeat_interval_ms",
        )
    return msgspec.structs.replace(
        config,
        partition_assignment_strategy=_choice(AssignmentStrategy, config, "partition_assignment_strategy"),
        auto_offset_reset=_choice(OffsetReset, config, "auto_offset_reset"),
    )


def _choice(kind: type[Choice], config: GroupConfig, field: str) -> Choice:
    value = getattr(config, field)
    try:
        return kind(value)
    except ValueError:
        near = get_close_matches(str(value), [each.value for each in kind], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InvalidInputError(f"{field}: expected {', '.join(kind)}, got {value!r}{hint}", path=field) from None


def differences(there: GroupConfig, wanted: GroupConfig) -> str:
    """What one configuration says and the other does not, for people."""
    fields = [field for field in GroupConfig.__struct_fields__ if getattr(there, field) != getattr(wanted, field)]
    return ", ".join(f"{field} is {_plain(getattr(there, field))}, not {_plain(getattr(wanted, field))}" for field in fields)


def _plain(value: object) -> str:
    return repr(value.value) if isinstance(value, Enum) else repr(value)
