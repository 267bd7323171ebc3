"""The option that puts folds in force."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from event_streaming_bus.cli.main import Settings
from event_streaming_bus.sourcing.folds.folds import Folds
from event_streaming_bus.sourcing.service import EventSourcingService

_CLASS: Final = ":"


def folds_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--folds FILE_OR_CLASS``, several times if need be."""
    return click.option(
        "--folds",
        metavar="FILE|CLASS",
        multiple=True,
        envvar="ESB_FOLDS",
        help="A file of folds, file.py:Class or module:Class; may be repeated.  [env: ESB_FOLDS, separated by spaces]",
    )(command)


def load_folds(folds: Folds, names: Sequence[str]) -> None:
    """Put the folds that were named in force. Files are looked for in the working folder. Raises ``FoldConfigError``."""
    for name in names:
        if _CLASS in name:
            folds.load_class(name, folder=Path.cwd())
        else:
            folds.load_file(Path(name))


def opened(settings: Settings, folds: Sequence[str] = ()) -> EventSourcingService:
    """The service of the data folder, with the folds that were named in force."""
    service = EventSourcingService(settings.open())
    load_folds(service.folds, folds)
    return service
