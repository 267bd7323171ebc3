"""Measures figures side by side: runs are interleaved, the median counts, and each figure is told as a ratio to its baseline."""

import statistics
from collections.abc import Callable
from typing import NamedTuple


class Figure(NamedTuple):
    """One thing to measure. ``run`` does it once and returns the figure; more is better unless ``unit`` is a time or a size.

    ``baseline`` names the figure that this one is told as a ratio to; ``target_ratio`` is what that ratio should be at least.
    """

    name: str
    unit: str
    run: Callable[[], float]
    target: float | None = None
    baseline: str | None = None
    target_ratio: float | None = None


class Result(NamedTuple):
    """The figure measured: the median of its runs, the lowest and the highest, and the ratio to its baseline's median."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    target: float | None
    ratio: float | None
    target_ratio: float | None

    @property
    def met(self) -> bool | None:
        """Whether the targets are met; ``None`` without one."""
        met = []
        if self.target is not None:
            met.append(self.median <= self.target if self.unit.startswith(("ms", "MB")) else self.median >= self.target)
        if self.target_ratio is not None and self.ratio is not None:
            met.append(self.ratio >= self.target_ratio)
        return all(met) if met else None


def measure(figures: list[Figure], rounds: int, told: Callable[[str], None]) -> list[Result]:
    """Run all figures ``rounds`` times, in turns."""
    runs: dict[str, list[float]] = {figure.name: [] for figure in figures}
    for number in range(rounds):
        for figure in figures:
            told(f"round {number + 1} of {rounds}: {figure.name}")
            runs[figure.name].append(figure.run())
    medians = {name: statistics.median(values) for name, values in runs.items()}
    return [
        Result(
            figure.name,
            figure.unit,
            medians[figure.name],
            min(runs[figure.name]),
            max(runs[figure.name]),
            figure.target,
            medians[figure.name] / medians[figure.baseline] if figure.baseline else None,
            figure.target_ratio,
        )
        for figure in figures
    ]
