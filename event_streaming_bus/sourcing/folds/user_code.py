"""What is told of an exception in code of the user's: what was raised, and in which of their lines."""

import linecache
import traceback
from pathlib import Path
from types import FrameType
from typing import Final

_OURS: Final = str(Path(__file__).parents[1])
_MAX_LINE_CHARS: Final = 120


def explained(error: BaseException) -> str:
    """``KeyError: 'amount' (bank.py, line 12: self.balance += event.payload["amount"])``."""
    told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    place = place_of(error)
    return told if place is None else f"{told} ({place})"


def place_of(error: BaseException) -> str | None:
    """The user's line in which the error was raised, or from which a library was called that raised it; None if there is none.

    The user's file is that of the first line below our own call.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    files = [frame.f_code.co_filename for frame, _ in frames if not _is_importing(frame)]
    users = next((name for name in files if not name.startswith(_OURS)), None)
    if users is None:
        return None
    frame, line = next((frame, line) for frame, line in reversed(frames) if frame.f_code.co_filename == users)
    text = linecache.getline(users, line, frame.f_globals).strip()
    shown = text if len(text) <= _MAX_LINE_CHARS else f"{text[: _MAX_LINE_CHARS - 3]}..."
    return f"{Path(users).name}, line {line}{': ' + shown if shown else ''}"


def _is_importing(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "importlib"
