"""CUSTOM: processing in Python, by a function of the user's own."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from event_streaming_bus.flows.checker import FieldPath
from event_streaming_bus.flows.window_config import Timing


class CustomForm(StrEnum):
    """How the function is called: with an event, with a list of events, or with an event and the state of its key."""

    EVENT = "event"
    BATCH = "batch"
    KEYED = "keyed"


class CustomLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of a CUSTOM. ``function`` is ``module:function``; ``params`` are passed on as keyword arguments.

    ``key``: the fields whose values name the state of the form ``keyed``; ``state_ttl_ms``: state not used for so long, in
    event time, is forgotten (None: never).
    """

    function: str
    form: CustomForm = CustomForm.EVENT
    key: tuple[FieldPath, ...] = ()
    params: Mapping[str, Any] = {}
    state_ttl_ms: int | None = None
    timing: Timing = Timing()
