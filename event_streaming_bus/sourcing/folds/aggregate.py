"""Aggregates as classes: what users derive from, and the decorator that says which events a method applies."""

from collections.abc import Callable
from typing import Any, ClassVar, Final, Literal, TypeVar

import msgspec

from event_streaming_bus.sourcing.sourcing_errors import FoldConfigError

APPLIES: Final = "__applies__"
F = TypeVar("F", bound=Callable[..., Any])


class Aggregate(msgspec.Struct):
    """The state of an aggregate, with one method for each type of event that changes it.

    A class of one's own lists the fields of the state with their types, each with a default: that of an aggregate without events.
    Its methods change ``self``, or return a new state.

    ``aggregate_type``: which aggregates it is for; by default those of the name of the class. ``fold_version``: to be raised when
    what the methods do has changed in a way that their code does not show. ``otherwise``: what becomes of an event that no
    method applies: ``ignore``, or ``fail``, which is an error.
    """

    aggregate_type: ClassVar[str] = ""
    fold_version: ClassVar[int] = 1
    otherwise: ClassVar[Literal["ignore", "fail"]] = "ignore"


def applies(*event_types: str) -> Callable[[F], F]:
    """Says that a method of an ``Aggregate`` applies events of these types.

    Beside ``self`` it takes the event, the payload or both, told apart by their annotations: ``AppliedEvent`` (or none) is the
    event, any other type is the payload, converted to it: a msgspec struct, a dataclass, a typed dict, ``dict``.
    """
    if not event_types or not all(isinstance(each, str) and each.strip() for each in event_types):
        raise FoldConfigError("@applies needs the types of the events, as in @applies('account.deposited')")

    def decorate(method: F) -> F:
        setattr(method, APPLIES, (*getattr(method, APPLIES, ()), *event_types))
        return method

    return decorate
