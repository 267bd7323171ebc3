"""Overload: more than a server can do, of each kind, and what is measured of it.

    python tests/faults/overload.py
    python tests/faults/overload.py --scenario connections --small

Prints what each scenario measured, and what it found to be wrong; the exit code is 1 if anything was.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

from overload_run import FULL, SMALL, Outcome
from overload_scenarios import SCENARIOS
from overload_server import more_files


def main() -> int:
    """Run the scenarios that are asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description="Overload a server in every way, and measure it.")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="only this one; may be given again")
    parser.add_argument("--small", action="store_true", help="small sizes: seconds instead of minutes")
    parser.add_argument("--out", type=Path, help="write what was measured here, as JSON")
    given = parser.parse_args()
    more_files()
    sizes, measured, is_well = SMALL if given.small else FULL, {}, True
    for name in given.scenario or SCENARIOS:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="esb-overload-") as folder:
            try:
                done = asyncio.run(SCENARIOS[name](Path(folder) / "data", sizes))
            except Exception as error:  # the other scenarios are to be measured all the same
                traceback.print_exc()
                done = Outcome({}, [f"it could not be measured: {error!r}"])
        measured[name] = {**done.figures, "findings": done.findings}
        is_well = is_well and not done.findings
        told = json.dumps(done.figures, indent=2)
        print(
            f"{name} ({time.monotonic() - begun:.0f} s): {'as it should be' if not done.findings else done.findings}\n{told}",
            flush=True,
        )
        if given.out is not None:
            given.out.write_text(json.dumps(measured, indent=2))
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
