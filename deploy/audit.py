"""Look up every package of constraints.txt among the known vulnerabilities: ``make audit`` calls it.

    python deploy/audit.py

pip-audit does the looking up, from an environment of its own in a temporary folder, so that nothing of it comes into ``.venv``.
Ends with exit code 1 and the list if one of the packages has a known vulnerability. Where the advisory database cannot be reached
it says so in a line that begins with ``NOTICE``, and ends with 0: a build without the network must not fail of that.
"""
# ruff: noqa: S603, T201

import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
TIMEOUT_S = 600


def main() -> int:
    pins = re.findall(r"^([A-Za-z0-9._-]+==[^\s;\\]+)", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    if not pins:
        print(f"{CONSTRAINTS} names no package", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="esb-audit-") as folder:
        venv.create(folder, with_pip=True)
        python, one = Path(folder) / "bin" / "python", Path(folder) / "one.txt"
        made = run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pip-audit>=2.7"])
        if made.returncode:
            return notice(f"pip-audit cannot be installed: {last_line(made.stderr)}")
        one.write_text(pins[0] + "\n", encoding="utf-8")
        try:
            if any("skip_reason" in each for each in looked_up(python, one)):  # ask for one before asking for all
                return notice(f"it knows nothing of {pins[0]}")
            return report(looked_up(python, CONSTRAINTS))
        except LookupError as error:
            return notice(str(error))


def looked_up(python: Path, requirements: Path) -> list[dict[str, object]]:
    """What pip-audit says of each package. Raises ``LookupError`` if it says nothing."""
    options = ("--disable-pip", "--no-deps", "--progress-spinner=off", "-f=json")
    looked = run([python, "-m", "pip_audit", "-r", requirements, *options])
    try:
        packages: list[dict[str, object]] = json.loads(looked.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise LookupError(f"pip-audit did not answer: {last_line(looked.stderr)}") from None
    return packages


def report(packages: list[dict[str, object]]) -> int:
    """Print what is known of the packages; the exit code."""
    skipped = [str(each["name"]) for each in packages if "skip_reason" in each]
    found = [(each, flaw) for each in packages for flaw in each.get("vulns") or ()]  # type: ignore[attr-defined]
    for each, flaw in found:
        fixed = ", ".join(flaw.get("fix_versions") or ()) or "no version yet"
        print(f"{each['name']} {each['version']}: {flaw['id']}; mended in {fixed}")
    if skipped:
        print(f"NOTICE: not looked up, the database does not know them: {', '.join(skipped)}")
    print(f"{len(packages) - len(skipped)} packages looked up, {len(found)} known vulnerabilities")
    return 1 if found else 0


def notice(reason: str) -> int:
    print(f"NOTICE: nothing was audited, the advisory database is out of reach ({reason})")
    return 0


def run(command: list[object]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]


if __name__ == "__main__":
    sys.exit(main())
