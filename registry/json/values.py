"""JSON values: when two are equal, what type one has, and how else it could be written."""

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

_MAX_READINGS: Final = 4


def json_type(value: Any) -> str:
    """The type of a value as ``facts`` tells them apart."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "whole" if value.is_integer() and abs(value) < 1 << 53 else "fraction"
    return {str: "string", list: "array", dict: "object", type(None): "null"}[type(value)]


def value_key(value: Any) -> Any:
    """Equal for values that are equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, list):
        return ("array", *(value_key(v) for v in value))
    if isinstance(value, dict):
        return ("object", frozenset((k, value_key(v)) for k, v in value.items()))
    return value


def readings(value: Any) -> list[Any] | None:
    """The ways to write a value: its whole numbers with a point and without. None: too many."""
    count = _whole_numbers(value)
    if count > _MAX_READINGS:
        return None
    if not count:
        return [value]
    return [_rewritten(value, iter(points)) for points in product((False, True), repeat=count)]


def _whole_numbers(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_whole_numbers(v) for v in value.values())
    if isinstance(value, list):
        return sum(_whole_numbers(v) for v in value)
    return int(json_type(value) in ("int", "whole"))


def _rewritten(value: Any, points: Iterator[bool]) -> Any:
    if isinstance(value, dict):
        return {k: _rewritten(v, points) for k, v in value.items()}
    if isinstance(value, list):
        return [_rewritten(v, points) for v in value]
    if json_type(value) in ("int", "whole"):
        return float(value) if next(points) else int(value)
    return value
