"""The names of the fields that the results of windows have besides those that a processor asks for."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from event_streaming_bus.flows.checker import FieldPath, Path, Problems

WINDOW_START: Final = "window_start"
WINDOW_END: Final = "window_end"
UPDATE_FIELDS: Final = ("revision", "is_final")
"""What an output has besides where windows give out updates."""
WINDOW_NAMES: Final = {WINDOW_START: "the window's start", WINDOW_END: "the window's end"}
UPDATE_NAMES: Final = dict.fromkeys((*UPDATE_FIELDS, "retraction"), "the window's updates")


def group_names(group_by: Iterable[FieldPath]) -> tuple[str, ...]:
    """The output name of each group field: its path, dots turned into underscores."""
    return tuple("_".join(path) for path in group_by)


class OutputName(NamedTuple):
    """A name that something at ``path`` in the ``processing_logic`` writes, and what to do if it is taken."""

    writer: str
    path: Path
    name: str
    way_out: str


def group_outputs(names: Iterable[str]) -> list[OutputName]:
    """The names that ``group_by`` writes."""
    way_out = "rename the field with a MAP first"
    return [OutputName(f"group_by[{i}]", ("group_by", i), name, way_out) for i, name in enumerate(names)]


def names_differ(outputs: Iterable[OutputName], written: Mapping[str, str], path: Path, problems: Problems) -> bool:
    """Whether no two outputs have one name, nor one of those ``written`` anyway (by what); reports those that do."""
    taken = dict(written)
    fine = True
    for writer, place, name, way_out in outputs:
        if name in taken:
            problems.add((*path, *place), f"{name!r} is written by {taken[name]} and by {writer}; {way_out}")
            fine = False
        taken.setdefault(name, writer)
    return fine


def gives_updates(window: Any) -> bool:
    """Whether the window gives out results before it closes."""
    return getattr(window, "updates", None) is not None
