"""The fold of a CUSTOM with state: a user's function called with each event and the state of its key."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from event_streaming_bus.flows.custom_outputs import outputs_of
from event_streaming_bus.flows.folds.base import Entry, Failure, Result, Tally
from event_streaming_bus.flows.key_state import KeyState, Stored
from event_streaming_bus.flows.retries import GivenUp, Retrier, once
from event_streaming_bus.models import Event


class KeyedFold:
    """Calls ``function(event, state, **params)`` with each event (``Entry.value``), in order.

    Each event that it returns is a result, due right after the event, with the identity ``(event id, number)``; its id is still
    the source event's. An event is ``released`` if it made any, ``filtered`` if none, and ``dead`` if the last attempt raised,
    the outputs were not acceptable or the state not plain data. The state of a key changes with a call that succeeds and
    otherwise stays as it was.

    A state that was not used for more than ``state_ttl_ms`` of event time is forgotten (None: never); a use is a call that
    succeeds. ``run`` lets ``Stopped`` through: then the fold is somewhere between its events, and work goes on from the last
    ``save``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        params: Mapping[str, Any],
        state_ttl_ms: int | None,
        retrier: Retrier | None = None,
    ) -> None:
        self._function = function
        self._params = params
        self._ttl_ms = state_ttl_ms
        self._retrier = once() if retrier is None else retrier
        self._states: OrderedDict[bytes, tuple[int, Stored]] = OrderedDict()
        """When the state was used last, and what is stored; with a TTL, the longest unused comes first."""

    def run(self, entries: Sequence[Entry], horizon_ms: int, tally: Tally) -> list[Result]:
        results: list[Result] = []
        states, ttl_ms, call = self._states, self._ttl_ms, self._retrier.call
        for entry in entries:
            t, _, event_id, _, key, event, _ = entry
            used_ms, stored = states.get(key, (t, {}))
            if ttl_ms is not None and t - used_ms > ttl_ms:
                del states[key]
                stored = {}
            try:
                outputs, _ = call(self._once, event, stored, key)
            except GivenUp as given_up:
                tally.dead += 1
                tally.failures.append(Failure(t + 1, entry, given_up.error, given_up.attempts))
                continue
            if stored:
                states[key] = (t, stored)
                if ttl_ms is not None:
                    states.move_to_end(key)
            else:
                states.pop(key, None)
            if outputs:
                tally.released += 1
                results += [Result(t + 1, t, key, (event_id, i), output) for i, output in enumerate(outputs)]
            else:
                tally.filtered += 1
        if ttl_ms is not None:
            while states and next(iter(states.values()))[0] + ttl_ms < horizon_ms:
                states.popitem(last=False)
        return results

    def _once(self, event: Event, stored: Stored, key: bytes) -> list[Event]:
        state = KeyState.of(stored, key)
        outputs = outputs_of(self._function(event, state, **self._params), event)
        state.commit()  # last, for nothing can fail any more
        return outputs

    def save(self) -> Any:
        """``(key, last use, what is stored)`` of each key, in their order."""
        return [(key, used_ms, dict(stored)) for key, (used_ms, stored) in self._states.items()]

    def load(self, saved: Any) -> None:
        self._states = OrderedDict((key, (used_ms, dict(stored))) for key, used_ms, stored in saved)
