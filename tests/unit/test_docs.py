"""Every example in README.md and docs/ is run, or its page says why not.

A comment stands directly in front of a fenced block:

``<!-- test: NAME -->``        run it. ``python`` runs in one namespace per page and may use ``await``. ``bash`` holds
                               ``esb`` commands, which must exit with 0. Any other language is a file: the last word of
                               NAME is its name, and ``flow-file`` in front of it means that it must load as a flow.
``<!-- output -->``            what the block before it printed; ``...`` stands for any text.
``<!-- not run: REASON -->``   leave it.

The blocks of a page run in order, in one temporary folder, with the data folder at its default place in it.
"""

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import os
import re
import shlex
import sys
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest
from warm import run_esb

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MUST_SAY = {"python", "py", "bash", "sh", "shell", "console", "yaml", "yml", "toml"}
FENCE = re.compile(r"(?:^<!-- *(?P<marker>[^\n]*?) *-->\n+)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S)
TIMEOUT_S = 120


class Block(NamedTuple):
    """A fenced block: the 1-based line of its fence, its language, the comment in front of it, its text."""

    line: int
    language: str
    marker: str
    code: str

    @property
    def runs(self) -> bool:
        return self.marker.startswith("test:") or self.marker == "output"


def blocks_of(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        found.append(Block(line, match["language"].lower(), match["marker"] or "", match["code"]))
    return found


def silent_blocks(text: str) -> list[Block]:
    """The blocks that ought to say whether they are run, and do not."""
    return [
        block
        for block in blocks_of(text)
        if block.language in MUST_SAY and not block.runs and not re.match(r"not run: \S", block.marker)
    ]


def run_page(page: Path, folder: Path) -> int:
    """Run the page's blocks in ``folder``, which must be the working directory; the number of blocks that ran."""
    namespace: dict[str, Any] = {"__name__": "__page__"}
    printed, ran = "", 0
    with asyncio.Runner() as runner:
        for block in blocks_of(page.read_text(encoding="utf-8")):
            if not block.runs:
                continue
            ran += 1
            try:
                if block.marker == "output":
                    assert_printed(block.code, printed)
                elif block.language in {"python", "py"}:
                    printed = run_python(block, page, namespace, runner)
                elif block.language == "bash":
                    printed = run_commands(block.code, folder)
                else:
                    write_file(block, folder)
            except Exception as error:
                error.add_note(f"in the block at {page.name}:{block.line}")
                raise
    return ran


def run_python(block: Block, page: Path, namespace: dict[str, Any], runner: asyncio.Runner) -> str:
    # The leading newlines make the lines of a traceback those of the page.
    code = compile("\n" * block.line + block.code, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(run_coroutine(code, namespace))
        else:
            exec(code, namespace)
    return output.getvalue()


async def run_coroutine(code: CodeType, namespace: dict[str, Any]) -> None:
    await eval(code, namespace)


def run_commands(code: str, folder: Path) -> str:
    printed = ""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "esb", f"only esb commands can be run: {line}"
        done = run_esb(words[1:], cwd=folder, timeout_s=TIMEOUT_S)
        assert done.returncode == 0, f"{line}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
        printed += done.stdout
    return printed


def write_file(block: Block, folder: Path) -> None:
    words = block.marker.removeprefix("test:").split()
    path = folder / words[-1]
    assert path.suffix, f"{block.marker!r} names no file"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.code, encoding="utf-8")
    if "flow-file" in words:
        from event_streaming_bus.flows.spec import load_flow

        load_flow(path)


def assert_printed(expected: str, printed: str) -> None:
    def plain(text: str) -> str:
        return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"

    wanted, got = plain(expected), plain(printed)
    assert doctest.OutputChecker().check_output(wanted, got, doctest.ELLIPSIS), f"the page says:\n{wanted}\nbut it was:\n{got}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESB_DATA", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return tmp_path


# --- the pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    silent = silent_blocks(page.read_text(encoding="utf-8"))
    assert not silent, [f"{page.relative_to(ROOT)}:{block.line} ({block.language})" for block in silent]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.runs for block in blocks_of(page.read_text(encoding="utf-8")))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_examples_work(page: Path, folder: Path) -> None:
    assert run_page(page, folder) > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text) + re.findall(r'(?:src|srcset|href)="([^"#]+)"', text)
    broken = [link for link in links if not re.match(r"\w+:", link) and not (page.parent / link).exists()]
    assert not broken


# --- the harness itself -----------------------------------------------------------------------------------------------


def page_with(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_blocks_share_a_namespace_a_folder_and_an_event_loop(folder: Path) -> None:
    page = page_with(
        folder,
        "<!-- test: data/rows.csv -->\n```csv\na\n1\n```\n"
        "<!-- test: read -->\n```python\nimport asyncio, pathlib\nloop = asyncio.get_running_loop()\n"
        "await asyncio.sleep(0)\n"
        "text = pathlib.Path('data/rows.csv').read_text()\nprint(text, 'x' * 3)\n```\n"
        "<!-- output -->\n```text\na\n1\n ...x\n```\n"
        "<!-- test: same -->\n```python\nawait asyncio.sleep(0)\nassert loop is asyncio.get_running_loop()\n```\n",
    )
    assert run_page(page, folder) == 4


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("<!-- test: a -->\n```python\nassert 1 == 2, 'one'\n```\n", "one"),
        ("<!-- test: a -->\n```python\nprint(1)\n```\n<!-- output -->\n```text\n2\n```\n", "but it was"),
        ("<!-- test: a -->\n```bash\nrm -r x\n```\n", "only esb commands"),
        ("<!-- test: a -->\n```bash\nesb no-such-command\n```\n", "exit code"),
        ("<!-- test: a -->\n```yaml\na: 1\n```\n", "names no file"),
        ("<!-- test: flow-file f.yaml -->\n```yaml\nproccessors: []\n```\n", "processors"),
    ],
)
def test_an_example_that_does_not_work_fails_the_page(folder: Path, block: str, complaint: str) -> None:
    with pytest.raises(Exception, match=complaint) as caught:
        run_page(page_with(folder, "# Title\n\n" + block), folder)
    assert re.fullmatch(r"in the block at page\.md:\d+", caught.value.__notes__[-1])


@pytest.mark.parametrize(
    ("marker", "is_silent"),
    [
        ("", True),
        ("<!-- a remark -->\n", True),
        ("<!-- not run: -->\n", True),
        ("<!-- not run: it never ends -->\n\n", False),
        ("<!-- test: x -->\n", False),
    ],
)
def test_only_blocks_that_say_nothing_are_silent(marker: str, is_silent: bool) -> None:
    assert bool(silent_blocks(f"text\n\n{marker}```bash\nesb serve\n```\n")) is is_silent
    assert not silent_blocks("```text\nanything\n```\n\n```mermaid\nflowchart\n```\n")
