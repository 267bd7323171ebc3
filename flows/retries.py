"""Calls that are tried again when they fail, with pauses between.

An error that comes from code or data fails again for sure, and waiting for it would hold up every event behind it. So what is
tried again is ``RetryableError``, and every other ``Exception`` that is not of a type in ``FAILS_AGAIN``. An ``OSError``
(a connection, a timeout, a full disk) is always tried again, also one that is a ``ValueError`` as well, as those of some
HTTP clients are.
"""

import random as random_numbers
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.untraced import untraced

T = TypeVar("T")
P = ParamSpec("P")

FAILS_AGAIN: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    InvalidInputError,
    LookupError,
    NameError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""Errors of code and data: with the same event they come again."""

_POLL_S: Final = 0.1
_MAX_DOUBLINGS: Final = 62


class RetryableError(Exception):
    """Raised by a user's function: this may work in a moment. With error_handling_strategy RETRY the call is tried again."""


class GivenUp(Exception):
    """A call failed ``attempts`` times; ``error`` is the last failure."""

    def __init__(self, error: Exception, attempts: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.attempts = attempts


# A BaseException, so that nothing that sets bad events aside takes it for one: the event is not done with.
class Stopped(BaseException):
    """The worker was asked to stop while a failed call waited for its next attempt. Its event is processed after the restart."""


class Retrier:
    """Calls functions as often as a policy says.

    ``stopping`` is asked before and during each pause, at least every 100 ms. A pause blocks: events behind this one wait, so
    their order is kept. ``sleep`` takes seconds, ``random`` gives a number from 0 to 1.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        stopping: Callable[[], bool] = lambda: False,
        *,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        self._policy = policy
        self._stopping = stopping
        self._sleep = sleep
        self._random = random

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> tuple[T, int]:
        """``(what the function returns, the number of attempts)``.

        Raises ``GivenUp`` when the last attempt failed or the error would come again, and ``Stopped``, at once, if the worker is
        asked to stop where it would wait.
        """
        attempts = 1
        while True:
            try:
                return function(*args, **kwargs), attempts
            except Exception as error:
                if attempts >= self._policy.max_attempts or not is_retryable(error):
                    raise GivenUp(untraced(error), attempts) from error
                self._wait(self.pause_ms(attempts), error)
            attempts += 1

    def pause_ms(self, failures: int) -> float:
        """How long to wait after so many failures, 1 or more; at most ``max_backoff_ms`` and the jitter."""
        policy = self._policy
        # The exponent is bounded, for a float cannot hold every number of attempts that a policy may say.
        backoff_ms = min(policy.max_backoff_ms, policy.backoff_ms * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))
        return backoff_ms * (1.0 + policy.jitter * (2.0 * self._random() - 1.0))

    def with_attempts(self, max_attempts: int) -> "Retrier":
        """The same, with another number of attempts."""
        policy = msgspec.structs.replace(self._policy, max_attempts=max_attempts)
        return Retrier(policy, self._stopping, sleep=self._sleep, random=self._random)

    @property
    def max_attempts(self) -> int:
        return self._policy.max_attempts

    def _wait(self, pause_ms: float, error: Exception) -> None:
        left_s = pause_ms / 1000
        while True:
            if self._stopping():
                raise Stopped(f"asked to stop before another attempt after {type(error).__name__}: {error}") from error
            if left_s <= 0:
                return
            self._sleep(min(left_s, _POLL_S))
            left_s -= _POLL_S


def is_retryable(error: Exception) -> bool:
    """Whether another attempt may succeed."""
    return isinstance(error, (RetryableError, OSError)) or not isinstance(error, FAILS_AGAIN)


def once() -> Retrier:
    """What calls a function once: the strategies other than RETRY."""
    return Retrier(RetryPolicy(max_attempts=1))
