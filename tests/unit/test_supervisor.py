"""Processors under the supervisor, as real worker processes: failures, restarts, stops at bad moments, and what is left."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.services import Services
from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import FlowError, InUseError, InvalidStateError, ProcessorNotFoundError
from event_streaming_bus.flows import supervisor
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.marks import stage_owner, window_owner
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.recovery import snapshots_folder, worker_log
from event_streaming_bus.flows.service import StreamManagementService
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.flows.supervisor import Patience, Supervised
from event_streaming_bus.models import DEFAULT_TENANT, EventConfig, ProcessorStatus
from event_streaming_bus.store.catalog import ProcessorRecord
from event_streaming_bus.store.history import History
from event_streaming_bus.testing import read_all, temporary_bus

ESB = Path(sys.executable).with_name("esb")
QUICK = Patience(first_backoff_s=0.02, max_failures=2)
NEVER_AGAIN = Patience(first_backoff_s=3600.0, max_backoff_s=3600.0)
TIMEOUT_S = 60.0


class Running:
    """A bus with streams ``in`` and ``out``, and services over it, which are closed at the end."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.services: list[StreamManagementService] = []
        for name in ("in", "out"):
            bus.create_stream(name, partitions=2)

    def service(self, patience: Patience = QUICK) -> StreamManagementService:
        self.services.append(StreamManagementService(self.bus.storage, patience))
        return self.services[-1]

    def record(self, processor_id: str) -> ProcessorRecord:
        return self.bus.storage.catalog.get_processor(DEFAULT_TENANT, processor_id)

    def set_status(self, processor_id: str, status: ProcessorStatus) -> None:
        self.bus.storage.catalog.set_processor_status(DEFAULT_TENANT, processor_id, status)

    def publish(self, *payloads: Any) -> None:
        self.bus.publishing.submit(EventConfig(event_type="t"), list(payloads), stream_id="in").result()

    async def until_status(self, processor_id: str, status: ProcessorStatus) -> ProcessorRecord:
        return await until(lambda: (found := self.record(processor_id)).status is status and found)

    async def until_written(self, count: int) -> None:
        await until(lambda: len(read_all(self.bus, "out")) >= count)

    def drop(self, name: str) -> None:
        self.bus.log.drop_stream(self.bus.log.find_stream(DEFAULT_TENANT, name).stream_id)

    def runs(self) -> list[tuple[str, str | None]]:
        """Status and error of each run, as the history has them."""
        history = History(self.bus.storage)
        try:
            history.catch_up()
            found = history.query("SELECT status, error FROM processor_runs ORDER BY started_at")
            return [(status, error) for status, error in found.rows()]
        finally:
            history.close()


@pytest.fixture
def running() -> Iterator[Running]:
    with temporary_bus() as bus:
        here = Running(bus)
        try:
            yield here
        finally:
            for service in here.services:
                service.close()


async def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := true()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


def config(name: str = "p", **more: Any) -> dict[str, Any]:
    return {
        "processor_name": name,
        "processor_type": "FILTER",
        "source_stream_id": "in",
        "target_stream_id": "out",
        "processing_logic": {"filter_expression": "payload.x > 0"},
    } | more


def pids(service: StreamManagementService, processor_id: str) -> list[int]:
    return supervised(service, processor_id).workers.pids


def supervised(service: StreamManagementService, processor_id: str) -> Supervised:
    found = service._supervisor.find(DEFAULT_TENANT, processor_id)
    assert found is not None
    return found


def gone(process_ids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in process_ids)


# --- what a processor does ----------------------------------------------------------------------------------------------


