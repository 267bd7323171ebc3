"""Progress: a bar on a terminal, a plain line now and then in a pipe. Always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_PLAIN_EVERY_S: Final = 1.0


class Bar:
    """One task's progress."""

    def __init__(self, title: str, bar: Progress | None, task: TaskID | None) -> None:
        self._title = title
        self._bar = bar
        self._task = task
        self._told_at_s = time.monotonic()

    def update(self, done: float, total: float | None, text: str) -> None:
        """Show how much of how much is done, and some words on it. A task that is soon done tells nothing in a pipe."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, words=text)
            return
        now_s = time.monotonic()
        if now_s - self._told_at_s >= _PLAIN_EVERY_S:
            share = f"{100 * done / total:3.0f}%  " if total else ""
            click.echo(f"{self._title}: {share}{text}", err=True)
            self._told_at_s = now_s

    def tell(self, message: str) -> None:
        """A line of its own on stderr, which does not disturb the bar."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            click.echo(message, err=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Bar]:
    """A bar with a title, gone from the terminal when it is done."""
    if not sys.stderr.isatty():
        yield Bar(title, None, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    with Progress(
        *columns, TextColumn("{task.fields[words]}"), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as shown:
        yield Bar(title, shown, shown.add_task(title, total=None, words=""))
