"""What ``kafka_jobs.py`` tells, read by the report."""

import json
from typing import Any, Final

from costs import Failed, Outcome, lines_of_child

_FIGURE: Final = "FIGURE "
_LEFT_OUT: Final = "LEFT OUT "


def run(events: int, rounds: int, timeout_s: float) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """By name the ``unit``, ``baseline`` and ``outcomes`` of each figure; and lines on what was left out."""
    try:
        lines = lines_of_child(["kafka_jobs.py", str(rounds)], timeout_s, {"ESB_BENCH_KAFKA_EVENTS": str(events)})
    except Failed as failure:
        return {}, [f"Kafka: {failure}"]
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line.startswith(_FIGURE):
            told = json.loads(line.removeprefix(_FIGURE))
            figure = found.setdefault(told["name"], {"unit": told["unit"], "baseline": told["baseline"], "outcomes": []})
            figure["outcomes"].append(Outcome(**told["outcome"]))
    return found, [line.removeprefix(_LEFT_OUT) for line in lines if line.startswith(_LEFT_OUT)]
