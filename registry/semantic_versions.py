"""Semantic versions of schemas: ``1.0`` or ``1.0.0``. A change that breaks readers needs a new major number."""

import re
from typing import Final

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.registry_errors import SemanticVersionError

FIRST: Final = "1.0"
_FORM: Final = re.compile(r"\d{1,9}\.\d{1,9}(\.\d{1,9})?")


def is_version(text: str) -> bool:
    """Whether the text has the form of a semantic version."""
    return _FORM.fullmatch(text) is not None


def numbers(version: str) -> tuple[int, int, int]:
    """Major, minor and patch number. Raises ``SchemaError`` for what is no version."""
    if not is_version(version):
        raise SchemaError(f"schema_version: expected two or three numbers as in '1.0', got {version!r}")
    major, minor, patch = [*map(int, version.split(".")), 0][:3]
    return major, minor, patch


def next_version(latest: str, *, breaking: bool) -> str:
    """The version after ``latest``, with as many numbers: the next major one if something breaks, else the next minor one."""
    major, minor, _ = numbers(latest)
    follows = [major + 1, 0, 0] if breaking else [major, minor + 1, 0]
    return ".".join(map(str, follows[: latest.count(".") + 1]))


def check_version(version: str, latest: str, *, breaking: bool) -> None:
    """Raise ``SemanticVersionError`` if ``version`` does not follow ``latest``, or does not say that it breaks something."""
    if numbers(version) <= numbers(latest):
        raise SemanticVersionError(
            f"schema_version: {version} does not come after {latest}, the latest version; the next one is "
            f"{next_version(latest, breaking=breaking)}"
        )
    if breaking and numbers(version)[0] == numbers(latest)[0]:
        raise SemanticVersionError(
            f"schema_version: what has changed since {latest} breaks readers, so a new major version is needed: "
            f"{next_version(latest, breaking=True)}, not {version}"
        )
