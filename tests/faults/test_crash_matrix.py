"""A selection of the crash matrix, and what it has found. ``make faults`` runs all of it."""

import ast
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import crash_matrix
import crash_shim
import pytest

from event_streaming_bus import fault_points
from event_streaming_bus.fault_points import DONE, ENVIRONMENT, POINTS, UNDONE, Fault, parse_faults

ROOT: Final = Path(__file__).parents[2]
CRASHES: Final = int(os.environ.get("ESB_FAULT_SELECTION", "90"))
needs_shim = pytest.mark.skipif(crash_shim.compiled() is None, reason="disk errors need Linux and a C compiler")


def run_python(code: str, *arguments: str, faults: str | None = None, shim: bool = False) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != ENVIRONMENT}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    if faults is not None:
        environment[ENVIRONMENT] = faults
    if shim:
        environment["LD_PRELOAD"] = str(crash_shim.compiled())
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


# --- the matrix -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of the first crashes of every scenario."""
    told = tmp_path_factory.mktemp("matrix") / "told.json"
    folder = tmp_path_factory.mktemp("cases")
    command = [sys.executable, crash_matrix.__file__, "--crashes", str(CRASHES), "--folder", str(folder), "--json", str(told)]
    environment = {name: value for name, value in os.environ.items() if name != ENVIRONMENT}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(told.read_text())
    return found | {"output": ended.stdout}


def test_nothing_comes_of_any_crash(done: dict[str, Any]) -> None:
    assert done["findings"] == [], done["output"]
    assert sum(done["crashes"].values()) >= CRASHES
    assert set(done["crashes"]) == set(done["scenarios"]), "some scenario was never disturbed"


def test_every_point_is_passed_by_some_scenario(done: dict[str, Any]) -> None:
    assert set(done["passed"]) == set(POINTS)


def test_every_point_is_in_the_code_once_and_only_points_are() -> None:
    found: list[str] = []
    for folder in ("event_streaming_bus", "store", "flows", "registry", "api"):
        for path in (ROOT / folder).rglob("*.py"):
            if folder == "event_streaming_bus" and path.relative_to(ROOT / folder).parts[0] in (
                "store",
                "flows",
                "registry",
                "api",
            ):
                continue
            text = path.read_text(encoding="utf-8")
            if "fault_point(" in text:
                for node in ast.walk(ast.parse(text)):
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fault_point":
                        assert isinstance(node.args[0], ast.Constant)
                        found.append(node.args[0].value)
    assert sorted(found) == sorted(POINTS)


# --- fault points -----------------------------------------------------------------------------------------------------


def test_faults_are_read_as_they_are_written() -> None:
    faults = [Fault("log.written", "kill", 3), Fault("history.commit", "eio"), Fault("sqlite.committed", "sleep:0.5", 2)]
    assert parse_faults(",".join(map(str, faults))) == faults
    assert parse_faults("log.written=kill") == [Fault("log.written", "kill", 1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nowhere=kill@1", "there is no fault point 'nowhere'"),
        ("log.written=explode@1", "got 'log.written=explode@1'"),
        ("log.written=kill@soon", "got 'log.written=kill@soon'"),
        ("log.written=sleep:long@1", "got 'log.written=sleep:long@1'"),
        ("log.committed=eio@1", "nothing can fail any more at log.committed"),
    ],
)
def test_faults_that_are_none_are_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_faults(text)


PASS: Final = """
import sys
from event_streaming_bus.fault_points import fault_point, passed
for n in range(4):
    try:
        fault_point("log.written")
    except OSError as error:
        print(n, error.errno)
print("end", passed().get("log.written"))
"""


def test_without_the_variable_a_point_does_nothing() -> None:
    assert run_python(PASS).stdout == "end None\n"
    with pytest.raises(ValueError, match="started without ESB_FAULTS"):
        fault_points.arm("")


