"""How often, and how long after, something that failed is tried again."""

import msgspec


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Of ``max_attempts`` in all, each after the first comes after a pause: ``backoff_ms``, doubled each time up to
    ``max_backoff_ms``, and longer or shorter by a random part of up to ``jitter`` of it."""

    max_attempts: int = 3
    backoff_ms: int = 100
    max_backoff_ms: int = 10_000
    jitter: float = 0.2
