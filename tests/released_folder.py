"""Makes the small data folder that each released version leaves to those after it: ``python tests/released_folder.py``.

It is run once for a version, when that is released, and writes ``tests/unit/data/folder-VERSION.tar.gz``. What is there stays:
the next versions have to open it. The keys in it are those of this folder alone.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from event_streaming_bus import __version__
from event_streaming_bus.backup.making import make_backup

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "faults"))


def main() -> None:
    from data_folders import HISTORY, make_folder

    target = HERE / "unit" / "data" / f"folder-{__version__}.tar.gz"
    if target.exists():
        sys.exit(f"{target} is there already; what was released stays as it is")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make_folder(data)
        (data / HISTORY).unlink()
        shutil.copy(data.with_name("flow.yaml"), data / "flow.yaml")
        made = make_backup(data, target)
    print(f"{target}: {len(made.files)} files, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