@pytest.mark.parametrize(
    ("faults", "code", "printed"),
    [
        ("", 0, "end 4\n"),
        ("log.written=enospc@2", 0, f"1 {errno.ENOSPC}\nend 4\n"),
        ("log.written=eio@1,log.written=kill@4", -9, f"0 {errno.EIO}\n"),
        ("log.written=sleep:0.01@3", 0, "end 4\n"),
    ],
)
def test_a_fault_happens_at_the_passing_that_was_asked_for(faults: str, code: int, printed: str) -> None:
    ended = run_python(PASS, faults=faults)
    assert (ended.returncode, ended.stdout) == (code, printed), ended.stderr


def test_a_point_is_undone_or_done() -> None:
    assert not UNDONE.keys() & DONE.keys()


# --- what it has found ------------------------------------------------------------------------------------------------

SHORT_WRITE: Final = """
import sys
from pathlib import Path
from crash_shim import DiskFault, Shim
from event_streaming_bus.store.private_files import make_private
shim, path = Shim(), Path(sys.argv[1])
shim.arm(DiskFault.WRITE_SHORT, path.name, 1)
make_private(path, b"0123456789" * 10)
assert shim.met() == 1
"""


@needs_shim
def test_a_private_file_is_whole_though_a_write_was_short(tmp_path: Path) -> None:
    ended = run_python(SHORT_WRITE, str(tmp_path / "key"), shim=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "key").read_bytes() == b"0123456789" * 10
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_private_file_that_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom event_streaming_bus.errors import StorageError\n"
        "from event_streaming_bus.store.private_files import make_private\n"
        "try: make_private(Path(sys.argv[1]), b'x')\nexcept StorageError: print('refused')"
    )
    ended = run_python(code, str(tmp_path / "key"), faults="file.written=enospc@1")
    assert (ended.stdout, list(tmp_path.iterdir())) == ("refused\n", [])


PREPARE: Final = """
import sys
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.flows.worker import prepare_recovery
from event_streaming_bus.store.storage import open_storage
storage = open_storage(sys.argv[1])
flow = {"streams": [{"name": "in"}, {"name": "out"}], "processors": [{"processor_name": "p", "processor_type": "FILTER",
        "source_stream_id": "in", "target_stream_id": "out", "processing_logic": {"filter_expression": "true"}}]}
folder = prepare_recovery(storage, deploy(parse_flow(flow, name="flow"), storage))
print(*sorted(path.name for path in folder.glob("*") if not path.name.endswith(".lock")))
"""


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_flow_whose_first_start_was_killed_starts_the_next_time(tmp_path: Path, nth: int) -> None:
    assert run_python(PREPARE, str(tmp_path), faults=f"recovery.prepared=kill@{nth}").returncode == -9
    parts = " ".join(f"part-{number}.sqlite3" for number in range(4))
    for _ in range(2):
        assert run_python(PREPARE, str(tmp_path)).stdout == f"{parts}\n"


FORGET: Final = """
import sys
from event_streaming_bus.flows.marks import stage_owner
from event_streaming_bus.flows.recovery import forget, snapshots_folder
from event_streaming_bus.store.log.base import Mark
from event_streaming_bus.store.storage import open_storage
storage = open_storage(sys.argv[1])
if sys.argv[2] == "mark":
    storage.log.append([], marks=[Mark(stage_owner("default", "flow", "p"), "split", None, b"mark")])
if sys.argv[2] == "forget":
    forget(storage, "default", "flow", ["p"])
print(snapshots_folder(storage, "default", "flow").exists(), storage.log.marks(stage_owner("default", "flow", "p")))
"""


def test_a_flow_that_is_forgotten_in_part_has_lost_its_snapshots_and_not_its_marks(tmp_path: Path) -> None:
    run_python(PREPARE, str(tmp_path))
    assert run_python(FORGET, str(tmp_path), "mark").stdout == "True {'split': b'mark'}\n"
    # The transactions of opening the storage come first; the one that drops the marks is killed before it is committed.
    counting = f"{FORGET}\nfrom event_streaming_bus.fault_points import passed\nprint(passed()['sqlite.commit'])"
    opening = int(run_python(counting, str(tmp_path), "look", faults="").stdout.split()[-1])
    assert run_python(FORGET, str(tmp_path), "forget", faults=f"sqlite.commit=kill@{opening + 1}").returncode == -9
    assert run_python(FORGET, str(tmp_path), "look").stdout == "False {'split': b'mark'}\n"
    assert run_python(FORGET, str(tmp_path), "forget").stdout == "False {}\n"


