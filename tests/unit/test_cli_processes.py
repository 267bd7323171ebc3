"""``esb`` as processes of their own: pipes, signals, workers and the server."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from warm import run_esb

from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import EventConfig
from event_streaming_bus.store.storage import Storage, open_storage
from event_streaming_bus.testing import read_all

ESB = str(Path(sys.executable).with_name("esb"))
TIMEOUT_S = 60
FLOW = """
streams: [{name: large}, {name: hourly}]
processors:
  - {processor_name: keep_large, processor_type: FILTER, source_stream_id: orders, target_stream_id: large,
     processing_logic: {filter_expression: payload.n >= 100}}
  - {processor_name: by_hour, processor_type: AGGREGATE, source_stream_id: orders, target_stream_id: hourly,
     processing_logic: {aggregation_function: sum, aggregation_field: n},
     window_config: {window_type: tumbling, window_size_ms: 3600000}}
"""

Completed = subprocess.CompletedProcess[str]
Esb = Callable[..., Completed]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Esb:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "") -> Completed:
        return run_esb(arguments, stdin=stdin, timeout_s=TIMEOUT_S)

    return run


@pytest.fixture
def start(esb: Esb) -> Iterator[Start]:
    """Starts a command and leaves it running; what still runs at the end of the test is ended."""
    started = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([ESB, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def make_numbers() -> None:
    """A stream ``orders`` of the numbers 0 to 199, one event a minute, and a flow over it, in the working directory."""
    Path("flow.yaml").write_text(FLOW)
    count = range(200)
    with open_bus() as bus:
        bus.create_stream("orders", partitions=3)
        bus.publishing.submit(
            EventConfig(event_type="number"),
            [{"n": i} for i in count],
            stream_id="orders",
            keys=[str(i) for i in count],
            timestamps_ms=[i * 60_000 for i in count],
        ).result()


@pytest.fixture
def numbers(esb: Esb) -> Esb:
    """With what ``make_numbers`` makes."""
    make_numbers()
    return esb


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Completed]:
    """A folder in which the flow has run to the end once, and how the command ended. Tests work on copies of the folder."""
    folder = tmp_path_factory.mktemp("first-run")
    with contextlib.chdir(folder):
        make_numbers()
        command = [ESB, "run", "flow.yaml", "--until-end"]
        return folder, subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.fixture
def ran(first_run: tuple[Path, Completed], esb: Esb) -> Esb:
    """In a copy of the folder of ``first_run``."""
    shutil.copytree(first_run[0], Path.cwd(), dirs_exist_ok=True)
    return esb


def lines(done: Completed) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def payloads(stream: str) -> list[Any]:
    with open_bus() as bus:
        return [event.payload for event in read_all(bus, stream)]


def sums_by_hour() -> list[tuple[str, int]]:
    return sorted((payload["window_start"], payload["sum_n"]) for payload in payloads("hourly"))


def await_events(stream: str, count: int) -> None:
    """Wait until the stream holds so many events."""
    storage = open_storage()
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not any(info.name == stream for info in storage.log.list_streams()) or _events(storage, stream) < count:
            assert time.monotonic() < deadline, f"{stream} never had {count} events"
            time.sleep(0.02)
    finally:
        storage.close()


def _events(storage: Storage, stream: str) -> int:
    return sum(storage.log.end_offsets(storage.log.find_stream("default", stream).stream_id).values())


def await_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], TIMEOUT_S)
    assert ready, "nothing was printed"
    return process.stdout.readline()


def test_a_flow_runs_to_the_end_and_tells_each_processors_counts(first_run: tuple[Path, Completed], ran: Esb) -> None:
    done = first_run[1]
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert next(words for words in table if words[:1] == ["keep_large"])[1:9] == ["200", "100", "100", "0", "0", "0", "0", "100"]
    assert next(words for words in table if words[:1] == ["by_hour"])[1:9] == ["200", "200", "0", "0", "0", "0", "0", "4"]
    assert sorted(payload["n"] for payload in payloads("large")) == list(range(100, 200))
    assert sums_by_hour() == [
        (f"1970-01-01T0{hour}:00:00.000Z", sum(n for n in range(200) if n // 60 == hour)) for hour in range(4)
    ]


CUSTOM_FLOW = """
streams: [{name: halves}]
processors:
  - {processor_name: halve, processor_type: CUSTOM, source_stream_id: orders, target_stream_id: halves, parallelism: 2,
     processing_logic: {function: "my_halves:halve", params: {by: 2}}}
