"""Waiting until the embedded log is written to, by whichever process of the machine.

Linux tells who asks for it that a file was written to (inotify); where that is to be had, a thread listens to the write-ahead log
as long as somebody waits, and nobody has to look at it again and again. Elsewhere they look every 20 ms.

A transaction can be seen only a little after it was written, when it is on the disk. So those who wait look at once, and then
again when twice as much time has passed since the write, and so on.
"""

import ctypes
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Final

FIRST_LOOK_S: Final = 0.001
POLL_S: Final = 0.02
"""How long at most until they look again, where nobody listens."""
LISTENING_S: Final = 0.25
"""The same where somebody does: for what a system may have forgotten to tell."""
_CALM_S: Final = 0.002
"""The thread listens so long after a write: of a thousand writes a second it need not tell one by one."""
_IN_MODIFY: Final = 0x2
_EVENTS_BYTES: Final = 4096


class WriteWatch:
    """Tells those who wait in this process of writes to the file at ``path``. Safe to use from any thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._writes = 0
        self._written_s = time.monotonic()
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._listening: tuple[int, int] | None = None  # the descriptor of inotify, and of the file in it
        self._closed = False

    @property
    def writes(self) -> int:
        """How many writes have been told of. Ask for it before you look."""
        return self._writes

    def saw(self) -> None:
        """A write was seen, which nobody may have told of: where one is, another may follow."""
        self._written_s = time.monotonic()

    def tell(self) -> None:
        """Something was written: all who wait look."""
        with self._changed:
            self._writes += 1
            self._written_s = time.monotonic()
            self._changed.notify_all()

    def wait(self, writes: int, at_most_s: float) -> None:
        """Wait until it is time to look, as there may be more than when there were so many ``writes``."""
        with self._changed:
            if self._writes != writes or self._closed:
                return
            self._waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="esb-log-watch", daemon=True)
                self._thread.start()
            elif self._waiting == 1:
                self._changed.notify_all()  # the thread waits for somebody who does
            since_s = max(FIRST_LOOK_S, time.monotonic() - self._written_s)
            try:
                self._changed.wait(min(since_s, at_most_s, POLL_S if self._listening is None else LISTENING_S))
            finally:
                self._waiting -= 1

    def _listen(self) -> None:
        self._listening = _opened(self._path)
        if self._listening is None:
            return
        listening, _ = self._listening
        while self._is_wanted():
            with suppress(InterruptedError):
                os.read(listening, _EVENTS_BYTES)
            self.tell()
            time.sleep(_CALM_S)
        os.close(listening)

    def _is_wanted(self) -> bool:
        """Wait until somebody waits; false once all is over."""
        with self._changed:
            while not (self._waiting or self._closed):
                self._changed.wait()
            return not self._closed

    def close(self) -> None:
        """End the thread, and all waiting."""
        with self._changed:
            self._closed = True
            if self._listening is not None:
                _libc().inotify_rm_watch(*self._listening)  # which is told, and ends the reading
                self._listening = None
            self._changed.notify_all()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _opened(path: str) -> tuple[int, int] | None:
    """What tells of writes to a file; ``None`` where there is nothing that does, or no more of it."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = _libc()
        listening: int = libc.inotify_init1(os.O_CLOEXEC)
        if listening < 0:
            return None
        watched: int = libc.inotify_add_watch(listening, os.fsencode(path), _IN_MODIFY)
    except (OSError, AttributeError):  # a C library without it
        return None
    if watched < 0:
        os.close(listening)
        return None
    return listening, watched
