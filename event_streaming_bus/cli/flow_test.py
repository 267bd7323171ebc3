"""``esb test``: the tests that flow files carry."""

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_ERROR
from event_streaming_bus.cli.modules import allow_module_option
from event_streaming_bus.cli.tables import printable
from event_streaming_bus.errors import FlowError
from event_streaming_bus.flow_testing import FlowTestResult, run_tests
from event_streaming_bus.flows.flow_file import SUFFIXES
from event_streaming_bus.flows.spec import load_flow


@click.command()
@click.argument("paths", metavar="FILE|FOLDER...", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--filter", "wanted", metavar="TEXT", default="", help="Only tests with TEXT in their name.")
@allow_module_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per test.")
def test(paths: tuple[str, ...], wanted: str, as_json: bool) -> int:
    """Run the tests of the flow files in FILE or below FOLDER. They need no data folder, and leave nothing behind."""
    started_s = time.perf_counter()
    passed = failed = untested = 0
    for file in _files(paths):
        try:
            spec = load_flow(file)
        except FlowError as error:
            failed += 1
            click.echo(f"FAILED {file}: it does not load" if not as_json else _json(file, None, [error.message]))
            if not as_json:
                click.echo(_indented(error.message))
            continue
        untested += not spec.tests
        for result in run_tests(spec, lambda name: wanted.casefold() in name.casefold()):
            passed += result.passed
            failed += not result.passed
            _tell(file, result, as_json)
    counts = [f"{passed} passed", *([f"{failed} failed"] if failed else [])]
    if untested:
        counts.append(f"{untested} {'file' if untested == 1 else 'files'} without tests")
    click.echo(f"{', '.join(counts)} in {time.perf_counter() - started_s:.2f} s", err=True)
    return EXIT_ERROR if failed else 0


def _files(paths: tuple[str, ...]) -> list[Path]:
    files: list[Path] = []
    for name in paths:
        path = Path(name)
        found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()) if path.is_dir() else [path]
        if not found:
            raise click.UsageError(f"there is no flow file below {path}")
        files += found
    return list(dict.fromkeys(files))


def _tell(file: Path, result: FlowTestResult, as_json: bool) -> None:
    if as_json:
        click.echo(_json(file, result, result.problems))
        return
    click.echo(f"{'passed' if result.passed else 'FAILED'} {file}: {printable(result.name)} ({result.seconds * 1000:.0f} ms)")
    for problem in result.problems:
        click.echo(_indented(problem))


def _json(file: Path, result: FlowTestResult | None, problems: Any) -> str:
    told = {"file": str(file), "test": result.name if result else None, "passed": not problems, "problems": list(problems)}
    return msgspec.json.encode(told | ({"seconds": round(result.seconds, 4)} if result else {})).decode()


def _indented(text: str) -> str:
    return "\n".join(f"    {printable(line)}" for line in text.splitlines())
