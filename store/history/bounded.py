"""What a step was given and what it found out, no longer than an answer should be."""

from typing import Any, Final

import msgspec

MAX_DATA_BYTES: Final = 16 << 10


def bounded(name: str, text: str | None, decoded: Any) -> dict[str, Any]:
    """``decoded`` under a name; of one whose JSON ``text`` is over 16 KiB the beginning, as text, and ``truncated`` with it."""
    if text is None or len(text) <= MAX_DATA_BYTES // 4 or len(text.encode("utf-8", "replace")) <= MAX_DATA_BYTES:
        return {name: decoded}
    data = text.encode("utf-8", "replace")
    return {name: data[:MAX_DATA_BYTES].decode("utf-8", "ignore"), "truncated": True, "total_bytes": len(data)}


def bounded_text(text: str | None) -> str | None:
    """What a step found out, as JSON; one over 16 KiB as ``{"truncated": true, "total_bytes": ..., "start": ...}``."""
    told = bounded("start", text, None)
    return text if "truncated" not in told else msgspec.json.encode(told).decode()
