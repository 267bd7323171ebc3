"""A network of its own for a broker, joined to this one by a link that a test can cut."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_PREFIX: Final = "198.18"  # the range that is kept for tests of networks (RFC 2544)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Link:
    """The link to the namespace: ``here`` and ``there`` are the addresses of its ends, and ``command`` begins a command that
    runs there."""

    def __init__(self) -> None:
        self._name = f"esb{os.getpid()}"
        self._ends = f"{self._name}h", f"{self._name}t"
        third, block = divmod(os.getpid() % (256 * 64), 64)  # each process has four addresses of its own
        self.here, self.there = (f"{_PREFIX}.{third}.{block * 4 + end}" for end in (1, 2))
        self.command = ("ip", "netns", "exec", self._name)
        _ip("netns", "add", self._name)
        try:
            here, there = self._ends
            _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", self._name)
            _ip("addr", "add", f"{self.here}/30", "dev", here)
            _ip("link", "set", here, "up")
            _ip("-n", self._name, "addr", "add", f"{self.there}/30", "dev", there)
            for end in (there, "lo"):
                _ip("-n", self._name, "link", "set", end, "up")
        except BaseException:
            self.remove()
            raise

    def lose_answers(self) -> None:
        """From now on what is sent there arrives, and what is sent back does not."""
        _ip("-n", self._name, "route", "add", "blackhole", f"{self.here}/32")

    def cut(self) -> None:
        """From now on nothing arrives anywhere."""
        _ip("-n", self._name, "link", "set", self._ends[1], "down")

    def heal(self) -> None:
        """As it was."""
        subprocess.run(["ip", "-n", self._name, "route", "del", "blackhole", f"{self.here}/32"], check=False, capture_output=True)
        _ip("-n", self._name, "link", "set", self._ends[1], "up")

    def remove(self) -> None:
        """Take it away, with the namespace."""
        _ip("netns", "del", self._name)


def refusal() -> str | None:
    """Why this machine lets no test have a network of its own; ``None`` if it does."""
    if shutil.which("ip") is None:
        return "there is no command 'ip'"
    try:
        Link().remove()
    except subprocess.CalledProcessError as error:
        return str(error.stderr.decode(errors="replace").strip())
    return None


@contextmanager
def link() -> Iterator[Link]:
    """A link that is taken away at the end."""
    made = Link()
    try:
        yield made
    finally:
        made.remove()
