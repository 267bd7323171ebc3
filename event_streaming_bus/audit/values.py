"""What was there before and after an action, as the audit keeps it: JSON, without secrets, of a bounded size."""

import hashlib
import re
from typing import Any, Final

import msgspec

MAX_VALUE_BYTES: Final = 16 << 10
MAX_TEXT_CHARS: Final = 500
_SECRET: Final = re.compile(r"passw|secret|token|api_?key|private_?key|credential|authorization", re.IGNORECASE)
_HIDDEN: Final = "[hidden]"


def kept(value: Any) -> str | None:
    """A value as JSON; None for None. Values of fields that are named as secrets are hidden; of what has more than
    ``MAX_VALUE_BYTES``, its size and its SHA-256 are kept."""
    if value is None:
        return None
    data = msgspec.json.encode(_hidden(msgspec.to_builtins(value, enc_hook=str)), order="sorted")
    if len(data) > MAX_VALUE_BYTES:
        data = msgspec.json.encode({"omitted_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    return data.decode()


def text(value: object, max_chars: int = MAX_TEXT_CHARS) -> str:
    """A text that can be written: valid Unicode, not longer than ``max_chars``."""
    told = str(value).encode("utf-8", "replace").decode()
    return told if len(told) <= max_chars else told[: max_chars - 1] + "…"


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            text(name): _HIDDEN if isinstance(inner, str) and _SECRET.search(str(name)) else _hidden(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_hidden(inner) for inner in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
