"""Finds the class of a fold by its text: ``module:Class``, or ``file.py:Class``."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, NoReturn

from event_streaming_bus.flows.checker import Problems, suggest
from event_streaming_bus.flows.custom_functions import allowed_modules, check_function
from event_streaming_bus.sourcing.folds.aggregate import Aggregate
from event_streaming_bus.sourcing.folds.user_code import explained
from event_streaming_bus.sourcing.sourcing_errors import FoldConfigError


def load_aggregate(name: str, folder: Path | None = None) -> type[Aggregate]:
    """The class of this name, imported, which runs the code of its module. Raises ``FoldConfigError``.

    Modules must be allowed, as for the functions of CUSTOM processors: by ``ESB_CUSTOM_MODULES`` or ``--allow-module``. A file is
    looked for in ``folder``; without one none is loaded, so leave it out where the name comes from others.
    """
    where, _, class_name = name.rpartition(":")
    if where.endswith(".py"):
        if folder is None:
            _fail(f"{name}: files cannot be loaded here; name a module that is allowed")
        if not class_name.isidentifier():
            _fail(f"expected file.py:Class, got {name!r}")
        module = _module_of_file(folder / where)
    else:
        problems = Problems()
        if not check_function(name, (), problems):
            _fail(problems.found[0].message.replace("module:function", "module:Class or file.py:Class"))
        module = _module(where)
    found = vars(module).get(class_name)
    if found is None:
        known = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Aggregate)]
        _fail(f"{where} has no class {class_name!r}{suggest(class_name, known)}")
    if not isinstance(found, type) or not issubclass(found, Aggregate):
        _fail(f"{name} is no class that derives from Aggregate")
    if not where.endswith(".py") and not _is_allowed(found.__module__):
        _fail(f"{name} comes from the module {found.__module__}, which is not allowed; name the class where it is written")
    return found


def _is_allowed(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed_modules())


def _module(name: str) -> Any:
    importlib.invalidate_caches()  # the file may be newer than what was looked at before
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            _fail(f"there is no module {error.name}; install it, or start from the folder that holds it", error)
        _fail(f"the module {name} cannot be imported: {error}", error)
    except (Exception, SystemExit) as error:
        _fail(f"the module {name} cannot be imported: {explained(error)}", error)


def _module_of_file(path: Path) -> Any:
    """A file as a module of its own, under a name that no other has; read anew each time."""
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        _fail(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # where annotations that are text are looked up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        _fail(f"{path.name} cannot be imported: {explained(error)}", error)
    return module


def _fail(message: str, cause: BaseException | None = None) -> NoReturn:
    raise FoldConfigError(message) from cause