async def test_the_rate_of_a_processor_is_known_and_of_an_idle_bus_nothing_is_read(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def looked_at(*arguments: Any) -> Any:
        looks.append(time.monotonic())
        return flow_metrics(*arguments)

    monkeypatch.setattr(supervisor, "flow_metrics", looked_at)
    monkeypatch.setattr(supervisor, "_SAMPLE_S", 0.1)
    service = running.service()
    processor_id = await service.create_stream_processor(config())
    await service.start_stream_processor(processor_id)
    here = supervised(service, processor_id)
    running.publish({"x": 1})
    await running.until_written(1)
    running.publish({"x": 2}, {"x": 3})
    await until(lambda: here.events_per_second(processor_id) > 0)
    await until(lambda: looks and time.monotonic() - looks[-1] > 1)  # ten times as long as between two looks
    await until(lambda: here.events_per_second(processor_id) == 0)  # when the time that it is of is over
    before = len(looks)
    running.publish({"x": 4})
    await until(lambda: len(looks) > before)


# --- failures and restarts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_workers_that_someone_ends_are_started_again(running: Running, number: signal.Signals) -> None:
    service = running.service(Patience(first_backoff_s=0.3))
    processor_id = await service.create_stream_processor(config())
    await service.start_stream_processor(processor_id)
    running.publish({"x": 1})
    await running.until_written(1)
    os.kill(pids(service, processor_id)[0], number)
    told = await running.until_status(processor_id, ProcessorStatus.STARTING)
    assert "ended from outside" in (told.last_error or "")
    running.publish({"x": 2})
    await running.until_written(2)
    assert sorted(event.payload["x"] for event in read_all(running.bus, "out")) == [1, 2]
    assert running.record(processor_id).status is ProcessorStatus.RUNNING


async def test_a_crash_loop_shows_its_last_error_all_along_and_ends_as_failed(running: Running) -> None:
    service = running.service()
    processor_id = await service.create_stream_processor(config(error_handling_strategy="STOP"))
    running.publish({"x": "text"})
    await service.start_stream_processor(processor_id)
    first = await until(lambda: (found := running.record(processor_id)).last_error and found)
    seen: set[ProcessorStatus] = set()
    while (found := running.record(processor_id)).status is not ProcessorStatus.FAILED:
        seen.add(found.status)
        assert found.last_error == first.last_error
        await asyncio.sleep(0.01)
    assert "payload.x" in (found.last_error or "")
    assert ProcessorStatus.RUNNING in seen
    assert [status for status, _ in running.runs()] == ["FAILED", "FAILED"]
    with pytest.raises(InvalidStateError, match="is not running"):
        await service.stop_stream_processor(processor_id)


async def test_a_processor_whose_stream_is_dropped_ends_as_failed_with_that_error(running: Running) -> None:
    service = running.service()
    processor_id = await service.create_stream_processor(config())
    await service.start_stream_processor(processor_id)
    workers = pids(service, processor_id)
    running.publish({"x": 1})
    await running.until_written(1)
    running.drop("in")
    os.kill(workers[0], signal.SIGKILL)
    found = await running.until_status(processor_id, ProcessorStatus.FAILED)
    assert "processors[0].source_stream_id: There is no stream 'in'" in (found.last_error or "")
    assert gone(workers)


async def test_workers_that_have_run_long_enough_are_forgiven(running: Running) -> None:
    service = running.service(Patience(first_backoff_s=0.02, max_failures=2, steady_s=0.3))
    processor_id = await service.create_stream_processor(config())
    await service.start_stream_processor(processor_id)
    for _ in range(2):
        os.kill(pids(service, processor_id)[0], signal.SIGKILL)
        await until(lambda: running.record(processor_id).last_error)
        await until(lambda: running.record(processor_id).last_error is None)
        assert running.record(processor_id).status is ProcessorStatus.RUNNING


async def test_a_start_that_fails_is_told_in_the_catalog(running: Running) -> None:
    service = running.service()
    processor_id = await service.create_stream_processor(config())
    (running.bus.folder / "logs").write_text("a file where workers want a folder")
    with pytest.raises(OSError, match="logs"):
        await service.start_stream_processor(processor_id)
    found = running.record(processor_id)
    assert (found.status, "Error: " in (found.last_error or "")) == (ProcessorStatus.FAILED, True)


def test_the_pause_doubles_up_to_its_bound() -> None:
    assert [Patience().backoff_s(failures) for failures in (1, 2, 3, 6, 7, 10_000)] == [0.5, 1.0, 2.0, 16.0, 30.0, 30.0]


# --- stops at bad moments -----------------------------------------------------------------------------------------------


async def test_a_stop_between_two_starts_keeps_the_error_and_starts_nothing(running: Running) -> None:
    service = running.service(NEVER_AGAIN)
    processor_id = await service.create_stream_processor(config(error_handling_strategy="STOP"))
    running.publish({"x": "text"})
    await service.start_stream_processor(processor_id)
    failed = await until(lambda: (found := running.record(processor_id)).last_error and found)
    await service.stop_stream_processor(processor_id)
    found = running.record(processor_id)
    assert (failed.status, found.status, found.last_error) == ("STARTING", "STOPPED", failed.last_error)
    assert running.runs() == [("FAILED", failed.last_error)]


async def test_workers_are_stopped_while_they_start(running: Running) -> None:
    service = running.service()
    processor_id = await service.create_stream_processor(config(parallelism=2))
    await service.start_stream_processor(processor_id)
    workers, started_s = pids(service, processor_id), time.monotonic()
    await service.stop_stream_processor(processor_id)
    assert gone(workers)
    assert time.monotonic() - started_s < 10.0
    assert running.record(processor_id).status is ProcessorStatus.STOPPED


async def test_one_worker_that_died_does_not_hold_up_the_stop_of_the_others(running: Running) -> None:
    service = running.service(NEVER_AGAIN)
    processor_id = await service.create_stream_processor(config(parallelism=2))
    await service.start_stream_processor(processor_id)
    first, second = pids(service, processor_id)
    os.kill(second, signal.SIGSTOP)  # as one that waits for the other for ever
    with service._supervisor._lock:
        os.kill(first, signal.SIGKILL)
        started_s = time.monotonic()
        await asyncio.to_thread(supervised(service, processor_id).workers.stop, 20.0)
    assert time.monotonic() - started_s < 5.0
    assert gone([first, second])


async def test_a_processor_that_is_being_stopped_is_neither_started_nor_stopped_nor_deleted(running: Running) -> None:
    service = running.service()
    processor_id = await service.create_stream_processor(config())
    await service.start_stream_processor(processor_id)
    (worker,) = pids(service, processor_id)
    os.kill(worker, signal.SIGSTOP)
    stopping = asyncio.create_task(service.stop_stream_processor(processor_id))
    try:
        await running.until_status(processor_id, ProcessorStatus.STOPPING)
        for act in (service.start_stream_processor, service.stop_stream_processor, service.delete_stream_processor):
            with pytest.raises(InvalidStateError, match="is being stopped"):
                await act(processor_id)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it was given up meanwhile
            os.kill(worker, signal.SIGCONT)
        await stopping
    assert running.record(processor_id).status is ProcessorStatus.STOPPED


async def test_a_closed_service_starts_nothing_and_leaves_no_worker(running: Running) -> None:
    service = running.service()
    processor_id = await service.create_stream_processor(config())
    await service.start_stream_processor(processor_id)
    workers = pids(service, processor_id)
    service.close()
    assert gone(workers)
    assert running.record(processor_id).status is ProcessorStatus.RUNNING
    with pytest.raises(InvalidStateError, match="none is started any more"):
        await service.start_stream_processor(processor_id)


# --- after a service that is gone ---------------------------------------------------------------------------------------


async def test_one_processor_that_cannot_start_does_not_keep_the_others_from_it(running: Running) -> None:
    service = running.service()
    running.bus.create_stream("other")
    bad = await service.create_stream_processor(config("bad", source_stream_id="other"))
    good = await service.create_stream_processor(config("good"))
    halfway = await service.create_stream_processor(config("halfway"))
    for processor_id in (bad, good):
        running.set_status(processor_id, ProcessorStatus.RUNNING)
    running.set_status(halfway, ProcessorStatus.STOPPING)
    running.drop("other")
    assert await service.resume() == [good]
    assert await service.resume() == []
    found = running.record(bad)
    assert found.status is ProcessorStatus.FAILED
    assert "There is no stream 'other'" in (found.last_error or "")
    assert running.record(good).status is ProcessorStatus.RUNNING
    assert running.record(halfway).status is ProcessorStatus.STOPPED


async def test_a_killed_server_leaves_processors_that_the_next_one_resumes(running: Running) -> None:
    command = [ESB, "--data", str(running.bus.folder), "serve", "--port", "0", "--auth", "off"]
    server = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        await server.stdout.readline()
        url = json.loads((running.bus.folder / "serve.json").read_text())["url"]
        async with httpx.AsyncClient(base_url=f"{url}/api/v1/stream-processors", timeout=TIMEOUT_S) as http:
            processor_id = (await http.post("/", json=config())).json()["processor_id"]
            assert (await http.post(f"/{processor_id}/start")).is_success
            running.publish({"x": 1})
            await running.until_written(1)
            workers = [child.pid for child in psutil.Process(server.pid).children()]
    finally:
        server.kill()
        await server.communicate()
    assert running.record(processor_id).status is ProcessorStatus.RUNNING
    await until(lambda: gone(workers))
    service = running.service()
    assert await service.resume() == [processor_id]
    running.publish({"x": 2})
    await running.until_written(2)
    assert sorted(event.payload["x"] for event in read_all(running.bus, "out")) == [1, 2]


async def test_what_a_service_left_running_can_be_stopped(running: Running) -> None:
    service = running.service()
    processor_id = await service.create_stream_processor(config())
    for status in (ProcessorStatus.RUNNING, ProcessorStatus.STOPPING):
        running.set_status(processor_id, status)
        await service.stop_stream_processor(processor_id)
        assert running.record(processor_id).status is ProcessorStatus.STOPPED


async def test_what_another_service_runs_is_neither_stopped_nor_deleted(running: Running) -> None:
    one, other = running.service(), running.service()
    processor_id = await one.create_stream_processor(config())
    await one.start_stream_processor(processor_id)
    running.publish({"x": 1})
    await running.until_written(1)
    for act in (other.stop_stream_processor, other.delete_stream_processor):
        with pytest.raises(InUseError, match="running in another process"):
            await act(processor_id)
    assert running.record(processor_id).status is ProcessorStatus.RUNNING
    await one.stop_stream_processor(processor_id)


def raised(error: BaseException) -> list[BaseException]:
    """The error, or those in it if it is a group."""
    if isinstance(error, BaseExceptionGroup):
        return [each for inner in error.exceptions for each in raised(inner)]
    return [error]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the web framework's, about how handlers are declared
async def test_a_server_that_cannot_start_lets_go_of_its_history(running: Running) -> None:
    await running.service().create_stream_processor(config())
    damage(running)
    with pytest.raises(Exception) as caught:
        async with create_app(Services(running.bus.storage)).lifespan():
            pass
    assert any("FLYING" in str(error) for error in raised(caught.value))
    assert "esb-history" not in [thread.name for thread in threading.enumerate()]
    History(running.bus.storage).close()


async def test_a_server_that_cannot_start_ends_with_an_error(running: Running) -> None:
    await running.service().create_stream_processor(config())
    damage(running)
    command = [ESB, "--data", str(running.bus.folder), "serve", "--port", "0", "--auth", "off"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert "FLYING" in done.stderr
    assert done.stderr.rstrip().endswith("esb: the server could not be started; the reason is told above")


def damage(running: Running) -> None:
    """Give the processors a status that there is not, as a newer version might."""
    with contextlib.closing(sqlite3.connect(running.bus.folder / "log.db")) as database, database:
        database.execute("UPDATE processors SET status = 'FLYING'")


# --- what is left behind ------------------------------------------------------------------------------------------------


async def test_a_deleted_processor_leaves_no_marks_no_snapshots_and_no_log(running: Running) -> None:
    service = running.service()
    aggregate = {
        "processor_type": "AGGREGATE",
        "processing_logic": {"aggregation_function": "count"},
        "window_config": {"window_type": "tumbling", "window_size_ms": 1000, "close_when_idle_ms": 0},
    }
    processor_id = await service.create_stream_processor(config(**aggregate))
    await service.start_stream_processor(processor_id)
    running.publish({"x": 1})
    await running.until_written(1)
    with pytest.raises(InvalidStateError, match="stop it first"):
        await service.delete_stream_processor(processor_id)
    await service.stop_stream_processor(processor_id)
    storage = running.bus.storage
    owners = [owner(DEFAULT_TENANT, processor_id, "p") for owner in (stage_owner, window_owner)]
    places = [of(storage, DEFAULT_TENANT, processor_id) for of in (snapshots_folder, worker_log)]
    assert all(storage.log.marks(owner) for owner in owners)
    assert all(place.exists() for place in places)
    running.drop("in")  # a processor can be deleted when its stream is gone, too
    await service.delete_stream_processor(processor_id)
    assert not any(storage.log.marks(owner) for owner in owners)
    assert not any(place.exists() for place in places)
    with pytest.raises(ProcessorNotFoundError):
        await service.get_stream_processor(processor_id)


async def test_a_processor_of_a_flow_file_is_not_started_alone_and_keeps_its_state_when_deleted(running: Running) -> None:
    service = running.service()
    plan = deploy(parse_flow({"processors": [config()]}, name="whole"), running.bus.storage)
    processor_id = plan.nodes()[0].processor_id
    folder = snapshots_folder(running.bus.storage, DEFAULT_TENANT, "whole")
    folder.mkdir(parents=True)
    with pytest.raises(InvalidStateError, match="belongs to the flow whole; run the flow's file with esb run"):
        await service.start_stream_processor(processor_id)
    await service.delete_stream_processor(processor_id)
    assert folder.exists()


async def test_a_processor_that_is_refused_is_not_in_the_list(running: Running) -> None:
    service = running.service()
    stream_id = running.bus.log.find_stream(DEFAULT_TENANT, "in").stream_id
    with pytest.raises(FlowError, match="circle"):
        await service.create_stream_processor(config(target_stream_id=stream_id))
    assert await service.list_stream_processors() == []


@pytest.mark.parametrize("tenant", ["..", "../../elsewhere", ".", "a/b", "名"])
def test_no_tenants_files_are_outside_of_its_folder(running: Running, tenant: str) -> None:
    storage = running.bus.storage
    assert snapshots_folder(storage, tenant, "..").resolve().parent.parent == storage.folder / "recovery"
    assert worker_log(storage, tenant, "..").resolve().parent.parent == storage.folder / "logs"
