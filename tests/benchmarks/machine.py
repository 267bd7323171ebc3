"""The machine and the versions that figures belong to."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = ("bytewax", "msgspec", "duckdb", "pyarrow", "confluent-kafka", "eventsourcing", "cramjam")
_GB: Final = 1 << 30


def machine() -> dict[str, Any]:
    """What a reader needs to know to compare: processor, cores, memory, system, load, versions, the commit."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _line_of("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB, 1),
        "system": f"{platform.system()} {platform.release()}",
        "is_virtual": "hypervisor" in (_line_of("/proc/cpuinfo", "flags") or "").split(),
        "load_before": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "java": _first_line(["java", "-version"]),
        "commit": _first_line(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]),
    }


def told(found: dict[str, Any]) -> str:
    """The machine in one line."""
    virtual = ", virtual" if found["is_virtual"] else ""
    load = found["load_before"][0]
    return (
        f"{found['processor']}, {found['cores']} cores{virtual}, {found['memory_gb']:g} GB, {found['system']}, "
        f"Python {found['python']}, load {load:g} before the first run"
    )


def _line_of(file: str, name: str) -> str | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (done.stdout + done.stderr).splitlines()
    return lines[0] if done.returncode == 0 and lines else None


if __name__ == "__main__":
    print(told(machine()), file=sys.stdout)
