"""Worker processes that check parts of a stream against a candidate, several at a time.

A worker is a fresh interpreter (``python -m``), so nothing depends on how the calling program was started. It reads a job and
then parts from its standard input, one JSON value a line, and answers each part with its tally. It ends when its input does,
which is also when the process that started it is gone.
"""

import contextlib
import gc
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from event_streaming_bus import errors
from event_streaming_bus.errors import BusError
from event_streaming_bus.registry.replay.checks import CandidateCheck, Part
from event_streaming_bus.registry.replay.tally import Tally
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.store.schemas import SchemaRecord
from event_streaming_bus.store.storage import open_storage

_ROOT: Final = Path(errors.__file__).parents[1]
"""From where the package is imported."""
_POLL_S: Final = 0.2


class Job(msgspec.Struct, frozen=True):
    """What a worker has to know before its first part; ``url`` opens the storage."""

    url: str
    tenant_id: str
    stream_id: str
    candidate: SchemaRecord
    examples: int
    since_ms: int | None
    until_ms: int | None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a part: a tally, or an error by the name of its class."""

    tally: Tally | None = None
    error: str = ""
    message: str = ""


def check_parts(job: Job, parts: Sequence[Part], workers: int, progress: Callable[[int], None]) -> list[Tally]:
    """The tally of each part. ``progress`` is called with the number of events that have been looked at.

    Whatever is raised, Ctrl-C included, the workers are gone when it is.
    """
    tallies: list[Tally | None] = [None] * len(parts)
    to_do: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(parts)):
        to_do.put(index)
    results: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
    processes: list[subprocess.Popen[bytes]] = []
    threads: list[threading.Thread] = []
    try:
        for _ in range(workers):
            processes.append(_start())
            thread = threading.Thread(target=_feed, args=(processes[-1], job, parts, to_do, results), daemon=True)
            thread.start()
            threads.append(thread)
        looked_at = 0
        for _ in parts:
            index, answer = _next(results)
            if answer.tally is None:
                kind = getattr(errors, answer.error, BusError)
                raise kind(answer.message)
            tallies[index] = answer.tally
            looked_at += parts[index].end - parts[index].begin
            progress(looked_at)
    finally:
        for process in processes:
            process.kill()  # what they did is here already, and they write nothing
        for thread in threads:
            thread.join()
        for process in processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)
    return [tally for tally in tallies if tally is not None]


def _start() -> "subprocess.Popen[bytes]":
    # A session of its own: Ctrl-C in a terminal reaches the parent alone, which ends the workers.
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "event_streaming_bus.registry.replay.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def _feed(
    process: "subprocess.Popen[bytes]",
    job: Job,
    parts: Sequence[Part],
    to_do: "queue.SimpleQueue[int]",
    results: "queue.SimpleQueue[tuple[int, Answer]]",
) -> None:
    """Give a worker one part after the other."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    index = -1
    try:
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        while True:
            try:
                index = to_do.get_nowait()
            except queue.Empty:
                return
            process.stdin.write(msgspec.json.encode(parts[index]) + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line.endswith(b"\n"):
                break
            results.put((index, msgspec.json.decode(line, type=Answer)))
    except (OSError, ValueError):
        pass  # the worker has ended, or was ended
    code = process.wait()
    results.put((index, Answer(error="BusError", message=f"A process that checked events ended with the exit code {code}.")))


def _next(results: "queue.SimpleQueue[tuple[int, Answer]]") -> tuple[int, Answer]:
    while True:
        try:
            return results.get(timeout=_POLL_S)  # in steps, so that Ctrl-C is seen on every platform
        except queue.Empty:
            continue


def _close(pipe: Any) -> None:
    with contextlib.suppress(OSError):  # what was still buffered has nowhere to go
        pipe.close()


def main() -> None:
    """What a worker does."""
    gc.disable()  # payloads are decoded by the hundred thousand, and hold no cycles
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    check: CandidateCheck | None = None
    storage = None
    for line in iter(sys.stdin.buffer.readline, b""):
        part = msgspec.json.decode(line, type=Part)
        try:
            if check is None or storage is None:
                storage = open_storage(job.url)
                registry = SchemaRegistryService(storage)
                check = CandidateCheck(registry, job.candidate, registry.subjects.parse(job.tenant_id, job.candidate.text))
            tally = check.check(storage.log, job.stream_id, part, job.examples, job.since_ms, job.until_ms)
            answer = Answer(tally)
        except BusError as error:
            answer = Answer(error=type(error).__name__, message=error.message)
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()
        gc.collect()  # explanations do hold some


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # whoever wanted to know is gone
        os._exit(0)
