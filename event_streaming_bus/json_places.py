"""Where JSON text is malformed."""

import re
from typing import Final

_BYTE: Final = re.compile(r" \(byte (\d+)\)$")


def placed(message: str, text: bytes) -> str:
    """msgspec's message about ``text``, with line and column in front in the place of the number of the byte."""
    found = _BYTE.search(message)
    at = int(found[1]) if found else len(text) if "truncated" in message else None
    if at is None:
        return message
    before = text[:at].decode("utf-8", "ignore")
    column = len(before) - before.rfind("\n")
    return f"line {before.count(chr(10)) + 1}, column {column}: {_BYTE.sub('', message)}"
