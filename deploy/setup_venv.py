"""Make ``.venv`` with everything that developing and running this project needs. ``make`` calls it once.

    python3 deploy/setup_venv.py

Picks a Python that the project supports ($PYTHON, if set, is the only candidate), creates ``.venv`` next to pyproject.toml
or re-uses the one there, and installs exactly what constraints.txt names, checked against its hashes. Ends with exit code 0
and a fresh ``.venv/.installed``, or with exit code 1 and a message that says what to do.

Runs on Python 3.6 and later, so that a machine with only an old one gets that message instead of a traceback.
"""
# ruff: noqa: S603, T201

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ACCEPTED = ("3.12", "3.11")
OLDEST_GOOD_PIP = 23
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"

PROBE = """
import importlib.util as u, platform, sys
has = lambda name: str(u.find_spec(name) is not None)
version = "%d.%d" % sys.version_info[:2]
print(version, platform.python_implementation(), has("venv") + has("ensurepip"), has("virtualenv"), has("pip"))
"""


class SetupError(Exception):
    """What went wrong and what to do about it, for the person at the terminal."""


class Candidate:
    """A Python interpreter that ran: its command, its version ("3.12") and what it can make a venv with."""

    def __init__(self, command, version, implementation, has_venv, has_virtualenv, has_pip):
        self.command = command
        self.version = version
        self.accepted = version in ACCEPTED and implementation == "CPython"
        self.label = f"{command} is {implementation} {version}"
        self.has_venv = has_venv == "TrueTrue"
        self.has_virtualenv = has_virtualenv == "True"
        self.has_pip = has_pip == "True"


def run(command):
    """The exit code and the output of ``command``; one that cannot be started counts as failed."""
    try:
        done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def probe(command):
    """The interpreter behind ``command``, or None. A name on PATH may be a shim that leads nowhere, so it is run."""
    code, output = run([command, "-c", PROBE])
    fields = output.split()
    return Candidate(command, *fields) if code == 0 and len(fields) == 5 else None


def choose_python():
    """The interpreter to build on: the first accepted one, those that can make a venv by themselves preferred."""
    wanted = os.environ.get("PYTHON", "").strip()
    names = [wanted] if wanted else ["python3.12", "python3.11", "python3", "python", sys.executable]
    found = [candidate for candidate in map(probe, names) if candidate]
    accepted = [candidate for candidate in found if candidate.accepted]
    if accepted:
        return next((candidate for candidate in accepted if candidate.has_venv), accepted[0])
    seen = "; ".join(candidate.label for candidate in found) or f"{', '.join(names)} does not run"
    raise SetupError(
        f"This project needs CPython {' or '.join(sorted(ACCEPTED))} (Bytewax has no build for others). Found here: {seen}. "
        "Install one of the two, or name it: make test PYTHON=/path/to/python3.12"
    )


def venv_is_usable(python):
    """Whether the ``.venv`` there runs, has pip, and is of the version wanted (any accepted one, unless $PYTHON is set)."""
    current = probe(VENV_PYTHON) if VENV_PYTHON.exists() else None
    if current is None or not current.accepted or not current.has_pip:
        return False
    return current.version == python.version or not os.environ.get("PYTHON")


def create_venv(python):
    """Make an empty ``.venv`` that has pip, in the first of several ways that works here."""
    ways = []
    if python.has_venv:
        ways.append([[python.command, "-m", "venv", VENV]])
    if python.has_virtualenv:
        ways.append([[python.command, "-m", "virtualenv", "--quiet", VENV]])
    if shutil.which("virtualenv"):
        ways.append([["virtualenv", "--quiet", "--python", python.command, VENV]])
    if shutil.which("uv"):
        ways.append([["uv", "venv", "--quiet", "--seed", "--python", python.command, VENV]])
    if python.has_pip:  # Debian's python3-pip without python3-venv: pip can install itself into a venv that lacks it.
        bare = [python.command, "-m", "venv", "--without-pip", VENV]
        ways.append([bare, [python.command, "-m", "pip", "--python", VENV_PYTHON, "install", "--quiet", "pip"]])
    for way in ways:
        shutil.rmtree(VENV, ignore_errors=True)
        if all(run(command)[0] == 0 for command in way) and venv_is_usable(python):
            return
    shutil.rmtree(VENV, ignore_errors=True)
    raise SetupError(
        f"{python.command} (Python {python.version}) cannot make a virtual environment: its venv or ensurepip module is "
        f"missing. On Debian and Ubuntu: apt-get install python{python.version}-venv (or python3-venv). Elsewhere: install "
        f"virtualenv for that Python, or point PYTHON at a complete one: make test PYTHON=/path/to/python{python.version}"
    )


def pip(title, *arguments):
    """Run the venv's pip, with the seconds ticking on a terminal. Raises SetupError with the end of its output."""
    command = [
        str(VENV_PYTHON),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "--quiet",
        *arguments,
    ]
    live = sys.stdout.isatty()
    started = time.time()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=str(ROOT), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        if not live:
            print(f"  {title} ...", flush=True)
        while process.poll() is None:
            if live:
                print(f"\r  {title} ... {time.time() - started:.0f} s", end="", flush=True)
            time.sleep(0.2)
        if live:
            print()
        if process.returncode != 0:
            output.seek(0)
            tail = output.read().decode("utf-8", "replace").strip().splitlines()[-15:]
            raise SetupError("\n    ".join([f"pip failed while {title}:", *tail]))


def upgrade_old_pip():
    """Replace a pip too old to be trusted with hashes and editable installs; carry on with it if that fails."""
    version = run([VENV_PYTHON, "-c", "import pip; print(pip.__version__)"])[1]
    if version.split(".")[0].isdigit() and int(version.split(".")[0]) >= OLDEST_GOOD_PIP:
        return
    try:
        pip(f"upgrading pip {version}", "--upgrade", "pip")
    except SetupError:
        print(f"  could not upgrade pip {version}; going on with it")


def set_up():
    """Make ``.venv`` ready, then renew the stamp. The stamp goes first, so an interrupted run is done again."""
    python = choose_python()
    if STAMP.exists():
        STAMP.unlink()
    if venv_is_usable(python):
        print("bringing .venv up to date", flush=True)
    else:
        print(f"setting up .venv with Python {python.version} (once, about a minute)", flush=True)
        create_venv(python)
    upgrade_old_pip()
    # --no-deps: constraints.txt is the whole answer. The project itself has no hash, so it is a step of its own.
    pip("installing what constraints.txt names", "--no-deps", "--require-hashes", "-r", "constraints.txt")
    pip("installing event-streaming-bus", "--no-deps", "--no-build-isolation", "-e", ".")
    STAMP.write_text("constraints.txt is installed\n")


def main():
    """Exit code 0 when ``.venv`` is ready, 1 when not."""
    try:
        set_up()
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