"""


def test_functions_of_the_working_folder_are_called_by_workers_once_their_module_is_allowed(numbers: Esb) -> None:
    Path("my_halves.py").write_text("def halve(event, by):\n    return {'n': event.payload['n'] / by}\n")
    Path("custom.yaml").write_text(CUSTOM_FLOW)
    refused = numbers("run", "custom.yaml", "--until-end")
    assert refused.returncode != 0
    assert "processors[0].processing_logic.function: the module my_halves is not allowed" in refused.stderr
    (counts,) = lines(
        numbers("run", "custom.yaml", "--until-end", "--json", "--allow-module", "other", "--allow-module", "my_halves")
    )
    assert (counts["events_in"], counts["events_passed"], counts["events_dead"]) == (200, 200, 0)
    assert sorted(payload["n"] for payload in payloads("halves")) == [n / 2 for n in range(200)]


def test_a_run_is_recorded_with_how_it_ended(ran: Esb) -> None:
    runs = lines(ran("sql", "select processor_name, status, events_in from processor_runs order by 1", "--json"))
    assert runs == [
        {"processor_name": "by_hour", "status": "COMPLETED", "events_in": 200},
        {"processor_name": "keep_large", "status": "COMPLETED", "events_in": 200},
    ]


def test_a_second_run_has_nothing_left_to_do_until_it_starts_over(ran: Esb) -> None:
    once = sums_by_hour()
    assert [row["events_in"] for row in lines(ran("run", "flow.yaml", "--until-end", "--json"))] == [200, 200]
    assert sums_by_hour() == once
    again = lines(ran("run", "flow.yaml", "--until-end", "--from-start", "--yes", "--json"))
    assert [row["events_in"] for row in again] == [200, 200]
    assert sums_by_hour() == sorted(once * 2)


def test_an_interrupted_run_stops_in_order_and_goes_on_where_it_was(numbers: Esb, start: Start) -> None:
    running = start("run", "flow.yaml")
    await_events("large", 100)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 130
    assert "keep_large" in out
    assert err.endswith("esb: stopped; the same command goes on from here\n")
    assert numbers("run", "flow.yaml", "--until-end").returncode == 0
    assert len(payloads("large")) == 100
    assert [total for _, total in sums_by_hour()] == [1770, 5370, 8970, 3790]


def test_a_running_flow_is_neither_run_twice_nor_started_over(numbers: Esb, start: Start) -> None:
    start("run", "flow.yaml")
    await_events("large", 100)
    refused = numbers("run", "flow.yaml", "--until-end", "--from-start", "--yes")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "esb: The flow flow is running; stop it before it starts from the beginning.\n"


def test_a_failing_worker_is_told_with_its_last_words(numbers: Esb) -> None:
    Path("flow.yaml").write_text(FLOW.replace("payload.n >= 100}", "payload.n.x.y + 'a' > 1}, error_handling_strategy: STOP"))
    done = numbers("run", "flow.yaml", "--until-end")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("esb: ")
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly(esb: Esb) -> None:
    esb("stream", "create", "orders")
    esb("publish", "orders", "-", stdin='{"n": 1}\n' * 20_000)
    with subprocess.Popen([ESB, "read", "orders"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
        assert reading.stdout is not None
        assert reading.stderr is not None
        reading.stdout.readline()
        reading.stdout.close()
        assert reading.stderr.read() == b""
        assert reading.wait(TIMEOUT_S) == 0


def test_progress_goes_to_stderr_and_a_pipe_gets_no_bar(numbers: Esb) -> None:
    done = numbers("sql", "select count(*) as n from events", "--csv")
    assert done.stdout == "n\n200\n"
    assert "\x1b" not in done.stderr


def test_follow_prints_events_as_they_come_until_it_is_interrupted(numbers: Esb, start: Start) -> None:
    following = start("read", "orders", "--follow", "--from", "end", "--json")
    time.sleep(1)  # it must have found the end before the next event is published
    numbers("publish", "orders", "-", stdin='{"n": 1000}\n')
    assert json.loads(await_line(following))["payload"] == {"n": 1000}
    following.send_signal(signal.SIGINT)
    assert following.communicate(timeout=TIMEOUT_S)[0] == ""
    assert following.returncode == 130


def test_an_interrupted_publish_tells_how_far_it_came(esb: Esb, start: Start) -> None:
    esb("stream", "create", "orders")
    publishing = start("publish", "orders", "-", "--batch-size", "10")
    assert publishing.stdin is not None
    publishing.stdin.write('{"n": 1}\n' * 2000)
    publishing.stdin.flush()
    await_events("orders", 1000)
    publishing.send_signal(signal.SIGINT)
    publishing.wait(TIMEOUT_S)
    assert publishing.stderr is not None
    told = publishing.stderr.read()
    assert publishing.returncode == 130
    count = len(payloads("orders"))
    assert f"esb: {count:,} events were published before the interruption" in told
    assert "Traceback" not in told


def test_while_a_server_has_the_folder_sql_asks_it_and_a_second_one_is_refused(numbers: Esb, start: Start) -> None:
    question = "select count(*) as n, sum((payload ->> 'n')::integer) as total, min(\"timestamp\") as first from events"
    serving = start("serve", "--port", "0")
    assert "serving" in await_line(serving)
    served = numbers("sql", question, "--json")
    assert lines(served) == [{"n": 200, "total": 19_900, "first": "1970-01-01T00:00:00.000Z"}]
    second = numbers("serve", "--port", "0")
    assert second.returncode == 1
    assert "is being served already" in second.stderr
    wrong = numbers("sql", "select * from nowhere")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "nowhere" in wrong.stderr
    assert numbers("history", "status").returncode == 1
    serving.send_signal(signal.SIGTERM)
    serving.wait(TIMEOUT_S)


def test_listing_streams_imports_nothing_heavy(esb: Esb) -> None:
    code = (
        "import sys; from event_streaming_bus.cli import main\n"
        "try: main(['stream', 'list'])\n"
        "finally: print([n for n in ('litestar', 'uvicorn', 'duckdb', 'pyarrow', 'bytewax') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_server_tells_at_once_that_its_master_key_is_none(esb: Esb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESB_MASTER_KEY", "c2hvcnQ=")
    done = esb("serve", "--port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("esb: ESB_MASTER_KEY")
    assert "serving" not in done.stdout
