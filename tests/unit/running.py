"""``esb`` at work for tests: commands in this process, and a server in one of its own."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from warm import Warm

from event_streaming_bus.cli import main
from event_streaming_bus.store.storage import open_storage

ESB = Path(sys.executable).with_name("esb")


class Done(NamedTuple):
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Esb = Callable[..., Done]


@contextmanager
def commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    """Runs commands in this process, in a folder; their standard input is no terminal. ``code`` is what they must end with, 0 by
    default, None for anything."""
    monkeypatch.chdir(folder)

    def run(*arguments: str, stdin: str = "", code: int | None = 0) -> Done:
        with CliRunner().isolation(input=stdin) as (out, err, _):
            ended: Any = 0
            try:
                main(list(arguments))
            except SystemExit as error:
                ended = error.code
            done = Done(int(ended or 0), out.getvalue().decode(), err.getvalue().decode())
        assert code in (None, done.code), done
        assert "Traceback" not in done.err
        return done

    yield run
    open_storage(folder / "esb-data").close()


@contextmanager
def served(folder: Path, *options: str, may_tell: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a server on a data folder, which lets anybody in unless ``options`` say otherwise. It must end in good order,
    and have nothing to complain of but what ``may_tell`` has parts of."""
    server = Warm(["--data", str(folder), "serve", "--port", "0", "--auth", "off", *options])
    yield server.first_line().split(" on ")[1].split()[0]
    server.terminate()
    done = server.wait(60)
    complaints = [line for line in done.stderr.splitlines() if not any(part in line for part in may_tell)]
    assert (done.returncode, complaints) == (0, []), (done.returncode, complaints)
