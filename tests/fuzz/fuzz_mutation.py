"""A plain mutator, for machines on which no coverage-guided engine is installed, and for the short runs of the tests."""

import random
from collections.abc import Iterator, Sequence
from typing import Final

_ODD: Final = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\0" * 8,
    b"9" * 400,
    b"[" * 200,
    b"{" * 65,
    b"(" * 130,
    b"\xed\xa0\x80",
)


def mutants(seeds: Sequence[bytes], words: Sequence[bytes], max_bytes: int, chance: random.Random) -> Iterator[bytes]:
    """The seeds as they are, then for ever what one to six changes make of one of them."""
    yield from seeds
    kept = [*seeds] or [b""]
    while True:
        data = bytearray(chance.choice(kept))
        for _ in range(chance.randint(1, 6)):
            _change(data, kept, words, chance)
        yield bytes(data[:max_bytes])


def _change(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    end = min(len(data), at + chance.randint(1, 12))
    match chance.randrange(9):
        case 0 | 1:
            data[at:end] = bytes(chance.randrange(256) for _ in range(end - at))
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end] * chance.randint(1, 8)
        case 4:
            data[at:at] = chance.choice(_ODD)
        case 5 if at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        case 6:
            other = chance.choice(others)
            cut = chance.randint(0, len(other))
            data[at:] = other[cut:]
        case 7 | 8 if words:
            data[at:at] = chance.choice(words)
        case _:
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 64)))