ROLL: Final = """
import sys
from datetime import UTC, datetime, timedelta
from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import EventConfig, StreamConfig
from event_streaming_bus.store.history import History
now = datetime.now(UTC) + timedelta(days=5)
with open_bus(sys.argv[1]) as bus:
    bus.log.create_stream(StreamConfig(name="s"))
    bus.publishing.submit(EventConfig(event_type="t"), [{"n": n} for n in range(20)], stream_id="s").result()
    history = History(bus.storage)
    for _ in range(2):
        try:
            history.roll_off(days=1, now=now)
        except OSError as error:
            print("met", history.query("SELECT count(*) FROM events").rows().__next__())
    print(*history.query("SELECT count(*), count(DISTINCT event_id) FROM events").rows())
    history.close()
"""


def test_a_day_whose_move_into_files_met_an_error_is_not_moved_twice(tmp_path: Path) -> None:
    ended = run_python(ROLL, str(tmp_path), faults="history.named=eio@1")
    assert ended.stdout == "met (20,)\n(20, 20)\n", ended.stderr


LOST: Final = """
import sys
from crash_shim import DiskFault, Shim
from event_streaming_bus.bus import open_bus
from event_streaming_bus.errors import StorageError
from event_streaming_bus.models import EventConfig, StreamConfig
from event_streaming_bus.store.history import History
shim = Shim()
with open_bus(sys.argv[1]) as bus:
    bus.log.create_stream(StreamConfig(name="s"))
    bus.publishing.submit(EventConfig(event_type="t"), [{"n": n} for n in range(20)], stream_id="s").result()
    history = History(bus.storage)
    shim.arm(DiskFault.SYNC_EIO, "history.duckdb", 1)
    try:
        history.catch_up()
    except StorageError as error:
        print(type(error).__name__, shim.met())
    history.catch_up()
    print(*history.query("SELECT count(*), count(DISTINCT event_id) FROM events", tenant_id="default").rows())
    history.close()
"""


@needs_shim
def test_a_history_goes_on_after_a_sync_that_failed(tmp_path: Path) -> None:
    ended = run_python(LOST, str(tmp_path), shim=True)
    assert ended.stdout == "LostDatabaseError 1\n(20, 20)\n", ended.stderr


UNMADE: Final = """
import sys
from pathlib import Path
from event_streaming_bus.store.history import History
from event_streaming_bus.store.projections_base import Bounds
from event_streaming_bus.store.projections_duckdb import DuckdbProjection, query_duckdb
from event_streaming_bus.store.storage import open_storage
storage, size = open_storage(sys.argv[1]), int(sys.argv[2])
files = [storage.folder / "history.duckdb", storage.folder / "totals.duckdb"]
for path in files:
    path.write_bytes(b"x" * size)
if size < 12288:
    try:
        query_duckdb(files[1], "SELECT 1", [], Bounds())
    except FileNotFoundError:
        print("not there yet")
History(storage).close()
DuckdbProjection(files[1], []).close()
print(*(path.stat().st_size >= 12288 for path in files))
"""


@pytest.mark.parametrize("size", [0, 4096, 8192, 12_287])
def test_a_duckdb_file_that_was_never_finished_is_made_anew(tmp_path: Path, size: int) -> None:
    assert run_python(UNMADE, str(tmp_path), str(size)).stdout == "not there yet\nTrue True\n"


def test_a_duckdb_file_that_holds_something_else_stays(tmp_path: Path) -> None:
    ended = run_python(UNMADE, str(tmp_path), "12288")
    assert "StorageError" in ended.stderr
    assert (tmp_path / "history.duckdb").read_bytes() == b"x" * 12_288
