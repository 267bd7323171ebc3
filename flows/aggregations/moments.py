"""Variance and standard deviation, exact and correctly rounded."""

import math
from collections.abc import Sequence
from fractions import Fraction
from math import frexp, isqrt
from typing import Final

from event_streaming_bus.flows.aggregations.kept import NUMBERS, Kept
from event_streaming_bus.flows.aggregations.sums import Number, quotient

_MANTISSA_BITS: Final = 53
_MANTISSA: Final = float(1 << _MANTISSA_BITS)


class Moments(Kept):
    """The exact sums of values and of their squares.

    A float is an integer of at most 53 bits times a power of two. For each power that occurs (there are about 2,100) the
    integers and their squares are added as Python integers, so nothing is ever rounded, and no square is out of range.
    """

    __slots__ = ("count", "finite", "squares", "sums")
    accepted = NUMBERS

    def __init__(self) -> None:
        self.count = 0
        self.finite = True
        self.sums: dict[int, int] = {}
        self.squares: dict[int, int] = {}

    def add(self, values: Sequence[Number]) -> None:
        self.count += len(values)
        sums, squares = self.sums, self.squares
        integers = [v for v in values if isinstance(v, int)]
        if integers:
            sums[0] = sums.get(0, 0) + sum(integers)
            squares[0] = squares.get(0, 0) + sum(v * v for v in integers)
        if len(integers) == len(values):
            return
        try:
            for fraction, exponent in map(frexp, (v for v in values if isinstance(v, float))):
                mantissa, power = int(fraction * _MANTISSA), exponent - _MANTISSA_BITS
                sums[power] = sums.get(power, 0) + mantissa
                squares[power] = squares.get(power, 0) + mantissa * mantissa
        except (OverflowError, ValueError):  # infinite, or not a number
            self.finite = False

    def absorb(self, other: "Moments") -> None:
        self.count += other.count
        self.finite = self.finite and other.finite
        for mine, others in ((self.sums, other.sums), (self.squares, other.squares)):
            for power, value in others.items():
                mine[power] = mine.get(power, 0) + value

    def variance(self, *, sample: bool) -> float | None:
        """None for too few values; infinite if beyond the range of floats, or if a value was."""
        exact = self._variance(sample)
        return _rounded(exact) if exact is not None and self.finite else None if exact is None else math.inf

    def deviation(self, *, sample: bool) -> float | None:
        """The square root of the variance, correctly rounded."""
        exact = self._variance(sample)
        return _root(exact) if exact is not None and self.finite else None if exact is None else math.inf

    def _variance(self, sample: bool) -> Fraction | None:
        count = self.count
        if count < 1 + sample:
            return None
        total = sum((_scaled(value, power) for power, value in self.sums.items()), Fraction())
        squares = sum((_scaled(value, 2 * power) for power, value in self.squares.items()), Fraction())
        return (squares - total * total / count) / (count - sample)


def _scaled(value: int, power: int) -> Fraction:
    return Fraction(value << power) if power >= 0 else Fraction(value, 1 << -power)


def _rounded(value: Fraction) -> float:
    return quotient(value.numerator, value.denominator)


def _root(value: Fraction) -> float:
    """The square root, correctly rounded.

    It is computed to at least 64 bits and then *rounded to odd* (its last bit is set if anything was cut off), after which
    rounding to the 53 bits of a float gives what rounding the exact root would.
    """
    numerator, denominator = value.numerator, value.denominator
    if not numerator:
        return 0.0
    shift = (numerator.bit_length() - denominator.bit_length() - 130) // 2
    if shift >= 0:
        denominator <<= 2 * shift
    else:
        numerator <<= -2 * shift
    root = isqrt(numerator // denominator)
    root |= root * root * denominator != numerator
    return _rounded(Fraction(root << shift) if shift >= 0 else Fraction(root, 1 << -shift))
