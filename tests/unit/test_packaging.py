"""Facts about the package and the repository that no single module can keep."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINKED = ("flows", "registry", "api", "store")
WEB_STACK = {"litestar", "uvicorn"}
HEAVY = WEB_STACK | {"bytewax", "duckdb", "pyarrow", "jsonschema", "jsonschema_rs"}


def imported_by(*modules: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after importing ``modules``."""
    code = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    code += "print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def modules_in(folder: str) -> list[str]:
    paths = sorted((ROOT / folder).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return ["event_streaming_bus." + name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("folder", ["flows", "registry", "store"])
def test_a_worker_imports_nothing_of_the_web_stack(folder: str) -> None:
    assert not imported_by(*modules_in(folder)) & WEB_STACK


@pytest.mark.parametrize("module", ["expressions", "cloudevents", "publishing"])
def test_what_workers_and_publishers_share_imports_nothing_of_the_web_stack(module: str) -> None:
    assert not imported_by(f"event_streaming_bus.{module}") & WEB_STACK


@pytest.mark.parametrize("module", ["event_streaming_bus", "event_streaming_bus.models", "event_streaming_bus.errors"])
def test_importing_the_package_loads_nothing_heavy(module: str) -> None:
    assert not imported_by(module) & HEAVY


def test_the_package_presents_the_root_folders_as_its_own() -> None:
    for name in LINKED:
        link = ROOT / "event_streaming_bus" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name
        assert (ROOT / name / "__init__.py").is_file()


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "event_streaming_bus" / "py.typed").is_file()


def test_the_set_up_script_is_understood_by_old_pythons() -> None:
    """They must get as far as its message that names the accepted versions."""
    ast.parse((ROOT / "deploy" / "setup_venv.py").read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("statement", ["import {}", "from {} import base", "from {}.log import base"])
def test_the_linter_refuses_a_root_folder_imported_by_its_bare_name(name: str, statement: str) -> None:
    code = statement.format(name) + "\n"
    assert "TID251" in ruff(code)
    assert "TID251" not in ruff(code.replace(name, f"event_streaming_bus.{name}", 1))


def ruff(code: str) -> str:
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--select",
        "TID251",
        "--no-cache",
        "--stdin-filename",
        "store/x.py",
        "-",
    ]
    return subprocess.run(command, cwd=ROOT, input=code, capture_output=True, text=True, check=False).stdout


# --- constraints.txt --------------------------------------------------------------------------------------------------

PIN = re.compile(
    r"^(?P<name>[a-z0-9._-]+)==(?P<version>[^ ;\\]+)(?P<marker> ; [^\\]+)? \\\n(?P<hashes>(?:    --hash=.*\n?)+)", re.M
)


def pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return {canonicalize_name(match["name"]): match["version"] for match in PIN.finditer(text)}


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    pinned = pins()
    project = PYPROJECT["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"], *PYPROJECT["build-system"]["requires"]]:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"constraints.txt lacks {requirement.name}: run make constraints"
        assert requirement.specifier.contains(version), f"constraints.txt has {requirement.name} {version}: run make constraints"


def test_constraints_hold_nothing_but_names_versions_and_hashes() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert PIN.sub("", text).strip() == ""
    for match in PIN.finditer(text):
        for line in match["hashes"].strip().splitlines():
            assert re.fullmatch(r" *--hash=sha256:[0-9a-f]{64}( \\)?", line)


# --- the text of the repository ---------------------------------------------------------------------------------------

# In pieces, so that this file does not hold what it looks for.
HOSTS = ["pypi" + ".org", "python" + "hosted", "npm" + "js", "crates" + ".io", "artifact" + "ory", "maven" + "." + "org"]
FOLDERS = ["/ho" + "me/", "/Us" + "ers/", "/ro" + "ot/", "/wo" + "rk/"]
FORBIDDEN = re.compile("|".join(map(re.escape, HOSTS + FOLDERS)).encode())


def repository_files() -> list[Path]:
    """Every file that is, or would be, in the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not in a git clone, so what belongs to the repository is not known")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file() and not path.is_symlink()]


def test_no_file_names_a_package_registry_or_a_folder_of_one_machine() -> None:
    found = {}
    for path in repository_files():
        if match := FORBIDDEN.search(path.read_bytes()):
            found[str(path.relative_to(ROOT))] = match[0]
    assert not found


def test_the_hygiene_check_sees_what_it_looks_for() -> None:
    assert FORBIDDEN.search(("see https://" + "pypi" + ".org/simple").encode())
    assert not FORBIDDEN.search(b"https://example.com/workspace")
