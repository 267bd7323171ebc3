"""Fuzzes one target in this process: ``one.py TARGET SECONDS FOLDER [plain]``; ``FOLDER`` takes what is found.

With atheris, if it is installed: guided by coverage. Else, or with ``plain``, with the mutator of our own. Either way an input
that breaks a promise, takes too long or takes too much memory ends the process, and lies in ``FOLDER`` afterwards.
"""

import faulthandler
import importlib
import mmap
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any, Final

from fuzz_mutation import mutants
from fuzz_targets import target_of

MEMORY_BYTES: Final = 2 << 30
"""What an input may take beyond what the process has. Where addresses are counted and not memory, twice as much: threads reserve
them."""
TIMEOUT_S: Final = 30
NOT_GUIDED: Final = ("rest", "sql")
"""Most of what they run is no Python, or not ours, and several threads run it: coverage says little, and costs much."""


def main() -> None:
    name, seconds, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    engine = None if sys.argv[4:] == ["plain"] or name in NOT_GUIDED else _engine()
    if engine is None:
        _plain(target_of(name), seconds, folder)
    else:
        with engine.instrument_imports(include=["event_streaming_bus", "tomllib", "yaml"]):
            target = target_of(name)
        _guided(engine, target, seconds, folder)


def _engine() -> Any:
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


def _guided(engine: Any, target: Any, seconds: int, folder: Path) -> None:
    grown = folder / "corpus" / target.name
    grown.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(target.corpus()):
        (grown / f"seed-{i}").write_bytes(seed)
    words = folder / f"{target.name}.words"
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words if len(word) < 64))
    engine.Setup(
        [
            *("fuzz", str(grown), f"-max_total_time={seconds}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_BYTES >> 20}"),
            *(
                f"-max_len={target.max_bytes}",
                f"-artifact_prefix={folder}/{target.name}-",
                "-print_final_stats=1",
                "-verbosity=0",
            ),
            f"-dict={words}",
        ],
        target.run,
    )
    engine.Fuzz()


def _plain(target: Any, seconds: int, folder: Path) -> None:
    """The input that is tried is in a file that is mapped into memory, so it is there however the process ends."""
    target.run(b"")  # what it needs anyway, it has then
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE if Path("/proc/self/statm").exists() else 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MEMORY_BYTES, resource.RLIM_INFINITY))
    place = folder / f"{target.name}-last"
    place.write_bytes(bytes(8 + target.max_bytes))
    chance, ends, tried = random.Random(time.time_ns()), time.monotonic() + seconds, 0
    with place.open("r+b") as file, mmap.mmap(file.fileno(), 0) as last:
        for data in mutants(target.corpus(), target.words, target.max_bytes, chance):
            if time.monotonic() > ends:
                break
            data = data[: target.max_bytes]
            last[: 8 + len(data)] = len(data).to_bytes(8, "little") + data
            faulthandler.dump_traceback_later(TIMEOUT_S, exit=True)
            try:
                target.run(data)
            except BaseException:
                (folder / f"{target.name}-crash").write_bytes(data)
                raise
            tried += 1
    faulthandler.cancel_dump_traceback_later()
    place.unlink()
    print(f"stat::number_of_executed_units: {tried}")


if __name__ == "__main__":
    main()
