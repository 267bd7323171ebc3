"""The engines that we are measured beside, each in an environment of its own, made when it is first asked for.

They are under ~/.cache/esb/peers/NAME, made by uv with pinned versions. An engine that cannot be installed, or whose Java is
missing, is one line in the report. Its program is ``peers/NAME_run.py``: it takes the query, the folder of inputs, the file or
folder to write rows to as JSON lines and the number of workers, and prints ``STARTED`` and the seconds that it needed before its
first event.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).parent
CACHE: Final = Path("~/.cache/esb/peers").expanduser()
_PATIENCE_S: Final = 1200


class Peer(NamedTuple):
    """What to install, which queries its program knows, and which program it needs beside."""

    packages: tuple[str, ...]
    queries: tuple[str, ...] = ("q1", "sum_by_bidder")
    program: str | None = None


PEERS: Final = {
    "polars": Peer(("polars==2.1.0",)),
    "duckdb": Peer(("duckdb==2.0.0",), ("q1", "q2", "q3", "q5", "q7", "q8", "q11", "sum_by_bidder")),
    "pathway": Peer(("pathway==0.33.0",)),
    "pyflink": Peer(("apache-flink==2.3.0",), program="java"),
    "faust": Peer(("faust-streaming==0.15.3", "cramjam==2.14.0"), ()),  # cramjam: LZ4
}


class MissingError(Exception):
    """The engine is not there; the message says why, in one line."""


def python_of(name: str, *, install: bool = True) -> Path:
    """The interpreter of an engine's environment; ``MissingError`` if there is none."""
    peer, folder = PEERS[name], CACHE / name
    python, done = folder / "bin" / "python", folder / ",".join(peer.packages)
    if peer.program is not None and shutil.which(peer.program) is None:
        raise MissingError(f"there is no {peer.program}")
    if done.exists():
        return python
    if not install:
        raise MissingError("not installed; make bench-full installs it")
    try:
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        _uv("pip", "install", "--quiet", "--python", str(python), *peer.packages)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingError(f"it was not installed: {str(error).splitlines()[0]}") from None
    done.touch()
    return python


def command(name: str) -> list[str]:
    """How the program of an engine begins."""
    return [str(python_of(name)), str(HERE / "peers" / f"{name}_run.py")]


def _uv(*arguments: str) -> None:
    own = subprocess.run([sys.executable, "-m", "uv", "--version"], capture_output=True).returncode == 0
    found = [sys.executable, "-m", "uv"] if own else [shutil.which("uv") or "uv"]
    subprocess.run([*found, *arguments], check=True, timeout=_PATIENCE_S, stdout=subprocess.DEVNULL)


def main() -> int:
    """Install what is named on the command line, or everything."""
    for name in sys.argv[1:] or PEERS:
        try:
            print(f"{name}: {python_of(name)}")
        except MissingError as error:
            print(f"{name} is left out: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
