"""What a retry of dead letters would do, added up: which letters would go where, and which would not, and why."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from event_streaming_bus.flows.letter_destinations import Destination
from event_streaming_bus.flows.letter_retries import LetterReport, Result, Tried
from event_streaming_bus.models import rfc3339

MAX_GROUPS: Final = 1000
MAX_KEYS: Final = 200_000
"""How many keys are told apart in one preview."""
_MAX_REASONS: Final = 10
_SHOWN_IDS: Final = 5
_WOULD: Final = {Result.RETRIED: "retry", Result.FAILED: "fail", Result.WAITING: "wait", Result.REFUSED: "refuse"}
_WAITS: Final = "an earlier letter of its key would fail"


class _Reason(msgspec.Struct):
    """Why some letters of a group would not be done."""

    would: str
    message: str
    letters: int = 0
    dead_letter_ids: list[str] = []


class _Group(msgspec.Struct):
    """Letters of one step, stream and error that go to the same place."""

    step: str | None
    stream: str | None
    error_type: str | None
    destination: Destination | None
    letters: int = 0
    keys: set[str] = set()
    keys_are_complete: bool = True
    oldest_ms: int | None = None
    newest_ms: int | None = None
    would: dict[str, int] = {}
    reasons: dict[tuple[str, str], _Reason] = {}
    dead_letter_ids: list[str] = []

    def add(self, report: LetterReport) -> None:
        """Count a letter."""
        would = _WOULD[report.result]
        self.letters += 1
        self.would[would] = self.would.get(would, 0) + 1
        _show(self.dead_letter_ids, report)
        if report.result is Result.RETRIED:
            return
        message = _WAITS if report.result is Result.WAITING else report.message or ""
        if (would, message) not in self.reasons and len(self.reasons) >= _MAX_REASONS:
            return
        reason = self.reasons.setdefault((would, message), _Reason(would, message))
        reason.letters += 1
        _show(reason.dead_letter_ids, report)

    def told(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "stream": self.stream,
            "error_type": self.error_type,
            "destination": self.destination and msgspec.to_builtins(self.destination),
            "letters": self.letters,
            "keys": len(self.keys),
            "keys_are_complete": self.keys_are_complete,
            "oldest_failed_at": None if self.oldest_ms is None else rfc3339(self.oldest_ms),
            "newest_failed_at": None if self.newest_ms is None else rfc3339(self.newest_ms),
            "would": {name: self.would.get(name, 0) for name in _WOULD.values()},
            "reasons": [msgspec.to_builtins(reason) for reason in self.reasons.values()],
            "dead_letter_ids": self.dead_letter_ids,
        }


def preview(tried: Iterable[Tried], unknown: Iterable[LetterReport] = ()) -> dict[str, Any]:
    """``groups`` of letters of one step, stream and error that go to the same place, in the order of their first letters, and
    what ``would`` come of all. ``unknown``: the reports of ids that no letter has.

    Of the letters of each group, at most ten reasons are told and five ids. ``truncated``: there were more than ``MAX_GROUPS``
    groups; the letters of the others are counted in ``would`` alone.
    """
    groups: dict[tuple[Any, ...], _Group] = {}
    would = dict.fromkeys(_WOULD.values(), 0)
    keys = 0
    truncated = False

    def group_of(*which: Any) -> _Group | None:
        nonlocal truncated
        if which not in groups:
            if len(groups) >= MAX_GROUPS:
                truncated = True
                return None
            groups[which] = _Group(*which)
        return groups[which]

    for each in tried:
        why, key, report = each.letter.why, each.letter.event.key, each.report
        would[_WOULD[report.result]] += 1
        group = group_of(*(_text(why.get(name)) for name in ("step", "stream", "error_type")), each.destination)
        if group is None:
            continue
        group.add(report)
        failed_at_ms = why.get("failed_at_ms")
        if isinstance(failed_at_ms, int):
            group.oldest_ms = min(failed_at_ms, group.oldest_ms if group.oldest_ms is not None else failed_at_ms)
            group.newest_ms = max(failed_at_ms, group.newest_ms if group.newest_ms is not None else failed_at_ms)
        if key is not None and key not in group.keys:
            if keys < MAX_KEYS:
                group.keys.add(key)
                keys += 1
            else:
                group.keys_are_complete = False
    for report in unknown:
        would[_WOULD[report.result]] += 1
        group = group_of(None, None, None, None)
        if group is not None:
            group.add(report)
    return {"would": would, "groups": [group.told() for group in groups.values()], "truncated": truncated}


def _show(ids: list[str], report: LetterReport) -> None:
    if len(ids) < _SHOWN_IDS:
        ids.append(report.dead_letter_id)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
