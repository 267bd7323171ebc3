"""The option that lets CUSTOM processors call functions of a module."""

from collections.abc import Callable
from typing import Any

import click


def _allow(ctx: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    from event_streaming_bus.flows.custom_functions import allow_modules, import_from_working_folder

    allow_modules(names)
    import_from_working_folder()
    return names


def allow_module_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--allow-module NAME``, several times if need be. It holds for this process and all that it starts, and makes modules
    in the working folder importable."""
    return click.option(
        "--allow-module",
        metavar="NAME",
        multiple=True,
        expose_value=False,
        callback=_allow,
        help="Let CUSTOM processors call functions of this module.",
    )(command)
