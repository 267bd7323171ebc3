"""Regular expressions that cannot explode.

They run on an automaton engine (Rust's ``regex``, which comes with JSON Schema validation): the time is linear in the text,
whatever the pattern, and for that there are no backreferences and no lookaround. Otherwise the dialect is that of JSON Schema's
``pattern``.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import jsonschema_rs

MAX_PATTERN_CHARS: Final = 512
_COMPILED_BYTES: Final = 1 << 17  # bounds the constant of the linear time; \w{20} needs about a tenth
_CACHE_BYTES: Final = 1 << 20


@lru_cache(maxsize=1024)
def compiled_pattern(pattern: str) -> Callable[[str], bool]:
    """A function that says whether ``pattern`` is found anywhere in a text.

    Raises ``ValueError`` if the pattern has more than ``MAX_PATTERN_CHARS`` characters, is malformed, or is too large when
    compiled.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"the pattern has {len(pattern):,} characters; at most {MAX_PATTERN_CHARS} are allowed")
    try:
        validator = jsonschema_rs.validator_for(
            {"pattern": pattern},
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_COMPILED_BYTES, dfa_size_limit=_CACHE_BYTES),
        )
    except (ValueError, jsonschema_rs.ValidationError):
        raise ValueError(
            f"{pattern!r} is no pattern, or too large a one; backreferences and lookaround are not allowed"
        ) from None
    return validator.is_valid
