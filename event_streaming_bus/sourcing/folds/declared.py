"""Folds that are declared: which fields of the state each type of event sets, by expressions."""

import copy
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, TypeAlias

import msgspec

from event_streaming_bus.expressions import Expression
from event_streaming_bus.flows.checker import FieldPath
from event_streaming_bus.sourcing.folds.base import DictFold
from event_streaming_bus.sourcing.folds.events import Payload, failure
from event_streaming_bus.sourcing.folds.fold_expressions import CONSTANTS, names_of, plain, source_of
from event_streaming_bus.sourcing.folds.state_types import FieldType
from event_streaming_bus.sourcing.folds.upcasts import NO_UPCASTING, Upcasting
from event_streaming_bus.store.recorded import RecordedEvent

_MEANING: Final = 1
"""To be raised when the same declaration comes to mean something else, so that snapshots of before are not read."""

Apply: TypeAlias = Callable[[RecordedEvent, dict[str, Any], Payload], None]
"""Changes a state. If it raises, the state is as it was."""


class Otherwise(StrEnum):
    """What becomes of an event whose type the fold does not name."""

    IGNORE = "ignore"
    MERGE = "merge"
    FAIL = "fail"


class Step(msgspec.Struct, frozen=True):
    """What a type of event does. All expressions see the state as it was before the event; then the payload is merged, then
    the fields are set, then some are removed."""

    merge: bool = False
    fields: tuple[tuple[FieldPath, Expression], ...] = ()
    remove: tuple[FieldPath, ...] = ()


class DeclaredSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A declared fold. ``types`` are those of the state's top-level fields; those that are not named may be anything."""

    aggregate_type: str
    fold_version: int = 1
    initial: Mapping[str, Any] = {}
    types: Mapping[str, FieldType] = {}
    steps: Mapping[str, Step] = {}
    otherwise: Otherwise = Otherwise.IGNORE


class DeclaredFold(DictFold):
    """A fold that is declared in a file."""

    kind = "declared"

    def __init__(self, spec: DeclaredSpec, source: str = "", upcasting: Upcasting = NO_UPCASTING) -> None:
        name = f"the fold of {spec.aggregate_type}{f' in {source}' if source else ''}"
        super().__init__(name, _code(spec), spec.fold_version, upcasting)
        self.spec = spec
        self._apply_by_type: dict[str, Apply] = {
            event_type: _compiled(step, spec.types) for event_type, step in spec.steps.items()
        }
        self._otherwise: Apply | None = None
        if spec.otherwise is Otherwise.MERGE:
            self._otherwise = _compiled(Step(merge=True), spec.types)

    def initial(self) -> dict[str, Any]:
        return copy.deepcopy(dict(self.spec.initial))

    def _apply(self, state: dict[str, Any], events: Sequence[RecordedEvent], payloads: Iterator[Payload]) -> dict[str, Any]:
        # What lies below the top level is never changed in place, so one level is enough.
        state = dict(state)
        by_type, otherwise = self._apply_by_type, self._otherwise
        for event, payload in zip(events, payloads, strict=True):
            apply = by_type.get(event.event_type, otherwise)
            if apply is not None:
                try:
                    apply(event, state, payload)
                except Exception as error:  # whatever went wrong is the event's doing: expressions cannot do anything else
                    where, reason = self._explained(event, state, payload, error)
                    raise failure(self.name, event, reason, where=where) from error
            elif self.spec.otherwise is Otherwise.FAIL and event.event_type not in by_type:
                known = ", ".join(by_type) or "none"
                raise failure(self.name, event, f"it knows no events of this type (known: {known})")
        return state

    def _explained(
        self, event: RecordedEvent, state: dict[str, Any], payload: Payload, error: Exception
    ) -> tuple[str | None, str]:
        """Where in the declaration the error comes from, and why."""
        values = names_of(event, state, payload)
        for path, expression in self.spec.steps.get(event.event_type, Step()).fields:
            field = ".".join(path)
            where = f'apply["{event.event_type}"].{field}'
            try:
                value = plain(expression.compile()(values))
            except Exception as raised:
                return where, f"{where}: {expression.text}: {expression.explain(raised, values)}"
            kind = self.spec.types.get(path[0])
            if kind is not None and len(path) == 1:
                try:
                    kind.check(field, value)
                except ValueError as raised:
                    return where, f"{where}: {expression.text}: {raised}"
        told = traceback.format_exception_only(error)[-1].strip()
        return None, str(error) if isinstance(error, ValueError) else told


def _compiled(step: Step, types: Mapping[str, FieldType]) -> Apply:
    """The step as one generated function. All that can fail comes before the state is changed."""
    constants: dict[str, Any] = dict(CONSTANTS)
    lines: list[str] = []
    for i, (path, expression) in enumerate(step.fields):
        lines.append(f"value_{i} = ({source_of(expression)})")
        kind = types.get(path[0])
        if kind is not None and len(path) == 1:
            constants[f"check_{i}"] = kind.check
            lines.append(f"check_{i}({path[0]!r}, value_{i})")
    if step.merge:
        if types:
            constants["check_merged"] = _merge_check(types)
            lines.append("check_merged(_payload)")
        lines.append("_state.update(_payload)")
    constants |= {"set_below": _set_below, "remove": _remove}
    for i, (path, _) in enumerate(step.fields):
        lines.append(f"_state[{path[0]!r}] = value_{i}" if len(path) == 1 else f"set_below(_state, {path!r}, value_{i})")
    lines += [f"remove(_state, {path!r})" for path in step.remove]
    body = "".join(f"    {line}\n" for line in lines or ["pass"])
    exec(compile(f"def apply(_event, _state, _payload):\n{body}", "<fold>", "exec"), constants)  # noqa: S102 - checked before
    apply: Apply = constants["apply"]
    return apply


def _merge_check(types: Mapping[str, FieldType]) -> Callable[[Payload], None]:
    def check(payload: Payload) -> None:
        for name, kind in types.items():
            if name in payload:
                kind.check(name, payload[name])

    return check


def _set_below(state: dict[str, Any], path: FieldPath, value: Any) -> None:
    """Set what is below the top level; the objects on the way are made anew, as others may share them."""
    for name in path[:-1]:
        inner = state.get(name)
        below = dict(inner) if isinstance(inner, dict) else {}
        state[name] = below
        state = below
    state[path[-1]] = value


def _remove(state: dict[str, Any], path: FieldPath) -> None:
    for name in path[:-1]:
        inner = state.get(name)
        if not isinstance(inner, dict):
            return
        below = dict(inner)
        state[name] = below
        state = below
    state.pop(path[-1], None)


def _code(spec: DeclaredSpec) -> str:
    steps = {
        event_type: [step.merge, [[path, expression.text] for path, expression in step.fields], step.remove]
        for event_type, step in spec.steps.items()
    }
    types = {name: kind.word for name, kind in spec.types.items()}
    data = [_MEANING, dict(spec.initial), types, steps, spec.otherwise]
    # The order of an object's fields is a part of the state, though it means nothing.
    return msgspec.json.encode(data).decode()
