"""The fold that a class of the user's is."""

import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from event_streaming_bus.models import Event
from event_streaming_bus.sourcing.folds.aggregate import APPLIES, Aggregate
from event_streaming_bus.sourcing.folds.base import Fold
from event_streaming_bus.sourcing.folds.code_hash import code_hash
from event_streaming_bus.sourcing.folds.events import AppliedEvent, Payload, failure
from event_streaming_bus.sourcing.folds.upcasts import Upcast, Upcasting
from event_streaming_bus.sourcing.folds.user_code import explained
from event_streaming_bus.sourcing.sourcing_errors import FoldConfigError
from event_streaming_bus.store.recorded import RecordedEvent

Argument: TypeAlias = Callable[[RecordedEvent, Payload], Any]
_EVENT: Final = (AppliedEvent, inspect.Parameter.empty, Any)
_UNFIT: Final = (ValueError, TypeError, OverflowError, RecursionError)
"""What msgspec raises for a state that is not what its class says."""
_SETTINGS: Final = ("aggregate_type", "fold_version", "otherwise")
_encode: Final = msgspec.json.Encoder().encode


class _Method(NamedTuple):
    call: Callable[..., Any]
    arguments: tuple[Argument, ...]


class ClassFold(Fold[Aggregate]):
    """A fold whose states are objects of a class that derives from ``Aggregate``.

    Types are kept: after the events of a call, the state must be what its JSON is read back as, or the event after which it is
    not is an error. Methods only ever change a copy. Raises ``FoldConfigError`` for a class that cannot be a fold.
    """

    kind = "class"

    def __init__(self, aggregate: type[Aggregate]) -> None:
        _check_class(aggregate)
        name = f"the fold {aggregate.__qualname__}"
        super().__init__(name, code_hash(aggregate), aggregate.fold_version, Upcasting(_upcasts_of(aggregate)))
        self.aggregate = aggregate
        self.aggregate_type = aggregate.aggregate_type or aggregate.__name__
        try:
            self._decode = msgspec.json.Decoder(aggregate).decode
        except (TypeError, NameError) as error:
            raise FoldConfigError(f"{aggregate.__qualname__}: its fields cannot be read from JSON: {error}") from error
        self._methods = dict(_methods_of(aggregate))
        try:
            self._checked(aggregate())
        except Exception as error:  # defaults are made by the user's code
            told = f"{aggregate.__qualname__}: its defaults are no state that a snapshot can hold: {error}"
            raise FoldConfigError(told) from error

    def initial(self) -> Aggregate:
        return self._copy(self.aggregate())  # an int in a field for floats is a float from the beginning

    def to_json(self, state: Aggregate) -> dict[str, Any]:
        return msgspec.to_builtins(state, str_keys=True)  # type: ignore[no-any-return]

    def from_json(self, data: dict[str, Any]) -> Aggregate:
        return msgspec.convert(data, self.aggregate, str_keys=True)

    def _apply(self, state: Aggregate, events: Sequence[RecordedEvent], payloads: Iterator[Payload]) -> Aggregate:
        after = self._run(self._copy(state), events, payloads)
        try:
            return self._checked(after)
        except _UNFIT as error:
            i, reason = self._first_unfit(state, events, error)
            raise failure(self.name, events[i], f"the state is then not what the class says: {reason}") from error

    def _run(self, state: Any, events: Sequence[RecordedEvent], payloads: Iterator[Payload]) -> Any:
        methods, is_strict = self._methods, self.aggregate.otherwise == "fail"
        for event, payload in zip(events, payloads, strict=True):
            method = methods.get(event.event_type)
            if method is None:
                if is_strict:
                    known = ", ".join(methods) or "none"
                    raise failure(self.name, event, f"it knows no events of this type (known: {known})")
                continue
            try:
                returned = method.call(state, *[argument(event, payload) for argument in method.arguments])
            except Exception as error:
                told = f"the payload: {error}" if isinstance(error, _UnfitPayloadError) else explained(error)
                raise failure(self.name, event, told) from error
            if returned is not None:
                if type(returned) is not self.aggregate:
                    told = f"{method.call.__qualname__} returned a {type(returned).__name__}; expected a state or nothing"
                    raise failure(self.name, event, told)
                state = returned
        return state

    def _copy(self, state: Aggregate) -> Aggregate:
        return self._decode(_encode(state))

    def _checked(self, state: Aggregate) -> Aggregate:
        """The state as its JSON is read back; raises what msgspec raises, and ``ValueError`` if that is not the same."""
        read = self._decode(_encode(state))
        if read != state:
            for field in state.__struct_fields__:
                was, now = getattr(state, field), getattr(read, field)
                if was != now:
                    raise ValueError(f"{field}: {was!r} would be read back as {now!r}; annotate the field with its precise type")
            raise ValueError("it would be read back as another one; leave eq=True")
        return read

    def _first_unfit(self, state: Aggregate, events: Sequence[RecordedEvent], error: Exception) -> tuple[int, Exception]:
        """The index of an event that makes an unfit state of a fit one, and how it is unfit."""
        fine, unfit = 0, len(events)
        # Methods may keep and change the payloads that they are given, so each run decodes its own.
        while unfit - fine > 1:
            middle = (fine + unfit) // 2
            part = events[:middle]
            try:
                self._checked(self._run(self._copy(state), part, self.upcasting.payloads(part, self.name)))
                fine = middle
            except _UNFIT as found:
                unfit, error = middle, found
        return unfit - 1, error


