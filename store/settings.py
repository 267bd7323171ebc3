"""Settings of a data folder that can be changed while it is in use, and hold for every process that uses it.

What was set counts; without it the environment does, where a setting has a variable, and then the default.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.errors import InvalidInputError, NotFoundError
from event_streaming_bus.models import rfc3339
from event_streaming_bus.store.database import Place, open_database
from event_streaming_bus.store.sql import load_queries

SQL: Final = load_queries("settings.sql")
_FRESH_S: Final = 1.0


class Setting(NamedTuple):
    """A whole number, or none: what it is about, between what it has to be, and where it comes from if nobody has set it."""

    description: str
    least: int
    most: int
    default: int | None = None
    variable: str | None = None

    def checked(self, name: str, value: object) -> int | None:
        """The value, if it can be one. Raises ``InvalidInputError``."""
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most):
            return value
        raise InvalidInputError(
            f"{name}: expected a whole number, {self.least:,} to {self.most:,}, or null for none; got {value!r}", path=name
        )

    def given(self) -> int | None:
        """What the environment says. Raises ``InvalidInputError``."""
        text = os.environ.get(self.variable) if self.variable is not None else None
        if not text:
            return None
        if not text.isdecimal():
            raise InvalidInputError(f"{self.variable}: expected a number, {self.least:,} to {self.most:,}, got {text!r}")
        return self.checked(str(self.variable), int(text))


ROLL_OFF_DAYS: Final = "history.roll_off_days"
KEEP_DAYS: Final = "history.keep_days"
SNAPSHOT_EVENTS: Final = "snapshots.every_events"
SNAPSHOT_MS: Final = "snapshots.replay_exceeds_ms"
SETTINGS: Final[Mapping[str, Setting]] = {
    ROLL_OFF_DAYS: Setting(
        "After so many days the history's rows of a day are moved into Parquet files, where questions still find them.",
        *(0, 100_000, None),
        "ESB_HISTORY_DAYS",
    ),
    KEEP_DAYS: Setting("After so many days those files are removed.", 0, 100_000, None, "ESB_HISTORY_KEEP_DAYS"),
    SNAPSHOT_EVENTS: Setting("Rebuilding an aggregate leaves a snapshot if it had to replay so many events.", 1, 1_000_000, 200),
    SNAPSHOT_MS: Setting("Rebuilding an aggregate leaves a snapshot if it took so many milliseconds.", 0, 3_600_000, 50),
}


class _Set(NamedTuple):
    """What somebody has set."""

    value: int | None
    changed_at_ms: int
    changed_by: str | None


class Settings:
    """The settings of a data folder. Safe to use from any thread and any number of processes; what another process sets is seen
    within a second."""

    def __init__(self, place: Place) -> None:
        self._db = open_database(place, tables=SQL["create_tables"], name="settings")
        self._known: dict[str, _Set] = {}
        self._read_s = float("-inf")

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self._db.close()

    def value(self, name: str) -> int | None:
        """The value that counts. Raises ``NotFoundError``, and ``InvalidInputError`` for a variable of the environment that is
        none."""
        return self._value(_known(name))[0]

    def _value(self, name: str) -> tuple[int | None, str]:
        """The value that counts, and where it comes from."""
        there = self._all().get(name)
        if there is not None:
            return there.value, "set"
        given = SETTINGS[name].given()
        return (SETTINGS[name].default, "default") if given is None else (given, "environment")

    def told(self, name: str | None = None) -> list[dict[str, Any]]:
        """All settings, or the one with a name, as JSON: ``source`` is ``set``, ``environment`` or ``default``. Raises
        ``NotFoundError``."""
        self._read_s = float("-inf")
        return [self._told(each) for each in ([_known(name)] if name is not None else SETTINGS)]

    def _told(self, name: str) -> dict[str, Any]:
        setting, there = SETTINGS[name], self._all().get(name)
        value, source = self._value(name)
        return {
            "name": name,
            "value": value,
            "source": source,
            "default": setting.default,
            "variable": setting.variable,
            "minimum": setting.least,
            "maximum": setting.most,
            "description": setting.description,
            "changed_at": None if there is None else rfc3339(there.changed_at_ms),
            "changed_by": None if there is None else there.changed_by,
        }

    def set(self, name: str, value: object, *, changed_by: str | None = None) -> None:
        """Set one; ``None`` stands for none. Raises ``NotFoundError`` and ``InvalidInputError``."""
        checked = SETTINGS[_known(name)].checked(name, value)
        record = (name, msgspec.json.encode(checked).decode(), time.time_ns() // 1_000_000, changed_by)
        with self._db.transaction(f"setting {name}") as db:
            db.execute(SQL["upsert"], record)
        self._read_s = float("-inf")

    def reset(self, name: str) -> None:
        """Forget what was set, if anything was. Raises ``NotFoundError`` for a name that no setting has."""
        with self._db.transaction(f"resetting {name}") as db:
            db.execute(SQL["delete"], (_known(name),))
        self._read_s = float("-inf")

    def _all(self) -> dict[str, _Set]:
        if time.monotonic() - self._read_s >= _FRESH_S:
            with self._db.querying("reading settings") as db:
                rows = db.execute(SQL["select_all"]).fetchall()
            self._known = {name: _Set(msgspec.json.decode(value), at_ms, by) for name, value, at_ms, by in rows}
            self._read_s = time.monotonic()
        return self._known


def _known(name: str) -> str:
    if name not in SETTINGS:
        raise NotFoundError(f"There is no setting '{name}'; there are {', '.join(SETTINGS)}.", name=name)
    return name
