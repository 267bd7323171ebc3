"""Runs the benchmarks and prints a table: python tests/benchmarks/run.py [--rounds N] [--json FILE] [--only WORD]

``ESB_BENCH_EVENTS`` is how many Nexmark events are measured with (``ESB_BENCH_EVENTS=2000000`` for the figures of the
documentation); the default is a quick look.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bench_avro
import bench_consumers
import bench_flows
import bench_history
import bench_joins
import bench_log
import bench_memory
import bench_nexmark
import bench_rest_consumers
import bench_rest_publishing
import bench_routing
import bench_schemas
import bench_sourcing
from harness import Figure, Result, measure

from event_streaming_bus.cli.tables import print_table

HISTORY = [
    Figure("history: rows loaded with steps", "rows/s", bench_history.history_load, 200_000),
    Figure("history: rows loaded while two ask", "rows/s", lambda: bench_history.history_load_under_queries().rows_per_s),
    Figure("history: rows rolled off to files", "rows/s", lambda: bench_history.history_roll_off().rows_per_s),
]
FIGURES = [
    *bench_log.FIGURES,
    *bench_flows.FIGURES,
    *bench_joins.FIGURES,
    *bench_nexmark.figures(),
    *bench_memory.FIGURES,
    *bench_schemas.FIGURES,
    *bench_avro.FIGURES,
    *bench_consumers.FIGURES,
    *bench_rest_consumers.FIGURES,
    *bench_rest_publishing.FIGURES,
    *bench_routing.FIGURES,
    *bench_sourcing.FIGURES,
    *HISTORY,
]


def main() -> int:
    """Run them; the exit code is 0 whether or not targets are met, for a figure is no test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="figures whose name has this word, and their baselines")
    options = parser.parse_args()
    named = {figure.name for figure in FIGURES if options.only in figure.name}
    while more := {f.baseline for f in FIGURES if f.name in named and f.baseline} - named:  # baselines have baselines
        named |= more
    results = measure([f for f in FIGURES if f.name in named], options.rounds, lambda text: print(text, file=sys.stderr))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, median of {options.rounds} runs")
    print_table(["figure", "median", "unit", "low", "high", "x baseline", "target", "met"], map(_row, results))
    if options.json:
        options.json.write_text(json.dumps([result._asdict() for result in results], indent=2))
    return 0


def _row(result: Result) -> list[object]:
    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"

    targets = [shown(result.target)] if result.target is not None else []
    targets += [f"{result.target_ratio:g}x"] if result.target_ratio is not None else []
    met = {None: "", True: "yes", False: "no"}[result.met]
    return [
        *(result.name, shown(result.median), result.unit, shown(result.low), shown(result.high)),
        *("" if result.ratio is None else f"{result.ratio:.2f}", ", ".join(targets), met),
    ]


if __name__ == "__main__":
    sys.exit(main())
