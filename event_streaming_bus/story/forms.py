"""A story as plain data, and as lines of text."""

from typing import Any, Final

import msgspec

from event_streaming_bus.story.model import Place, Story

_MAX_LISTED: Final = 10
_MAX_TEXT: Final = 200


def as_data(story: Story) -> dict[str, Any]:
    """The story for JSON."""
    told: dict[str, Any] = msgspec.to_builtins(story)
    return told


def lines(story: Story) -> list[str]:
    """The story to be read. Control characters are in it as they are."""
    told = [story.summary, ""]
    waits = ", ".join(f"{name.removesuffix('_ms')} {value:g} ms" for name, value in story.waits.items())
    if waits:
        told += [f"waited: {waits}", ""]
    if story.origin is not None:
        told.append(f"made of: ({story.origin.found_by})")
        told += [f"  {_split(each)}" for each in story.origin.offsets]
        told += _places(story.origin.events)
        told.append("")
    for step in story.steps:
        duration = "" if step.duration_ms is None else f"  {step.duration_ms:g} ms"
        more = "" if step.told is None else f"  {_short(msgspec.json.encode(step.told).decode())}"
        told.append(f"{step.at}  {step.stage:<11} {step.status:<9} {step.by}{duration}{more}")
        if step.error is not None:
            told.append(f"{'':26}{step.error.error_type or 'Error'}: {_short(step.error.message or '')}")
            told += [f"{'':28}{line}" for line in (step.error.stack_trace or "").splitlines()]
        told += [f"{'':26}-> {event_id}" for event_id in step.outputs[:_MAX_LISTED]]
    for title, places in (("what was made of it:", story.outputs), ("results that it is in:", story.results)):
        if places:
            told += ["", title, *_places(places)]
    if story.deliveries:
        told += ["", "deliveries:"]
        for each in story.deliveries:
            counts = ((each.redeliveries, "redelivered"), (each.retries, "retried"), (each.dead_letters, "dead-lettered"))
            more = "".join(f", {name} {count} times" for count, name in counts if count)
            told.append(f"  {each.group}: {each.state.lower().replace('_', ' ')}, delivered {each.deliveries} times{more}")
    if story.dead_letters:
        told += ["", "dead letters:"]
        for letter in story.dead_letters[:_MAX_LISTED]:
            where = letter["step"] or letter["processor_name"] or ""
            told.append(f"  {letter['dead_letter_id']}  {where}  {letter['error_type']}: {_short(letter['error_message'] or '')}")
    totals = story.totals
    told += [
        "",
        f"{totals['steps']} steps, {totals['failed_steps']} failed, {totals['processing_ms']:g} ms of work within "
        f"{totals['from_first_to_last_ms']:g} ms",
    ]
    return [*told, "... there is more"] if story.is_cut_off else told


def _split(told: dict[str, Any]) -> str:
    where = f"{told['stream']}/{told['lane']}/{told['partition']}"
    return f"{where}: {told['events']} events at offsets {told['first']} to {told['last']}"


def _places(places: tuple[Place, ...]) -> list[str]:
    told = [
        f"  {each.event_id}"
        + (f"  {each.stream}/{each.lane}/{each.partition}@{each.offset}" if each.stream is not None else "")
        + (f"  by {each.by}" if each.by is not None else "")
        for each in places[:_MAX_LISTED]
    ]
    return told if len(places) <= _MAX_LISTED else [*told, f"  ... and {len(places) - _MAX_LISTED} more"]


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _MAX_TEXT else f"{one_line[: _MAX_TEXT - 1]}…"
