"""What waits costs nothing, and wakes up at once: those who wait for the log, and workers with nothing to read."""

import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from bytewax.testing import run_main

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus
from event_streaming_bus.flows import rest
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, EventPriority, Split, StreamConfig
from event_streaming_bus.store.log import waiting
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.testing import read_all, temporary_bus

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts what Linux counts of a thread")

_APPENDER: Final = """
import sys
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.embedded import EmbeddedLog
log = EmbeddedLog(sys.argv[1]); stream = log.find_stream("default", "s").stream_id
print("ready", flush=True)
for line in sys.stdin:
    log.append([Append(stream, [Event(line, "t", 0, b"")])])
    print("done", flush=True)
log.close()
"""


_FLOW: Final = {
    "streams": [{"name": "in"}, {"name": "out"}],
    "processors": [
        {
            "processor_name": "all",
            "processor_type": "FILTER",
            "processing_logic": {"filter_expression": "true"},
            "source_stream_id": "in",
            "target_stream_id": "out",
        }
    ],
}


def _publish(bus: Bus) -> None:
    stream_id = bus.log.find_stream("default", "in").stream_id
    bus.log.append([Append(stream_id, [Event(ids.new_id(ids.EVENT), "test", 0, b"{}")], new_ids=True)])


def _wake_ups() -> int:
    """How often this thread has slept so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _in_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    log = EmbeddedLog(tmp_path)
    yield log
    log.close()


@pytest.fixture
def split(log: EmbeddedLog) -> Split:
    return Split(log.create_stream(StreamConfig(name="s")).stream_id, EventPriority.NORMAL, 0)


@contextmanager
def _other_process(log: EmbeddedLog) -> Iterator[Callable[[str], None]]:
    """Another process that has the log open; what is returned has it append an event with this id."""
    command = [sys.executable, "-c", _APPENDER, str(log.path.parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"

        def append(event_id: str) -> None:
            assert other.stdin is not None
            other.stdin.write(f"{event_id}\n")
            other.stdin.flush()

        yield append
        other.stdin.close()


def test_who_waits_for_a_quiet_log_hardly_ever_looks(log: EmbeddedLog, split: Split) -> None:
    log.wait({split: 0}, 0.3)  # the log was just made
    before = _wake_ups()
    assert not log.wait({split: 0}, 1.0)
    assert _wake_ups() - before < 15


def test_an_append_of_another_process_wakes_who_has_waited_for_long(log: EmbeddedLog, split: Split) -> None:
    waits_s = []
    with _other_process(log) as append:
        for offset in range(3):
            assert not log.wait({split: offset}, 0.6)
            started_s = time.monotonic()
            append(f"e{offset}")
            assert log.wait({split: offset}, 30)
            waits_s.append(time.monotonic() - started_s)
    assert min(waits_s) < waiting.LISTENING_S / 2, waits_s  # with the append itself, and whatever else the machine does


def test_where_no_system_tells_of_writes_one_looks(log: EmbeddedLog, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_IN_MODIFY", 0)  # which the system refuses
    with _other_process(log) as append:
        assert not log.wait({split: 0}, 0.1)
        append("e")
        assert log.wait({split: 0}, 30)


def test_closing_ends_the_thread_that_listens(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    split = Split(log.create_stream(StreamConfig(name="s")).stream_id, EventPriority.NORMAL, 0)
    log.wait({split: 0}, 0.1)
    (listener,) = [thread for thread in threading.enumerate() if thread.name == "esb-log-watch"]
    log.close()
    listener.join(10)
    assert not listener.is_alive()


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_worker_with_nothing_to_read_rests_and_wakes_up_for_an_event(is_alone: bool) -> None:
    with temporary_bus() as bus:
        plan = deploy(parse_flow(_FLOW, name="flow"), bus.storage)
        stop = threading.Event()
        slept: list[int] = []
        flow = build(plan, bus.storage, stopping=lambda: (slept.append(_wake_ups()), stop.is_set())[1], is_alone=is_alone)
        worker = _in_thread(lambda: run_main(flow))
        try:
            for number in range(2):
                _publish(bus)
                _until(lambda number=number: len(read_all(bus, "out")) == number + 1)
            time.sleep(1.0)
            before = slept[-1]
            time.sleep(1.0)
            assert slept[-1] - before < (50 if is_alone else 400)  # else a thousand
            _publish(bus)
            _until(lambda: len(read_all(bus, "out")) == 3)
        finally:
            stop.set()
            worker.join()


def test_a_worker_rests_for_long_only_when_what_it_did_was_saved(log: EmbeddedLog, split: Split) -> None:
    resting = rest.Rest(log, lambda: False, is_alone=True)
    resting.join("a")
    resting.join("b")
    resting.gave("b")
    resting.saved("a")

    def waits_s(until_s: float | None = None) -> float:
        started_s = time.monotonic()
        resting.wait("a", {split: 0}, until_s)
        return time.monotonic() - started_s

    assert sum(waits_s() for _ in range(50)) < 0.05  # b is not at its end
    resting.wait("b", {split: 0}, None)
    assert 0.05 < waits_s() < 0.25
    resting.saved("a")
    assert waits_s(time.monotonic() + 0.5) > 0.4  # no longer than until something is due


def _until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
