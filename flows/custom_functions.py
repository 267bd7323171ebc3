"""The functions of CUSTOM processors: which modules they may come from, and how one is found.

A flow names its function as ``module:function``. Whoever may write a flow, over REST for instance, could name any function of
any installed module, so nothing is imported but what the environment variable ``ESB_CUSTOM_MODULES`` allows: names of modules,
separated by commas, each of which allows the module and those below it. By default nothing is allowed. A function must also
come from an allowed module: one that such a module has merely imported (``from os import system``) is refused.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

from event_streaming_bus.errors import ConfigError, FlowError
from event_streaming_bus.flows.checker import Path as FlowPath
from event_streaming_bus.flows.checker import Problems, format_path, suggest
from event_streaming_bus.flows.processors.custom import FUNCTION, MODULE, CustomForm, CustomLogic

CUSTOM_MODULES: Final = "ESB_CUSTOM_MODULES"

_ARGUMENTS: Final = {
    CustomForm.EVENT: ("event",),
    CustomForm.BATCH: ("events",),
    CustomForm.KEYED: ("event", "state"),
}


def allowed_modules() -> tuple[str, ...]:
    """The modules that ``ESB_CUSTOM_MODULES`` allows; ``ConfigError`` if it holds anything else."""
    names = [name.strip() for name in os.environ.get(CUSTOM_MODULES, "").split(",")]
    return _checked((name for name in names if name), CUSTOM_MODULES)


def allow_modules(names: Iterable[str]) -> None:
    """Allow more modules, in this process and in those that it starts from now on; ``ConfigError`` if one is no module's name."""
    os.environ[CUSTOM_MODULES] = ",".join(dict.fromkeys((*allowed_modules(), *_checked(names, "--allow-module"))))


def import_from_working_folder() -> None:
    """Make modules of the working folder importable, as they are in workers, which run as ``python -m``.

    The folder comes last, so that a file in it never takes the place of an installed module here.
    """
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def check_function(function: str, path: FlowPath, problems: Problems) -> bool:
    """Whether the name is well-formed and its module allowed; if not, the problem is added. Imports nothing."""
    told = _refusal(function)
    if told is not None:
        problems.add(path, told)
    return told is None


def load_function(logic: CustomLogic, path: FlowPath) -> Callable[..., Any]:
    """The function of a CUSTOM whose ``processing_logic`` stands at ``path``, imported.

    It is a plain function (or a callable object) of an allowed module that can be called with the arguments of its form and the
    params. Otherwise raises ``FlowError``, with what the import raised as its cause. Importing runs the module's code.
    """
    here = (*path, "function")
    told = _refusal(logic.function)
    if told is not None:
        _fail(here, told)
    module_name, _, name = logic.function.partition(":")
    module = _import(module_name, here)
    try:
        function = getattr(module, name)
    except AttributeError as error:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        _fail(here, f"the module {module_name} has no function {name!r}{suggest(name, known)}", error)
    if not callable(function) or inspect.isclass(function):
        kind = "class" if inspect.isclass(function) else type(function).__name__
        _fail(here, f"expected a function, but {logic.function} is a {kind}")
    home = getattr(function, "__module__", None)
    if not isinstance(home, str) or not _is_allowed(home, allowed_modules()):
        source = f"comes from the module {home}" if isinstance(home, str) else "does not say which module it comes from"
        _fail(here, f"{logic.function} {source}, which is not allowed ({_told_allowed()}); name a function that is written there")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        _fail(here, f"{logic.function} is an async function, which cannot be used; expected one made with def")
    if inspect.isgeneratorfunction(function):
        _fail(here, f"{logic.function} is a generator function; expected one that returns a list of what it yields")
    _check_arguments(function, logic, path)
    return function  # type: ignore[no-any-return]


def _check_arguments(function: Callable[..., Any], logic: CustomLogic, path: FlowPath) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # one without a signature, such as a compiled one, is found out when it is called
    arguments = _ARGUMENTS[logic.form]
    try:
        signature.bind(*arguments, **logic.params)
    except TypeError as error:
        call = ", ".join((*arguments, *(f"{name}=..." for name in logic.params)))
        told = f"{logic.function} cannot be called as {logic.function.partition(':')[2]}({call}) in the form {logic.form}"
        _fail((*path, "params" if logic.params else "function"), f"{told}: {error}; it is defined with {signature}", error)


def _import(name: str, path: FlowPath) -> Any:
    importlib.invalidate_caches()  # the file may be newer than what was looked at before
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            _fail(path, f"there is no module {error.name}; install it, or start from the folder that holds it", error)
        _fail(path, f"the module {name} cannot be imported: {error}", error)
    except (Exception, SystemExit) as error:
        _fail(path, f"the module {name} cannot be imported: {type(error).__name__}: {error}", error)


def _refusal(function: str) -> str | None:
    match = re.fullmatch(FUNCTION, function)
    if match is None:
        return f"expected module:function, such as 'my_company.flows:convert', got {function!r}"
    dunder = next((part for part in re.split(r"[.:]", function) if part.startswith("__")), None)
    if dunder is not None:
        return f"{dunder!r} in {function!r} is Python's own; expected names that do not begin with two underscores"
    if not _is_allowed(match["module"], allowed_modules()):
        return (
            f"the module {match['module']} is not allowed ({_told_allowed()}); allow it with --allow-module {match['module']} "
            f"or the environment variable {CUSTOM_MODULES}"
        )
    return None


def _is_allowed(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)


def _told_allowed() -> str:
    return f"allowed: {', '.join(allowed_modules()) or 'none'}"


def _checked(names: Iterable[str], source: str) -> tuple[str, ...]:
    found = tuple(names)
    for name in found:
        if not re.fullmatch(MODULE, name):
            raise ConfigError(f"{source}: expected names of modules, such as my_company.flows, got {name!r}", path=source)
    return found


def _fail(path: FlowPath, message: str, cause: BaseException | None = None) -> NoReturn:
    where = format_path(path)
    errors = [{"path": where, "line": None, "message": message}]
    raise FlowError(f"{where}: {message}", path=where, errors=errors, count=1) from cause
