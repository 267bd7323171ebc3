"""Exact sums of numbers.

Floats are kept as a short list of floats whose exact sum is the exact sum of all values: ``math.fsum`` rounds correctly, so
subtracting its result leaves the exact remainder, which is summed the same way until nothing is left (the expansions of
J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997).
"""

import math
from typing import Final, TypeAlias

Number: TypeAlias = int | float

_MAX_PARTS: Final = 64


def expansion(values: list[float]) -> list[float]:
    """Few floats with the same exact sum as ``values``. Sums beyond the range of floats become a single infinity."""
    parts: list[float] = []
    try:
        rest = values
        while len(parts) < _MAX_PARTS:
            part = math.fsum(rest)
            if part == 0.0:
                return parts
            parts.append(part)
            rest = [*rest, -part]
    except (OverflowError, ValueError):  # ValueError: infinities of both signs
        return [sum(values)]
    return parts


def rounded_sum(integers: int, floats: list[float]) -> float:
    """``integers`` plus the sum of ``floats``, correctly rounded."""
    try:
        return math.fsum([*floats, *_as_floats(integers)])
    except (OverflowError, ValueError):
        return sum(floats) + as_float(integers)


def as_float(value: Number) -> float:
    """The nearest float; an integer beyond the range of floats is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def quotient(value: Number, divisor: int) -> float:
    """``value / divisor``, correctly rounded; infinite beyond the range of floats."""
    try:
        return value / divisor
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _as_floats(integer: int) -> list[float]:
    """Floats with the exact sum ``integer``."""
    parts = []
    while integer:
        part = float(integer)
        parts.append(part)
        integer -= int(part)
    return parts
