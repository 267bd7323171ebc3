"""What a step of a flow hands to Bytewax as its state: plain data, pickled, with a checksum of its own.

Bytewax keeps it in SQLite files, which notice damage to their structure but not to what is in it. A flow that went on with a
changed number would give wrong results and nobody would know; so what does not fit its checksum stops the flow.
"""

import io
import pickle
from typing import Any, Final

import xxhash

from event_streaming_bus.errors import CorruptLogError

_SEALED: Final = b"ESB1"
_PICKLE: Final = b"\x80"
_DIGEST_BYTES: Final = 8
_NO_FIT: Final = "its checksum does not fit its contents"


def sealed(value: Any) -> bytes:
    """The value as it is to be kept."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return _SEALED + xxhash.xxh3_64_digest(data) + data


def opened(state: Any) -> Any:
    """The value that was ``sealed``; one from before states were sealed comes back unpickled, or as it is.

    Raises ``CorruptLogError`` for a state that is not what was kept.
    """
    if not isinstance(state, bytes):
        return state
    if not state.startswith(_SEALED):
        return _unpickled(state)
    begin = len(_SEALED) + _DIGEST_BYTES
    data = state[begin:]
    if xxhash.xxh3_64_digest(data) != state[len(_SEALED) : begin]:
        raise _damaged(_NO_FIT)
    return _unpickled(data)


def _unpickled(data: bytes) -> Any:
    try:
        return pickle.loads(data)  # noqa: S301 - our own snapshot
    except Exception as error:  # a damaged pickle may raise anything
        raise _damaged(str(error) or type(error).__name__) from error


def _damaged(reason: str) -> CorruptLogError:
    return CorruptLogError(
        f"The state that the flow has kept is damaged: {reason}. `esb doctor` names the file; restore the data folder from a "
        "backup, or begin the flow anew with esb run --from-start, which writes all of its output again."
    )


class _PlainUnpickler(pickle.Unpickler):
    """Reads what Bytewax has put around a state, and makes nothing of any class: looking at a file must not run what is in it."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def unwrapped(kept: bytes) -> Any:
    """What a step has handed to Bytewax, of a state as it lies in its file. Raises ``CorruptLogError`` for one that is damaged,
    or names classes: nothing in it is run."""
    try:
        return _PlainUnpickler(io.BytesIO(kept)).load()
    except Exception as error:  # a damaged pickle may raise anything
        raise _damaged(str(error) or type(error).__name__) from error


def check_sealed(state: Any) -> bool:
    """Check a state; False for one from before states were sealed, of which nobody can tell. Raises ``CorruptLogError`` for one
    that is damaged. Nothing in it is run."""
    if not isinstance(state, bytes) or state.startswith(_PICKLE):
        return False
    begin = len(_SEALED) + _DIGEST_BYTES
    if not state.startswith(_SEALED) or xxhash.xxh3_64_digest(state[begin:]) != state[len(_SEALED) : begin]:
        raise _damaged(_NO_FIT)
    return True


def plain(state: bytes) -> Any:
    """The value in a sealed state that was checked, if it is made of plain data alone, as that of a source is."""
    return unwrapped(state[len(_SEALED) + _DIGEST_BYTES :])
