"""Fuzzes the targets one after the other: ``run.py [TARGET...]``, ``FUZZ_SECONDS`` for each (default 60).

What is found lies in ``FUZZ_FOLDER`` (default: a new temporary folder): an input that failed goes into ``corpus/TARGET`` with
the repair, and is tried by the tests from then on.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzz_targets import MODULES


def main() -> int:
    seconds = int(os.environ.get("FUZZ_SECONDS") or 60)
    folder = Path(os.environ.get("FUZZ_FOLDER") or tempfile.mkdtemp(prefix="esb-fuzz-found-"))
    folder.mkdir(parents=True, exist_ok=True)
    unknown = [name for name in sys.argv[1:] if name not in MODULES]
    if unknown:
        print(f"There is no target {', '.join(unknown)}; there is {', '.join(MODULES)}", file=sys.stderr)
        return 2
    failed = 0
    for name in sys.argv[1:] or MODULES:
        began = time.monotonic()
        command = [sys.executable, str(Path(__file__).parent / "one.py"), name, str(seconds), str(folder)]
        with tempfile.TemporaryDirectory(prefix="esb-fuzz-") as made:  # an engine may end the process without a word
            ended = subprocess.run(
                command,
                env=os.environ | {"TMPDIR": made},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds + 300,
            )
        output = ended.stdout + ended.stderr
        units = re.search(r"number_of_executed_units: +(\d+)", output)
        count = f"{int(units[1]):,}" if units else "?"
        print(
            f"{name:16} {count:>12} inputs in {time.monotonic() - began:6.1f} s  {'FAILED' if ended.returncode else 'ok'}",
            flush=True,
        )
        if ended.returncode:
            failed += 1
            print(output[-4000:])
    print(f"What was found, if anything, is in {folder}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
