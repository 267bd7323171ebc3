"""What a history must not show, and what every checker of one has."""

from typing import NamedTuple

from history_operations import Operation, Outcome


class Anomaly(NamedTuple):
    """Something that must not be: its kind, what is wrong, and the operations that show it."""

    kind: str
    told: str
    operations: tuple[Operation, ...] = ()


class Checker:
    """Has what was found, in ``anomalies``."""

    def __init__(self) -> None:
        self.anomalies: list[Anomaly] = []

    def _add(self, kind: str, told: str, *operations: Operation | None) -> None:
        self.anomalies.append(Anomaly(kind, told, tuple(each for each in operations if each is not None)))

    def _check_writer(self, element: str, operation: Operation, writer: Operation | None, done: str, refused: str) -> None:
        """What was read was written, by an operation that was not refused. ``done`` and ``refused`` are how that is said."""
        if writer is None:
            self._add("phantom", f"{element} was read, and nobody has {done} it", operation)
        elif writer.outcome is Outcome.FAIL:
            self._add("G1a", f"dirty read: {element} was read, of {refused}", operation, writer)
