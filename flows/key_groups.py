"""How user keys hash into key groups. Changing it, or their number, changes where state is kept."""

from typing import Final

import xxhash

KEY_GROUPS: Final = 64
KEY_GROUP_NAMES: Final = [f"{i:02d}" for i in range(KEY_GROUPS)]


def key_group_of(key: bytes) -> int:
    """The key group of a group key, given as JSON: XXH3 (64 bits) modulo the number of key groups."""
    return xxhash.xxh3_64_intdigest(key) % KEY_GROUPS
