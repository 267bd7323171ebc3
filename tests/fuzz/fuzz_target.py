"""What a target of the fuzzing is, and the ways in which any of them can fail."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

CORPUS: Final = Path(__file__).parent / "corpus"
"""A folder for each target, a file for each input: what it begins with, and every input that ever failed."""
LIMIT_S: Final = 8.0
"""So long may one input take, on a machine that is busy with other things; what is not bounded takes minutes."""


class Target(NamedTuple):
    """``run`` takes any bytes. It raises if a promise is broken; what a promise allows to be raised, it catches itself."""

    name: str
    run: Callable[[bytes], None]
    max_bytes: int = 4096
    words: tuple[bytes, ...] = ()
    """What is inserted now and then, for a mutation by itself would hardly find it."""
    close: Callable[[], object] = lambda: None
    """Lets go of what ``run`` keeps open between inputs."""

    def corpus(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]

    def tried(self, data: bytes) -> None:
        """Run one input; ``AssertionError`` if it takes more than ``LIMIT_S``."""
        began = time.monotonic()
        self.run(data)
        took = time.monotonic() - began
        assert took < LIMIT_S, f"{took:.1f} s for {data[:200]!r}"
