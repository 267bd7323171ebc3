"""Prefixed, time-ordered identifiers: ``evt_01JAB...``.

An id is a prefix that says what it names and 26 characters of Crockford's base 32: 48 bits of Unix time in milliseconds,
then 80 more bits (the layout of a ULID, https://github.com/ulid/spec). Text order is time order. There are two ways to
make one:

* ``new_id`` / ``new_ids``: the 80 bits are random and grow within a process, so ids never repeat and never run backwards
  within one process, even when the clock does.
* ``derived_id``: the 80 bits are a hash of what the thing was derived from, so that doing the work again gives the same id.
"""

import os
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Final

import xxhash

EVENT: Final = "evt_"
STREAM: Final = "str_"
PROCESSOR: Final = "proc_"
SCHEMA: Final = "sch_"
GROUP: Final = "grp_"
HISTORY: Final = "hist_"
RUN: Final = "run_"

FIRST_DATED: Final = EVENT + "0000000001"
"""Ids of events below this one have the time 0: what they were derived from had none."""

BETWEEN: Final = "\x1f"
"""What stands between the parts of an ``origin_text``."""

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_MAX_TIME_MS: Final = (1 << 48) - 1
_HALF: Final = (1 << 40) - 1
_BLOCK_BITS: Final = 70  # random bits of a block; the last 10 of the 80 count the ids within it


def _encode(value: int, chars: int) -> str:
    """``value`` as ``chars`` base-32 digits, most significant first."""
    pairs, odd = divmod(chars, 2)
    out = [_PAIRS[(value >> (10 * i)) & 1023] for i in range(pairs - 1, -1, -1)]
    if odd:
        out.insert(0, _ALPHABET[(value >> (10 * pairs)) & 31])
    return "".join(out)


class _Block:
    """The ids being handed out: one random block of 1024 consecutive ids at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.time_ms = 0
        self.random = 0
        self.prefix = ""
        self.used = len(_PAIRS)

    def renew(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        if now_ms > self.time_ms:
            self.time_ms = now_ms
            # The top bit stays free so that renewing within a millisecond can grow the number without overflow.
            self.random = secrets.randbits(_BLOCK_BITS - 1)
        else:
            self.random += 1 + secrets.randbits(32)
            if self.random >> _BLOCK_BITS:
                self.time_ms += 1
                self.random = secrets.randbits(_BLOCK_BITS - 1)
        self.prefix = _encode(self.time_ms, 10) + _encode(self.random, 14)
        self.used = 0


_block = _Block()


def _forget_block() -> None:
    global _block
    _block = _Block()


os.register_at_fork(after_in_child=_forget_block)


def new_ids(prefix: str, count: int) -> list[str]:
    """``count`` new ids in ascending order. Safe to call from any thread."""
    ids: list[str] = []
    with _block.lock:
        while count > 0:
            # A block of another millisecond would hand out a stale time.
            if _block.used >= len(_PAIRS) or (not ids and time.time_ns() // 1_000_000 > _block.time_ms):
                _block.renew()
            take = min(count, len(_PAIRS) - _block.used)
            head = prefix + _block.prefix
            ids += [head + tail for tail in _PAIRS[_block.used : _block.used + take]]
            _block.used += take
            count -= take
    return ids


def is_event_id(text: str) -> bool:
    """Whether an id may be one that ``new_ids`` or ``derived_id`` has made for an event."""
    return len(text) == len(EVENT) + 26 and text.startswith(EVENT)


def new_id(prefix: str) -> str:
    """One new id; see ``new_ids``."""
    return new_ids(prefix, 1)[0]


def origin_text(*origin: object) -> str:
    """What a thing was derived from, any values with a stable ``str``, as one text."""
    return BETWEEN.join(map(str, origin))


def derived_id(prefix: str, time_ms: int, *origin: object) -> str:
    """The id of something made from ``origin`` (any values with a stable ``str``), ordered by ``time_ms``.

    Equal arguments give equal ids, in every process. A time outside 48 bits of milliseconds is clamped.
    """
    return hashed_ids(prefix, (time_ms,), (origin_text(*origin),))[0]


def hashed_ids(prefix: str, times_ms: Sequence[int], origin_texts: Sequence[str]) -> list[str]:
    """As ``derived_id`` for many things, each with an ``origin_text`` of its own."""
    p = _PAIRS
    digest = xxhash.xxh3_128_intdigest
    ids: list[str] = []
    add = ids.append
    time_block, head = -1, ""
    for time_ms, text in zip(_clamped(times_ms), origin_texts, strict=True):
        if time_ms >> 10 != time_block:
            time_block = time_ms >> 10
            head = prefix + _encode(time_block, 8)
        hashed = digest(text.encode())
        # Written out, as this is done for every result of a flow: eight pairs of digits for 80 bits, in halves that are small
        # numbers to Python.
        high, low = hashed >> 40 & _HALF, hashed & _HALF
        add(
            f"{head}{p[time_ms & 1023]}{p[high >> 30]}{p[high >> 20 & 1023]}{p[high >> 10 & 1023]}{p[high & 1023]}"
            f"{p[low >> 30]}{p[low >> 20 & 1023]}{p[low >> 10 & 1023]}{p[low & 1023]}"
        )
    return ids


def _clamped(times_ms: Sequence[int]) -> Sequence[int]:
    """The times, those outside 48 bits of milliseconds moved to the ends."""
    if times_ms and (min(times_ms) < 0 or max(times_ms) > _MAX_TIME_MS):
        return [min(max(time_ms, 0), _MAX_TIME_MS) for time_ms in times_ms]
    return times_ms


def derived_ids(prefix: str, times_ms: Sequence[int], offsets: Sequence[int], *origin: object) -> list[str]:
    """As ``derived_id`` for many things of one origin that differ by their ``offsets`` (below 2**40), and much faster.

    The 80 bits are 40 of the origin's hash and the offset.
    """
    base = _encode(xxhash.xxh3_64_intdigest(origin_text(*origin).encode()) >> 24, 8)
    p = _PAIRS
    ids: list[str] = []
    add = ids.append
    # Neighbours have most of their digits in common: all but the last pair stay for 1024 milliseconds, and for 1024 offsets.
    time_block, head = -1, ""
    offset_block, middle = -1, ""
    for time_ms, offset in zip(_clamped(times_ms), offsets, strict=True):
        if time_ms >> 10 != time_block:
            time_block = time_ms >> 10
            head = prefix + _encode(time_block, 8)
        if offset >> 10 != offset_block:
            offset_block = offset >> 10
            middle = base + p[offset_block >> 20] + _encode(offset_block, 4)
        add(f"{head}{p[time_ms & 1023]}{middle}{p[offset & 1023]}")
    return ids
