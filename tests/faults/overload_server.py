"""A server for the tests of overload: a process of its own, the limits that are asked for, and what is in its log afterwards."""

import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from event_streaming_bus.store.storage import open_storage

ESB: Final = Path(sys.executable).with_name("esb")
_READ_BYTES: Final = 1 << 20


class Served:
    """A server that is at work: where it is, its process, its data folder."""

    def __init__(self, url: str, pid: int, folder: Path) -> None:
        self.url = url
        self.pid = pid
        self.folder = folder
        self.port = int(url.rpartition(":")[2])
        self._client = httpx.Client(base_url=url, timeout=60)

    def get(self, path: str) -> Any:
        """The JSON that is answered."""
        return self._asked("GET", path)

    def post(self, path: str, body: Any = None) -> Any:
        """The same with a body."""
        return self._asked("POST", path, body)

    def _asked(self, method: str, path: str, body: Any = None) -> Any:
        for _ in range(20):
            answer = self._client.request(method, path, json=body)
            if answer.status_code != 503:
                break
            time.sleep(int(answer.headers.get("Retry-After", "1")))
        assert answer.is_success, (answer.status_code, answer.text[:500])
        return answer.json()

    def close(self) -> None:
        """Close the connections to it."""
        self._client.close()


@contextmanager
def serving(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """A server at work. It must end in good order. What it complained of is in ``server.err`` beside the folder."""
    command = [str(ESB), "--data", str(folder), "serve", "--port", "0", "--auth", "off", *options]
    complaints = folder.with_name(f"{folder.name}.err")
    with complaints.open("w") as errors:
        given = {**os.environ, **(environment or {})}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=given)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert " on " in line, complaints.read_text()
            with closing(Served(line.split(" on ")[1].split()[0], process.pid, folder)) as served:
                yield served
        finally:
            process.terminate()
            try:
                code = process.wait(180)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            process.stdout.close()
    assert code == 0, (code, complaints.read_text()[-2000:])


def more_files() -> int:
    """Let this process, and those that it starts, have as many files open as the machine allows; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def ids_of(folder: Path, stream: str) -> Counter[str]:
    """How often each event id is in a stream of a folder, read from its log."""
    storage = open_storage(folder)
    try:
        info = storage.log.find_stream("default", stream)
        found: Counter[str] = Counter()
        for split, end in storage.log.end_offsets(info.stream_id).items():
            position = storage.log.begin_offsets(info.stream_id)[split]
            while position < end:
                for batch in storage.log.read(split, position, _READ_BYTES):
                    found.update(batch.column("event_id"))
                    position = batch.end_offset
        return found
    finally:
        storage.close()
