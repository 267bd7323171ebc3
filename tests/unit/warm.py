"""``esb`` commands in processes that have the program's modules loaded already, which takes most of the time of a short command.

Each command is a process of its own, forked from one that has done nothing but load them, and it ends at once when it has done
its work. What is done while modules are loaded, and when Python ends, tests that start the program itself look at.
"""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from event_streaming_bus import cli

_LOADED: Final = [
    "duckdb",
    "event_streaming_bus.api.server",
    "bytewax.run",
    *(f"event_streaming_bus.cli.{path.stem}" for path in Path(cli.__file__).parent.glob("[a-z]*.py")),
    "event_streaming_bus.flows.build",
    "event_streaming_bus.flows.runner",
]
_context: Final = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_LOADED)


class Warm:
    """A command that runs. Its output is kept in files, so it never waits for a reader."""

    def __init__(
        self, arguments: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: str | None = None
    ) -> None:
        self._words = ["esb", *arguments]
        self._folder = tempfile.TemporaryDirectory()
        given, self._out, self._err = (Path(self._folder.name, name) for name in ("in", "out", "err"))
        given.write_text(stdin or "", "utf-8")
        for path in (self._out, self._err):
            path.touch()
        paths = list(map(str, (given, self._out, self._err)))
        how = list(arguments), str(cwd or Path.cwd()), dict(os.environ if env is None else env), paths
        self._process = _context.Process(target=_command, args=how)
        self._process.start()

    def first_line(self, timeout_s: float = 60.0) -> str:
        """What it prints first."""
        give_up_s = time.monotonic() + timeout_s
        while "\n" not in (printed := self._out.read_text("utf-8")):
            assert self._process.is_alive(), self._err.read_text("utf-8")
            assert time.monotonic() < give_up_s, "it prints nothing"
            time.sleep(0.02)
        return printed.partition("\n")[0]

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def wait(self, timeout_s: float = 120.0) -> "subprocess.CompletedProcess[str]":
        """How it ended; what takes longer is killed and a ``subprocess.TimeoutExpired``."""
        self._process.join(timeout_s)
        if in_time := not self._process.is_alive():
            code = self._process.exitcode
        else:
            self._process.kill()
            self._process.join()
        self._process.close()
        out, err = self._out.read_text("utf-8"), self._err.read_text("utf-8")
        self._folder.cleanup()
        if not in_time:
            raise subprocess.TimeoutExpired(self._words, timeout_s, out, err)
        assert code is not None
        return subprocess.CompletedProcess(self._words, code, out, err)


def run_esb(
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout_s: float = 120.0,
) -> "subprocess.CompletedProcess[str]":
    """What ``subprocess.run(["esb", *arguments], ...)`` with captured output gives."""
    return Warm(arguments, cwd=cwd, env=env, stdin=stdin).wait(timeout_s)


def _command(arguments: list[str], folder: str, environment: dict[str, str], paths: list[str]) -> None:
    from event_streaming_bus.cli import main

    for number, (path, flags) in enumerate(zip(paths, (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_APPEND] * 2), strict=True)):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115 - until it ends
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["esb", *arguments]
    try:
        main(arguments)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
