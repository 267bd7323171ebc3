"""Asking the controller of a cluster, which alone makes, drops and describes topics.

librdkafka waits for the controller that it knows of, even where that one has gone and another was elected. So it is asked in
turns, each longer than the one before, and who it is in between.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from event_streaming_bus.store.log.kafka_errors import error_of, no_controller

_FIRST_S: Final = 2.0
_LEARN_S: Final = 2.0
_PAUSE_S: Final = 0.02
_NOBODY: Final = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._DESTROY_BROKER,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_CONTROLLER,
        KafkaError.BROKER_NOT_AVAILABLE,
    }
)
"""What a controller that has gone is told as, or one that finds no majority."""
_T = TypeVar("_T")


def ask_controller(
    brokers: str,
    admin: AdminClient,
    ask: Callable[[list[str], float], Mapping[str, "Future[_T]"]],
    names: Sequence[str],
    doing: str,
    timeout_s: float,
) -> tuple[dict[str, _T], dict[str, KafkaError]]:
    """``(answers, refusals)`` by name of what ``ask`` asks of these topics, given how long a turn takes. It may be asked again
    for a topic that it was done for before. ``StorageError`` if no controller answers within about ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    answers: dict[str, _T] = {}
    refusals: dict[str, KafkaError] = {}
    turn_s = _FIRST_S
    left = list(names)
    while left:
        again: list[str] = []
        for name, future in ask(left, max(0.5, min(turn_s, deadline - time.monotonic()))).items():
            try:
                answers[name] = future.result()
            except KafkaException as error:
                reason = error_of(error)
                if reason.code() in _NOBODY:
                    again.append(name)
                else:
                    refusals[name] = reason
        left = again
        if left and time.monotonic() >= deadline:
            raise no_controller(brokers, doing, timeout_s)
        if left:
            turn_s *= 2
            time.sleep(_PAUSE_S)
            with suppress(KafkaException):
                admin.list_topics(timeout=_LEARN_S)
    return answers, refusals
