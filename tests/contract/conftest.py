"""The logs that the contract is checked against. A backend is a factory that opens the same log again and again.

A test of what not every log can do is marked ``needs("capability")``, by the name in ``Capabilities``; what a log without it does
instead is a test marked ``lacks("capability")``. Each runs on the logs that it is for, and on no other.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from event_streaming_bus.errors import ClosedError
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.capabilities import EVERYTHING, Capabilities
from event_streaming_bus.store.log.embedded import EmbeddedLog

sys.path.append(str(Path(__file__).parents[1] / "kafka"))  # the broker of the tests there

import kafka_broker

if TYPE_CHECKING:
    from event_streaming_bus.store.log.outbox import OutboxLog

_NONE = "no-such-log"
OpenLog = Callable[[], EventLog]


def _backends() -> dict[str, Capabilities]:
    backends = {"embedded": EVERYTHING}
    if kafka_broker.jars() is not None:  # tests/kafka tells if they are missing
        from event_streaming_bus.store.log.kafka import KafkaLog

        can = msgspec.structs.replace(KafkaLog.capabilities, scheduling=True, outbox=True)  # as by the outbox around it
        backends["kafka"] = can
    return backends


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(capability): a test for the logs that can do this")
    config.addinivalue_line("markers", "lacks(capability): a test for the logs that cannot do this")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" not in metafunc.fixturenames:
        return
    needed = [name for mark in metafunc.definition.iter_markers("needs") for name in mark.args]
    lacking = [name for mark in metafunc.definition.iter_markers("lacks") for name in mark.args]
    fitting = [
        backend
        for backend, can in _backends().items()
        if all(getattr(can, name) for name in needed) and not any(getattr(can, name) for name in lacking)
    ]
    metafunc.parametrize("backend", fitting or [_NONE])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for logs that are not here: that they are not is told once, in tests/kafka."""
    gone = [item for item in items if isinstance(item, pytest.Function) and f"[{_NONE}" in item.name]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session")
def kafka_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator["KafkaHome"]:
    home = KafkaHome(tmp_path_factory.mktemp("kafka"))
    yield home
    home.close()


class KafkaHome:
    """One prefix on the broker for all tests, and the log that every test gets first: opening one takes as long as most tests do.
    What a test leaves is dropped behind it, so the next one begins with no stream and no mark."""

    def __init__(self, folder: Path) -> None:
        self._url = kafka_broker.kafka_url(folder)
        self._database = folder / "log.db"
        self._kept: OutboxLog | None = None

    def open(self) -> "OutboxLog":
        from event_streaming_bus.store.log.kafka import KafkaLog
        from event_streaming_bus.store.log.kafka_settings import parse_url
        from event_streaming_bus.store.log.outbox import OutboxLog

        return OutboxLog(KafkaLog(parse_url(self._url, "unused")), self._database)

    def first(self) -> "OutboxLog":
        """The log that is kept, opened if the test before has closed it."""
        try:
            if self._kept is None:
                raise ClosedError
            self._kept.list_streams()
        except ClosedError:
            self._kept = self.open()
        return self._kept

    def clear(self) -> None:
        log = self.first()
        for owner in ("me", "you", "noise"):
            if log.marks(owner):
                log.drop_marks(owner)
        for info in log.list_streams(internal=True):
            log.drop_stream(info.stream_id)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()


@pytest.fixture
def log_factory(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[OpenLog]:
    """Opens the log; each call is a connection of its own, as another process would have."""
    if backend == "kafka":
        yield from _kafka_logs(request.getfixturevalue("kafka_home"))
        return
    opened: list[EventLog] = []

    def open_() -> EventLog:
        opened.append(EmbeddedLog(tmp_path / "data"))
        return opened[-1]

    yield open_
    for log in opened:
        log.close()


def _kafka_logs(home: KafkaHome) -> Iterator[OpenLog]:
    opened: list[EventLog] = []

    def open_() -> EventLog:
        opened.append(home.open() if opened else home.first())
        return opened[-1]

    yield open_
    for log in opened[1:]:
        log.close()
    home.clear()


@pytest.fixture
def log(log_factory: OpenLog) -> EventLog:
    return log_factory()
