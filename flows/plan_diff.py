"""What a changed flow does to the state of its processors, told before it runs.

State belongs to a processor's ``state_name``: its name, or the name it was ``renamed_from``. So processors of two versions of a
flow are the same if their state names are.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.processors import has_state
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec
from event_streaming_bus.flows.state_shape import differences, shape_of


class Verdict(StrEnum):
    """What becomes of a processor.

    ``KEEP``: it goes on with its state. ``REBUILD``: its state must be computed anew from its source. ``INCOMPATIBLE``: its state
    cannot be read any more, or would be lost. ``ADDED`` and ``REMOVED``: it is only in the new, or only in the old flow.
    """

    KEEP = "keep"
    REBUILD = "rebuild"
    INCOMPATIBLE = "incompatible"
    ADDED = "added"
    REMOVED = "removed"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One processor of the two flows.

    ``renamed_from``: its old name, if that is another. ``reasons`` say why the verdict is what it is; ``notes`` what else the
    change means. ``drops_state``: it had state, and the new flow has no place for it.
    """

    name: str
    state_name: str
    verdict: Verdict
    renamed_from: str | None = None
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    drops_state: bool = False


class Allowed(msgspec.Struct, frozen=True):
    """What may become of state: ``rebuild`` and ``drop`` name processors; ``anything``: all state is to be forgotten anyway."""

    rebuild: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()
    anything: bool = False


NOTHING_ALLOWED: Final = Allowed()
MADE_ANEW: Final = (Verdict.REBUILD, Verdict.INCOMPATIBLE)


def diff(old: FlowSpec, new: FlowSpec) -> list[Step]:
    """What becomes of every processor: those of the new flow in its order, then those that are gone."""
    return _Diff(old, new).steps()


def refused(steps: Iterable[Step], allowed: Allowed) -> list[Step]:
    """The steps that would drop, misread or have to rebuild state without leave."""
    if allowed.anything:
        return []
    return [
        step
        for step in steps
        if (step.verdict in MADE_ANEW and not allowed.rebuild & {step.name, step.state_name})
        or (step.verdict is Verdict.REMOVED and step.drops_state and not allowed.drop & {step.name, step.state_name})
    ]


def check_state(old: FlowSpec | None, new: FlowSpec, allowed: Allowed = NOTHING_ALLOWED) -> list[Step]:
    """The steps from ``old``, the flow as it last ran, to ``new``; none if it never did (``None``).

    Raises ``FlowError`` if running ``new`` on what ``old`` left would drop or misread state without leave; it says what can be
    done.
    """
    steps = [] if old is None else diff(old, new)
    _check_names(steps, new, allowed)
    found = refused(steps, allowed)
    if not found:
        return steps
    told = [f"  {step.name}: {step.verdict}: {'; '.join(step.reasons)}\n    {_way_out(step)}" for step in found]
    raise FlowError(
        f"The flow {new.name} has changed, and would not go on with the state that it has:\n" + "\n".join(told),
        flow=new.name,
        steps=[{"processor": step.name, "verdict": step.verdict.value, "reasons": list(step.reasons)} for step in found],
    )


def _check_names(steps: list[Step], new: FlowSpec, allowed: Allowed) -> None:
    """A slip in a name must not pass for leave."""
    known = {name for step in steps for name in (step.name, step.state_name)} | {p.processor_name for p in new.processors}
    unknown = sorted((allowed.rebuild | allowed.drop) - known)
    if unknown:
        raise FlowError(f"The flow {new.name} has no processor {unknown[0]}; it has {', '.join(sorted(known))}.", flow=new.name)


def _way_out(step: Step) -> str:
    if step.verdict is Verdict.REMOVED:
        return f"--drop-state {step.name} gives its state up; if it was renamed, say renamed_from: {step.state_name}."
    rebuild = f"--rebuild {step.name} begins the flow from the start, so that all of its output is written again."
    return rebuild if step.verdict is Verdict.REBUILD else f"Give it another name. Or {rebuild}"


