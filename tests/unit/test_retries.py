"""Calls that are tried again: which errors, how often, after what pause, and what a stop does."""

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus import RetryableError
from event_streaming_bus.errors import ConfigError, StorageError
from event_streaming_bus.flows.retries import GivenUp, Retrier, Stopped, is_retryable, once
from event_streaming_bus.flows.retry_policy import RetryPolicy


class Failing:
    """A function that raises the errors it was given, one a call, and then returns 'done'."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self, stop_at_s: float = float("inf")) -> None:
        self.now_s = 0.0
        self.naps: list[float] = []
        self._stop_at_s = stop_at_s

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now_s += seconds

    def stopping(self) -> bool:
        return self.now_s >= self._stop_at_s

    def retrier(self, random: Callable[[], float] = lambda: 0.5, **policy: float) -> Retrier:
        return Retrier(RetryPolicy(**policy), self.stopping, sleep=self.sleep, random=random)  # type: ignore[arg-type]


def test_a_call_that_succeeds_at_once_waits_for_nothing() -> None:
    clock = Clock()
    assert clock.retrier().call(Failing()) == ("done", 1)
    assert clock.naps == []


def test_arguments_are_passed_on() -> None:
    assert once().call(divmod, 7, 2) == ((3, 1), 1)


def test_a_call_is_tried_again_until_it_succeeds_and_the_attempts_are_told() -> None:
    clock = Clock()
    assert clock.retrier(max_attempts=3).call(Failing(TimeoutError(), RetryableError())) == ("done", 3)


def test_the_last_failure_and_the_number_of_attempts_are_told_when_it_is_given_up() -> None:
    last = ConnectionError("refused")
    function = Failing(TimeoutError(), last, TimeoutError())
    with pytest.raises(GivenUp, match="refused") as caught:
        Clock().retrier(max_attempts=2).call(function)
    assert (caught.value.error, caught.value.attempts, caught.value.__cause__) == (last, 2, last)
    assert function.calls == 2


def test_an_error_that_comes_again_for_sure_is_not_tried_again() -> None:
    function = Failing(KeyError("total"))
    with pytest.raises(GivenUp) as caught:
        Clock().retrier(max_attempts=9).call(function)
    assert (caught.value.attempts, function.calls) == (1, 1)


def test_pauses_double_up_to_the_longest() -> None:
    clock = Clock()
    clock.retrier(max_attempts=6, backoff_ms=100, max_backoff_ms=500, jitter=0.0).call(Failing(*[OSError()] * 5))
    assert clock.now_s == pytest.approx(0.1 + 0.2 + 0.4 + 0.5 + 0.5)


@given(st.integers(1, 10_000), st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_a_pause_differs_from_the_backoff_by_at_most_the_jitter(
    failures: int, backoff_ms: int, longest_ms: int, jitter: float, number: float
) -> None:
    policy = RetryPolicy(backoff_ms=backoff_ms, max_backoff_ms=longest_ms, jitter=jitter)
    pause_ms = Retrier(policy, random=lambda: number).pause_ms(failures)
    exact = min(longest_ms, backoff_ms * 2 ** (failures - 1))
    assert exact * (1 - jitter) - 1e-6 <= pause_ms <= exact * (1 + jitter) + 1e-6


def test_jitter_makes_pauses_longer_and_shorter() -> None:
    assert [Clock().retrier(lambda at=at: at, jitter=0.2).pause_ms(1) for at in (0.0, 0.5, 1.0)] == [80.0, 100.0, 120.0]


def test_a_stop_is_asked_for_at_least_every_100_ms_and_ends_the_wait() -> None:
    clock = Clock(stop_at_s=0.25)
    function = Failing(TimeoutError("slow"))
    with pytest.raises(Stopped, match="TimeoutError: slow"):
        clock.retrier(backoff_ms=10_000).call(function)
    assert clock.now_s < 0.25 + 0.1
    assert max(clock.naps) <= 0.1
    assert function.calls == 1


def test_a_worker_that_stops_already_neither_waits_nor_gives_up() -> None:
    clock = Clock(stop_at_s=0.0)
    with pytest.raises(Stopped):
        clock.retrier().call(Failing(TimeoutError()))
    assert clock.naps == []


def test_a_stop_passes_handlers_of_bad_events() -> None:
    assert not issubclass(Stopped, Exception)


def test_a_pause_takes_its_time_by_the_clock() -> None:
    retrier = Retrier(RetryPolicy(backoff_ms=120, jitter=0.0))
    started_s = time.monotonic()
    assert retrier.call(Failing(TimeoutError())) == ("done", 2)
    assert 0.12 <= time.monotonic() - started_s < 5


@pytest.mark.parametrize(
    "error", [RetryableError(), TimeoutError(), ConnectionResetError(), StorageError(), RuntimeError(), Exception()]
)
def test_what_may_work_in_a_moment_is_tried_again(error: Exception) -> None:
    assert is_retryable(error)


@pytest.mark.parametrize(
    "error",
    [
        TypeError(),
        ValueError(),
        KeyError(),
        IndexError(),
        ZeroDivisionError(),
        AttributeError(),
        AssertionError(),
        ConfigError("x"),
    ],
)
def test_errors_of_code_and_data_are_not_tried_again(error: Exception) -> None:
    assert not is_retryable(error)


def test_an_os_error_is_tried_again_even_if_it_is_a_value_error_as_well() -> None:
    class BadAnswerError(OSError, ValueError):
        """As those of HTTP clients are."""

    assert is_retryable(BadAnswerError())


def test_a_retryable_error_is_tried_again_even_if_it_is_a_value_error_as_well() -> None:
    class NotYetError(RetryableError, ValueError):
        """A user's own."""

    assert is_retryable(NotYetError())


def test_once_calls_a_function_once() -> None:
    function = Failing(TimeoutError())
    with pytest.raises(GivenUp):
        once().call(function)
    assert function.calls == 1
