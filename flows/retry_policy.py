"""How often, and how long after, something that failed is tried again."""

from typing import Any, Final

import msgspec

from event_streaming_bus.flows.checker import BAD, Field, Path, Problems, Table, duration_ms, fraction, integer, read_table


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Of ``max_attempts`` in all, each after the first comes after a pause: ``backoff_ms``, doubled each time up to
    ``max_backoff_ms``, and longer or shorter by a random part of up to ``jitter`` of it."""

    max_attempts: int = 3
    backoff_ms: int = 100
    max_backoff_ms: int = 10_000
    jitter: float = 0.2

    def to_data(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__struct_fields__}


_POLICY: Final[Table] = {
    "max_attempts": Field(integer(1, 100), default=3),
    "backoff_ms": Field(duration_ms(0), default=100),
    "max_backoff_ms": Field(duration_ms(0), default=10_000),
    "jitter": Field(fraction, default=0.2),
}


def read_retry_policy(value: object, path: Path, problems: Problems) -> Any:
    """The ``RetryPolicy`` of a ``retry`` mapping."""
    values = read_table(value, path, _POLICY, problems)
    if values is None:
        return BAD
    policy = RetryPolicy(**values)
    if policy.max_backoff_ms < policy.backoff_ms:
        return problems.reject((*path, "max_backoff_ms"), f"at least backoff_ms ({policy.backoff_ms})", policy.max_backoff_ms)
    return policy
