"""A CUSTOM without state at work: a user's function called with events, one by one or many at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from event_streaming_bus.flows.custom_outputs import outputs_of
from event_streaming_bus.flows.processors.custom import CustomForm, CustomLogic
from event_streaming_bus.flows.retries import GivenUp, Retrier
from event_streaming_bus.models import Event
from event_streaming_bus.untraced import untraced


class Failed(msgspec.Struct, frozen=True):
    """That a user's function failed on an event, after so many attempts."""

    error: Exception
    attempts: int


Outcome: TypeAlias = list[Event] | Failed
"""What a function made of one event, or why it failed."""
Calls: TypeAlias = Callable[[Sequence[Event]], list[Outcome]]
"""Makes an outcome of each event, in order. Raises ``Stopped`` if the worker is asked to stop while it would wait."""


def calls_of(logic: CustomLogic, function: Callable[..., Any], retrier: Retrier) -> Calls:
    """What calls the function of a CUSTOM of the forms event and batch."""
    if logic.form is CustomForm.KEYED:
        raise ValueError("the form keyed has state: its function is called by a KeyedFold")
    return (BatchCalls if logic.form is CustomForm.BATCH else EventCalls)(function, logic.params, retrier)


class EventCalls:
    """Calls ``function(event, **params)`` for each event."""

    def __init__(self, function: Callable[..., Any], params: Mapping[str, Any], retrier: Retrier) -> None:
        self._function = function
        self._params = params
        self._retrier = retrier

    def __call__(self, events: Sequence[Event]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for event in events:
            try:
                made, _ = self._retrier.call(self._once, event)
            except GivenUp as given_up:
                outcomes.append(Failed(given_up.error, given_up.attempts))
            else:
                outcomes.append(made)
        return outcomes

    def _once(self, event: Event) -> list[Event]:
        return outputs_of(self._function(event, **self._params), event)


class BatchCalls:
    """Calls ``function(events, **params)``, which returns a list with one item for each event.

    A list of another length fails every event of the batch, since nothing tells which item belongs to which event. If the
    call raises, the events are handed over one at a time, in lists of one, with the attempts that are left, at least one: so
    one bad event does not take the others with it. An item that is no output fails its own event alone.
    """

    def __init__(self, function: Callable[..., Any], params: Mapping[str, Any], retrier: Retrier) -> None:
        self._function = function
        self._params = params
        self._retrier = retrier

    def __call__(self, events: Sequence[Event]) -> list[Outcome]:
        if not events:
            return []
        try:
            outcomes, attempts = self._retrier.call(self._once, events)
        except GivenUp as given_up:
            if len(events) == 1 or isinstance(given_up.error, WrongLengthError):
                failed = Failed(given_up.error, given_up.attempts)
                return [failed] * len(events)
            return self._one_by_one(events, given_up.attempts)
        return _after(outcomes, attempts)

    def _one_by_one(self, events: Sequence[Event], before: int) -> list[Outcome]:
        retrier = self._retrier.with_attempts(max(1, self._retrier.max_attempts - before))
        outcomes: list[Outcome] = []
        for event in events:
            try:
                made, attempts = retrier.call(self._once, (event,))
            except GivenUp as given_up:
                outcomes.append(Failed(given_up.error, before + given_up.attempts))
            else:
                outcomes += _after(made, before + attempts)
        return outcomes

    def _once(self, events: Sequence[Event]) -> list[Outcome]:
        # A list of its own: the function may empty it, or sort it.
        returned = self._function(list(events), **self._params)
        if not isinstance(returned, list):
            kind = type(returned).__name__
            raise WrongLengthError(f"expected a list with one item for each of the {len(events)} events, got a {kind}")
        if len(returned) != len(events):
            raise WrongLengthError(
                f"expected a list with one item for each of the {len(events)} events, got {len(returned)}; None drops an event"
            )
        return [self._outcome(item, event) for item, event in zip(returned, events, strict=True)]

    @staticmethod
    def _outcome(item: object, event: Event) -> Outcome:
        try:
            return outputs_of(item, event)
        except (TypeError, ValueError) as error:
            return Failed(untraced(error), 1)


def _after(outcomes: list[Outcome], attempts: int) -> list[Outcome]:
    return [Failed(each.error, attempts) if isinstance(each, Failed) else each for each in outcomes]


class WrongLengthError(ValueError):
    """A function of the form batch returned something else than a list with one item for each event."""