class _Diff:
    def __init__(self, old: FlowSpec, new: FlowSpec) -> None:
        self._old, self._new = old, new
        self._before = {processor.state_name: processor for processor in old.processors}
        self._after = {processor.state_name: processor for processor in new.processors}
        self._steps: dict[str, Step] = {}

    def steps(self) -> list[Step]:
        for processor in self._new.processors:
            self._step(processor)
        removed = [self._removed(each) for name, each in self._before.items() if name not in self._after]
        return [*(self._steps[processor.state_name] for processor in self._new.processors), *removed]

    def _step(self, new: ProcessorSpec) -> Step:
        """The step of a processor, and before it those of the processors that it reads."""
        name = new.state_name
        if name not in self._steps:
            old = self._before.get(name)
            self._steps[name] = self._added(new) if old is None else self._kept(old, new)
        return self._steps[name]

    def _added(self, new: ProcessorSpec) -> Step:
        reasons, notes = ["it is new"], []
        if new.renamed_from is not None:
            reasons = [f"there was no processor with the state name {new.renamed_from}"]
        above = self._new.port_of(new.source_stream_id)[0]
        if above is None:
            notes.append(f"it reads {new.source_stream_id} from its beginning")
        elif above.state_name in self._before:
            notes.append(f"it sees what {above.processor_name} gives out from now on, not what that gave out before")
        notes += [
            f"its state is kept under {old.state_name}: renamed_from: {old.state_name} has to stay"
            for old in self._before.values()
            if old.processor_name == new.processor_name and old.renamed_from is not None
        ]
        return Step(
            name=new.processor_name, state_name=new.state_name, verdict=Verdict.ADDED, reasons=tuple(reasons), notes=tuple(notes)
        )

    def _removed(self, old: ProcessorSpec) -> Step:
        if not has_state(old):
            reasons: tuple[str, ...] = ("it is gone; it had no state",)
        else:
            reasons = ("it is gone, which drops its state",)
            likely = next((each for each in self._new.processors if self._is_likely(old, each)), None)
            if likely is not None:
                reasons = (*reasons, f"{likely.processor_name} does the same: was it renamed?")
        return Step(
            name=old.processor_name,
            state_name=old.state_name,
            verdict=Verdict.REMOVED,
            reasons=reasons,
            drops_state=has_state(old),
        )

    def _is_likely(self, old: ProcessorSpec, new: ProcessorSpec) -> bool:
        return new.state_name not in self._before and old.processor_type is new.processor_type and not _changed(old, new)

    def _kept(self, old: ProcessorSpec, new: ProcessorSpec) -> Step:
        renamed_from = old.processor_name if old.processor_name != new.processor_name else None
        stateful = has_state(old) or has_state(new)
        if stateful and (old.processor_type is not new.processor_type or has_state(old) is not has_state(new)):
            return self._incompatible(old, new, renamed_from)
        reasons = _changed(old, new)
        notes = [
            f"{told}, from now on" if stateful else f"{told}: past results were made with the old one"
            for told in _notes(old, new)
        ]
        moved = self._moved(old, new)
        if moved and stateful:
            reasons += moved
        else:
            notes += moved
        above_reasons, above_notes = self._from_above(new)
        if stateful:
            reasons += above_reasons
            notes += above_notes
        notes += self._written_again(new)
        if old.target_stream_id != new.target_stream_id:
            notes.append(
                f"results go to {new.target_stream_id or 'no stream'} from now on; past ones are in {old.target_stream_id}"
            )
        return Step(
            name=new.processor_name,
            state_name=new.state_name,
            verdict=Verdict.REBUILD if reasons else Verdict.KEEP,
            renamed_from=renamed_from,
            reasons=tuple(reasons),
            notes=tuple(notes),
        )

    def _incompatible(self, old: ProcessorSpec, new: ProcessorSpec, renamed_from: str | None) -> Step:
        if old.processor_type is not new.processor_type:
            told = f"it was of the type {old.processor_type} and is of the type {new.processor_type}"
        else:
            told = "it had state and has none" if has_state(old) else "it had no state and has some"
        if has_state(old):
            told += ", which drops its state"
        return Step(
            name=new.processor_name,
            state_name=new.state_name,
            verdict=Verdict.INCOMPATIBLE if has_state(old) else Verdict.REBUILD,
            renamed_from=renamed_from,
            reasons=(told,),
            drops_state=has_state(old),
        )

    def _moved(self, old: ProcessorSpec, new: ProcessorSpec) -> list[str]:
        """What it reads another source for."""
        before, after = old.sources, new.sources
        told = []
        for key in dict.fromkeys([*before, *after]):
            was, now = before.get(key), after.get(key)
            if was is not None and now is not None and self._state_source(was, self._old) == self._state_source(now, self._new):
                continue
            told.append(f"{key[-1]} was {was or 'not set'} and is {now or 'not set'}")
        return told

    @staticmethod
    def _state_source(source: str, spec: FlowSpec) -> str:
        """A source's name, which stays the same when a processor is renamed."""
        processor, port = spec.port_of(source)
        return source if processor is None else f":{processor.state_name}.{port}"

    def _written_again(self, new: ProcessorSpec) -> list[str]:
        """Which streams that it reads will have results anew."""
        writers = [(p, source) for source in new.sources.values() for p in self._new.processors if p.target_stream_id == source]
        return [
            f"{source} will have the new results of {writer.processor_name} beside the old ones"
            for writer, source in writers
            if self._step(writer).verdict in MADE_ANEW
        ]

    def _from_above(self, new: ProcessorSpec) -> tuple[list[str], list[str]]:
        """What the changes of the processors that it reads mean for its state: reasons to rebuild it, and notes."""
        reasons: list[str] = []
        notes: list[str] = []
        for source in new.sources.values():
            above, _ = self._new.port_of(source)
            while above is not None:
                step = self._step(above)
                if step.verdict in MADE_ANEW:
                    reasons.append(f"{above.processor_name}, which it reads, is rebuilt")
                elif not has_state(above) and (old := self._before.get(above.state_name)) is not None and _notes(old, above):
                    notes.append(f"its state was built with {above.processor_name} as it was")
                above = None if has_state(above) else self._new.port_of(above.source_stream_id)[0]
        return reasons, notes


def _changed(old: ProcessorSpec, new: ProcessorSpec) -> list[str]:
    return differences(shape_of(old).state, shape_of(new).state)


def _notes(old: ProcessorSpec, new: ProcessorSpec) -> list[str]:
    kinds = {"processor_type": (old.processor_type, new.processor_type)}
    told = [f"{key} was {was} and is {now}" for key, (was, now) in kinds.items() if was is not now]
    return told + differences(shape_of(old).manner, shape_of(new).manner)


def exit_code(steps: Iterable[Step], allowed: Allowed = NOTHING_ALLOWED) -> int:
    """0 if all state is kept, 3 if some must be rebuilt, 1 if some would be lost."""
    found = refused(steps, allowed)
    if any(step.drops_state for step in found):
        return 1
    return 3 if found else 0