class _UnfitPayloadError(ValueError):
    """A payload is not of the type that a method expects."""


def _check_class(aggregate: type[Aggregate]) -> None:
    if not (isinstance(aggregate, type) and issubclass(aggregate, Aggregate)) or aggregate is Aggregate:
        raise FoldConfigError(f"expected a class that derives from Aggregate, got {aggregate!r}")
    name = aggregate.__qualname__
    for field in msgspec.structs.fields(aggregate):
        if field.name in _SETTINGS:
            told = f"{name}.{field.name} would be a field of the state; set it without an annotation, {field.name} = ..."
            raise FoldConfigError(told)
        if field.required:
            raise FoldConfigError(f"{name}.{field.name} has no default: which value has it in an aggregate without events?")
    config = aggregate.__struct_config__
    if config.array_like or not config.eq:
        raise FoldConfigError(f"{name}: array_like=True and eq=False cannot be used for aggregates")
    if aggregate.otherwise not in ("ignore", "fail"):
        raise FoldConfigError(f"{name}.otherwise: expected 'ignore' or 'fail', got {aggregate.otherwise!r}")


def _members(aggregate: type[Aggregate]) -> Iterator[tuple[str, Any]]:
    """The attributes of a class and its bases; of one that is overridden the last definition."""
    found: dict[str, Any] = {}
    for kind in reversed(aggregate.__mro__):
        if issubclass(kind, Aggregate):
            found.update(vars(kind))
    yield from found.items()


def _upcasts_of(aggregate: type[Aggregate]) -> Iterator[Upcast]:
    for _, value in _members(aggregate):
        plain = value.__func__ if isinstance(value, staticmethod) else value
        if isinstance(plain, Upcast):
            yield plain


def _methods_of(aggregate: type[Aggregate]) -> Iterator[tuple[str, _Method]]:
    """The method of each type of event. An overriding method applies what the one that it overrides does."""
    applied: dict[str, str] = {}
    for kind in reversed(aggregate.__mro__):
        for name, value in vars(kind).items():
            for event_type in getattr(value, APPLIES, ()):
                if applied.setdefault(event_type, name) != name:
                    told = f"both {applied[event_type]} and {name} apply {event_type}; one method is for it"
                    raise FoldConfigError(f"{aggregate.__qualname__}: {told}")
    members = dict(_members(aggregate))
    for event_type, name in applied.items():
        yield event_type, _method(members[name], aggregate, name)


def _method(value: Any, aggregate: type[Aggregate], name: str) -> _Method:
    where = f"{aggregate.__qualname__}.{name}"
    if not isinstance(value, FunctionType):
        raise FoldConfigError(f"{where}: expected a method, not a {type(value).__name__}")
    if inspect.iscoroutinefunction(value) or inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
        raise FoldConfigError(f"{where}: expected a plain method, neither async nor a generator")
    try:
        hints = typing.get_type_hints(value, localns={kind.__name__: kind for kind in aggregate.__mro__})
    except Exception as error:
        raise FoldConfigError(f"{where}: its annotations cannot be resolved: {error}") from error
    _, *parameters = inspect.signature(value).parameters.values()
    taken = [each for each in parameters if each.default is each.empty]
    if not 1 <= len(taken) <= 2 or any(each.kind not in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in taken):
        raise FoldConfigError(f"{where}: expected a method of self and the event, the payload, or both")
    return _Method(value, tuple(_argument(hints.get(each.name, each.empty), f"{where}, {each.name}") for each in taken))


def _argument(hint: Any, where: str) -> Argument:
    if hint in _EVENT:
        return AppliedEvent
    if hint is RecordedEvent or hint is Event:
        raise FoldConfigError(f"{where}: an event comes as AppliedEvent, with its payload up to date")
    if hint is dict or (typing.get_origin(hint) is dict and typing.get_args(hint) == (str, Any)):
        return lambda event, payload: payload
    try:
        msgspec.json.Decoder(hint)
    except (TypeError, NameError) as error:
        raise FoldConfigError(f"{where}: a payload cannot be converted to {hint}: {error}") from error
    convert = msgspec.convert

    def converted(event: RecordedEvent, payload: Payload) -> Any:
        try:
            return convert(payload, hint)
        except msgspec.ValidationError as error:
            raise _UnfitPayloadError(str(error)) from error

    return converted
