"""The review in docs/security.md names tests that there are, and says of every target of the fuzzing what it promises."""

import ast
import re
import runpy
from pathlib import Path

import pytest
from fuzz_targets import MODULES

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:unit|browser|kafka|postgres|contract|faults)/test_\w+\.py(?:::\w+)?)`", PAGE)))


def names_of(file: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, functions)}


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_the_review_names_is_there(named: str) -> None:
    file, _, name = named.partition("::")
    assert (TESTS / file).is_file()
    assert not name or name in names_of(TESTS / file)


def test_every_chapter_of_the_standard_is_reviewed() -> None:
    assert re.findall(r"^\| \*\*V(\d+) ", PAGE, re.MULTILINE) == [str(number) for number in range(1, 15)]
    assert len(NAMED) > 40


def test_every_target_of_the_fuzzing_is_told_of() -> None:
    table = PAGE.partition("## What comes from anybody")[2].partition("## Reviewed")[0]
    told = {name for line in table.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert told == set(MODULES)


def test_the_audit_of_dependencies_fails_of_a_known_vulnerability_and_of_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    audit = runpy.run_path(str(TESTS.parent / "deploy" / "audit.py"))
    good, unknown = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
    assert audit["report"]([good, unknown]) == 0
    assert "NOTICE: not looked up, the database does not know them: b" in capsys.readouterr().out
    flaw = {"id": "GHSA-1", "fix_versions": ["2"]}
    assert audit["report"]([good, {"name": "c", "version": "1.5", "vulns": [flaw]}]) == 1
    assert "c 1.5: GHSA-1; mended in 2" in capsys.readouterr().out
    assert audit["notice"]("no route") == 0
    assert capsys.readouterr().out.startswith("NOTICE: nothing was audited")
