"""Makes ``client/sync`` of the asynchronous modules of the client: the same text without ``async`` and ``await``.

``python -m event_streaming_bus.client.twin`` writes the modules, with ``--check`` it says which are not up to date. What differs
in more than that, how to wait and how to connect, is written by hand on both sides: ``waiting`` and ``connecting``. Ruff, a tool
of development, lays the text out.
"""

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

FOLDER: Final = Path(__file__).parent
MODULES: Final = (
    *("audit", "bus", "consumer", "consumer_groups", "correlation", "dead_letters", "erasure", "exchange", "history"),
    *("lifecycle", "positions", "processors", "projections", "publishing", "remote_service", "routing", "schemas"),
    *("session", "settings", "sourcing", "streams", "tokens"),
)
BY_HAND: Final = ("connecting", "waiting")
HEADER: Final = (
    "# Made by `python -m event_streaming_bus.client.twin` of client/{name}.py; change that one, and make this one anew.\n"
)

_DROPPED: Final = frozenset({"async", "await"})
_RENAMED: Final = {
    "AsyncClient": "Client",
    "AsyncIterator": "Iterator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "aclose": "close",
    "asynccontextmanager": "contextmanager",
}
_OURS: Final = re.compile(rf"(event_streaming_bus\.client)\.({'|'.join((*MODULES, *BY_HAND))})\b")


def blocking(source: str) -> str:
    """The source of a module with blocking functions in place of asynchronous ones, not laid out."""
    lines = _OURS.sub(r"\1.sync.\2", source).splitlines(keepends=True)
    changes: list[tuple[int, int, int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
        if token.type != tokenize.NAME:
            continue
        (row, begin), (_, end) = token.start, token.end
        if token.string in _DROPPED:
            line = lines[row - 1]
            while line[end : end + 1] == " ":
                end += 1
            changes.append((row - 1, begin, end, ""))
        elif token.string in _RENAMED:
            changes.append((row - 1, begin, end, _RENAMED[token.string]))
    for row, begin, end, text in reversed(changes):
        lines[row] = lines[row][:begin] + text + lines[row][end:]
    return "".join(lines)


def twins() -> dict[str, str]:
    """The texts of the modules in ``client/sync``, by their names."""
    with TemporaryDirectory() as folder:
        for name in MODULES:
            text = HEADER.format(name=name) + blocking((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
            Path(folder, f"{name}.py").write_text(text, encoding="utf-8")
        settings = ["--quiet", "--config", str(FOLDER.parents[1] / "pyproject.toml"), folder]
        for command in (["check", "--select", "I,F401,UP028", "--fix", "--unsafe-fixes"], ["format"]):
            subprocess.run([sys.executable, "-m", "ruff", *command, *settings], check=True)  # noqa: S603 - our own arguments
        return {name: Path(folder, f"{name}.py").read_text(encoding="utf-8") for name in MODULES}


def main() -> int:
    """Write the modules, or with ``--check`` only tell which are not up to date."""
    is_check = "--check" in sys.argv[1:]
    stale = 0
    for name, text in twins().items():
        path = FOLDER / "sync" / f"{name}.py"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale += 1
            sys.stdout.write(f"{path}: {'not up to date' if is_check else 'written'}\n")
            if not is_check:
                path.write_text(text, encoding="utf-8")
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
