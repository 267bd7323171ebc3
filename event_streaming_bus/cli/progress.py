"""Progress: a bar on a terminal, a plain line now and then in a pipe. Always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_PLAIN_EVERY_S: Final = 2.0


class Bar:
    """One task's progress."""

    def __init__(self, title: str, bar: Progress | None, task: TaskID | None) -> None:
        self._title = title
        self._bar = bar
        self._task = task
        self._told_at_s = time.monotonic()
        self._last = ""

    def update(self, done: float, total: float | None, text: str) -> None:
        """Show how much of how much is done, and some words on it."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, words=text)
            return
        share = f"{100 * done / total:3.0f}%  " if total else ""
        self._last = f"{self._title}: {share}{text}"
        if time.monotonic() - self._told_at_s >= _PLAIN_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Tell the latest state, if it has not been told."""
        if self._bar is None and self._last:
            click.echo(self._last, err=True)
            self._told_at_s, self._last = time.monotonic(), ""


@contextmanager
def progress_bar(title: str) -> Iterator[Bar]:
    """A bar with a title, gone from the terminal when it is done."""
    if not sys.stderr.isatty():
        bar = Bar(title, None, None)
        try:
            yield bar
        finally:
            bar.flush()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    with Progress(
        *columns, TextColumn("{task.fields[words]}"), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as shown:
        yield Bar(title, shown, shown.add_task(title, total=None, words=""))
