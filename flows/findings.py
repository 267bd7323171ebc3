"""What a check of a flow finds."""

from collections.abc import Callable
from enum import StrEnum
from typing import TypeAlias

import msgspec

from event_streaming_bus.flows.checker import Path


class Severity(StrEnum):
    """How bad a finding is: it cannot work as it stands; it probably does not do what was meant; it is good to know."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found: ``code`` names its sort, ``path`` says where in the flow it stands."""

    severity: Severity
    code: str
    path: Path
    message: str


Report: TypeAlias = Callable[[Severity, str, str], None]
"""Takes the severity, the code and the message of what was found at a place that the report knows."""


class Findings:
    """The findings so far; the same is told once."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}

    def add(self, severity: Severity, code: str, path: Path, message: str) -> None:
        self._found.setdefault(Finding(severity, code, path, message))

    def at(self, *path: str | int) -> Report:
        """What reports at this place."""
        return lambda severity, code, message: self.add(severity, code, path, message)

    def all(self) -> list[Finding]:
        """The findings in the order in which they were made."""
        return list(self._found)
