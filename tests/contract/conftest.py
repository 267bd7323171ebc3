"""The logs that the contract is checked against. A backend is a factory that opens the same log again and again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.embedded import EmbeddedLog

OpenLog = Callable[[], EventLog]


@pytest.fixture(params=["embedded"])
def log_factory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenLog]:
    """Opens the log; each call is a connection of its own, as another process would have."""
    opened: list[EventLog] = []

    def open_() -> EventLog:
        log = EmbeddedLog(tmp_path / "data")
        opened.append(log)
        return log

    yield open_
    for log in opened:
        log.close()


@pytest.fixture
def log(log_factory: OpenLog) -> EventLog:
    return log_factory()
