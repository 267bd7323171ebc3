"""What the soak runs: the server with its streams, flows, rules and groups, and the clients. Each can be killed and started."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import httpx
import psutil
from soak_ledger import WITHIN_MS
from soak_load import GROUP

_HERE: Final = Path(__file__).parent
_ESB: Final = Path(sys.executable).with_name("esb")
_START_S: Final = 120.0
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_END_S: Final = 90.0
_LOADING_S: Final = 30.0
"""So long a process needs, at most, until it listens to SIGTERM: it imports much."""
_EVENTS_OF_AGGREGATE: Final = 200
"""So many events are kept of each."""
WORKER: Final = "event_streaming_bus.flows.worker"

CLIENTS: Final = {
    "rest1": "publish-rest",
    "rest2": "publish-rest",
    "sdk1": "publish-sdk",
    "arest": "append-rest",
    "asdk": "append-sdk",
    "reader1": "consume-rest",
    "reader2": "consume-sdk",
    "ask": "ask",
    "listen": "listen",
}
"""By name, which is that of its notes, the role of each client."""
PUBLISHERS: Final = ("rest1", "rest2", "sdk1")
APPENDERS: Final = ("arest", "asdk")
RULES: Final = [
    {"name": "urgent", "stream": "in", "match": "payload.is_urgent", "to": ["urgent"]},
    {"name": "bad", "stream": "in", "order": 1, "match": "payload.is_bad", "dead_letter": "it is bad"},
]
STREAMS: Final = {"in": 4, "pays": 2, "mapped": 4, "urgent": 1, "sums": 1, "late": 1, "joined": 2, "late_pairs": 1, "Account": 2}
PROJECTION: Final = {
    "from": {"aggregate_types": ["Account"]},
    "table": {"columns": {"account": "text", "n": "integer", "total": "integer"}, "key": ["account"]},
    "on": {
        "moved": [{"upsert": {"account": "aggregate_id", "n": "row.n + 1", "total": "row.total + payload.amount"}}],
    },
}


def flows_of(window_ms: int) -> dict[str, list[dict[str, Any]]]:
    """The flows: a FILTER, a MAP and windows in one, a JOIN in the other; late events go to streams of their own."""
    return {
        "sales": [
            {
                "processor_name": "keep",
                "processor_type": "FILTER",
                "source_stream_id": "in",
                "processing_logic": {"filter_expression": "payload.x != 0"},
            },
            {
                "processor_name": "shaped",
                "processor_type": "MAP",
                "source_stream_id": "keep",
                "target_stream_id": "mapped",
                "processing_logic": {"fields": {"y": "100 / payload.d"}},
            },
            {
                "processor_name": "sums_of_keys",
                "processor_type": "AGGREGATE",
                "source_stream_id": "shaped",
                "target_stream_id": "sums",
                "processing_logic": {
                    "group_by": ["k"],
                    "aggregations": [{"function": "sum", "field": "amount", "as": "total"}, {"function": "count", "as": "n"}],
                },
                "window_config": {"window_type": "tumbling", "window_size_ms": window_ms, "grace_period_ms": window_ms // 5},
            },
            {
                "processor_name": "too_late",
                "processor_type": "FILTER",
                "source_stream_id": "sums_of_keys.late",
                "target_stream_id": "late",
                "processing_logic": {"filter_expression": "payload.amount >= 0"},
            },
        ],
        "pairs": [
            {
                "processor_name": "paired",
                "processor_type": "JOIN",
                "source_stream_id": "in",
                "target_stream_id": "joined",
                "processing_logic": {
                    "join_stream_id": "pays",
                    "on": ["id"],
                    "within_ms": WITHIN_MS,
                    "fields": {"id": "left.id"},
                    "grace_period_ms": window_ms // 5,
                },
            },
            {
                "processor_name": "unpaired",
                "processor_type": "FILTER",
                "source_stream_id": "paired.late",
                "target_stream_id": "late_pairs",
                "processing_logic": {"filter_expression": "exists(payload.id)"},
            },
        ],
    }


class NoServer(Exception):
    """The server could not be started."""


class Ended(NamedTuple):
    """How a part came to its end without being asked to."""

    name: str
    code: int
    said: str


class Parts:
    """The processes of the soak. ``notice`` tells of those that ended by themselves, and starts them again."""

    def __init__(self, work: Path, *, retention_ms: int, window_ms: int) -> None:
        self.work, self._retention_ms, self._window_ms = work, retention_ms, window_ms
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        (work / "notes").mkdir()
        (work / "logs").mkdir()
        (work / "url").write_text(self.url)
        self.pace(0)
        serve = [str(_ESB), "--data", str(work / "data"), "serve", "--port", str(self.port), "--auth", "off"]
        self._commands["server"] = serve
        self._commands["ledger"] = [sys.executable, str(_HERE / "soak_ledger.py"), str(work), str(window_ms)]
        for name, role in CLIENTS.items():
            self._commands[name] = [sys.executable, str(_HERE / "soak_load.py"), role, name, str(work)]

    def pace(self, batches_a_second: float) -> None:
        """How many batches each publisher sends a second from now on."""
        new = self.work / "pace.new"
        new.write_text(f"{batches_a_second:.4f}")
        new.rename(self.work / "pace")

    # --- starting and ending ------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        with (self.work / "logs" / name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self._commands[name], stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent
            )
        if name == "server":
            self._wait_for_server()

    def _wait_for_server(self) -> None:
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).is_success:
                    return
            except httpx.HTTPError:
                pass
            if (code := self.processes["server"].poll()) is not None:
                raise NoServer(f"the server ended with {code}: {self.last_words('server')}")
            time.sleep(0.1)
        self.processes["server"].kill()
        raise NoServer(f"the server did not answer within {_START_S} s, and was killed")

    def end(self, names: Sequence[str], how: signal.Signals) -> dict[str, int]:
        """End parts, all at once; returns those that did not end in order, with their exit codes. One that was asked before it
        could listen has ended in order, one that takes too long has not: it is killed."""
        codes = {}
        ages_s = {name: _age_s(self.processes[name]) for name in names}
        for name in names:
            self.processes[name].send_signal(how)
        for name in names:
            try:
                codes[name] = self.processes[name].wait(_END_S)
            except subprocess.TimeoutExpired:
                self.processes[name].kill()
                codes[name] = self.processes[name].wait()
        is_young = {name for name in names if codes[name] == -signal.SIGTERM and ages_s[name] < _LOADING_S}
        return {name: code for name, code in codes.items() if code not in (0, -signal.SIGKILL) and name not in is_young} | {
            name: code for name, code in codes.items() if code == -signal.SIGKILL and how is not signal.SIGKILL
        }

    def workers(self) -> dict[str, psutil.Process]:
        """The worker processes of the flows, by the name of the flow."""
        found = {}
        for process in _children(self.processes["server"].pid):
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if WORKER in command:
                found[f"worker {Path(command[command.index('--flow') + 1]).stem}"] = process
        return found

    def notice(self) -> list[Ended]:
        """The parts that have ended by themselves since they were last looked at; each is running again."""
        found = []
        for name, process in list(self.processes.items()):
            if (code := process.poll()) is not None:
                found.append(Ended(name, code, self.last_words(name)))
                with contextlib.suppress(NoServer):
                    self.start(name)  # a server that cannot be started is told of the next time
        return found

    def last_words(self, name: str) -> str:
        return (self.work / "logs" / name).read_bytes()[-600:].decode("utf-8", "replace")

    def kill_all(self) -> None:
        """End everything that is left, workers first."""
        server = self.processes.get("server")
        left = _children(server.pid) if server is not None and server.poll() is None else []
        for process in self.processes.values():
            process.kill()
            process.wait()
        for child in left:
            with contextlib.suppress(psutil.Error):
                child.kill()

    # --- what is there in the beginning -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Start the server, make everything, and start the clients and the ledger."""
        self.start("server")
        with httpx.Client(base_url=f"{self.url}/api/v1", timeout=30) as client:

            def make(method: str, path: str, body: Any) -> None:
                answer = client.request(method, path, json=body)
                assert answer.is_success, f"{path}: {answer.text}"

            for stream, partitions in STREAMS.items():
                make("POST", "/streams", {"name": stream, "partitions": partitions, "retention_ms": self._retention_ms})
            for rule in RULES:
                make("PUT", f"/routes/{rule['name']}", {k: v for k, v in rule.items() if k != "name"})
            session_ms = min(6000, self._window_ms)  # so that a member that was killed does not hold up a short run
            group = {"session_timeout_ms": session_ms, "heartbeat_interval_ms": session_ms // 6, "rebalance_timeout_ms": 10_000}
            make("POST", "/consumer-groups", {"group_name": GROUP, **group})
            make("PUT", "/projections/accounts", PROJECTION)
            make("PUT", "/event-sourcing/retention/Account", {"max_count": _EVENTS_OF_AGGREGATE})
            for flow, processors in flows_of(self._window_ms).items():
                make("PUT", f"/flows/{flow}", {"processors": processors})
                make("POST", f"/flows/{flow}/start", None)
        for name in ("ledger", *CLIENTS):
            self.start(name)

    def flows_that_failed(self) -> list[str]:
        """Flows that do not run any more."""
        told = httpx.get(f"{self.url}/api/v1/flows", timeout=30).raise_for_status().json()["flows"]
        ended = [flow for flow in told if flow["status"] not in ("RUNNING", "STARTING")]
        return [f"{flow['name']}: {flow['status']}: {flow['last_error']}" for flow in ended]


def _end_with_parent() -> None:
    """In a new process, before it runs its program: have it killed when this one ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _age_s(process: "subprocess.Popen[bytes]") -> float:
    try:
        return time.time() - psutil.Process(process.pid).create_time()
    except psutil.Error:
        return 0.0


def _children(pid: int) -> Sequence[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def signal_of(kill: bool) -> signal.Signals:
    return signal.SIGKILL if kill else signal.SIGTERM


def open_log(work: Path) -> IO[str]:
    """The soak's own log, written line by line."""
    return os.fdopen(os.open(work / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), "a", buffering=1)
