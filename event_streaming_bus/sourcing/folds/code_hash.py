"""A hash of Python code that changes with what the code does, and with nothing else where that can be told.

It covers the functions and classes given and, by name and step by step, all that they use of the same top-level package:
functions, classes and their bases, the values of constants (numbers, text, lists, dicts, sets, tables of functions), the fields
of structs and dataclasses that annotations name. What comes from other packages counts by its name alone. What is only found
while the code runs (``getattr``, an import within a function) does not count: ``fold_version`` is there for that.

Of a function whose source is at hand the syntax tree counts, without comments, docstrings and layout: the same in every process
and Python version. The source is only believed if it compiles to the very code that runs, since the file may have been
edited since it was imported. Without it the bytecode counts, which differs between minor versions of Python.
"""

import ast
import contextlib
import dataclasses
import enum
import functools
import hashlib
import inspect
import linecache
import re
import typing
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, ModuleType, NoneType
from typing import Any, Final

import msgspec

_PLAIN: Final = (int, float, complex, str, bytes, bool, NoneType)
_SKIPPED_FIELDS: Final = frozenset({"type_comment", "kind", "ctx", "type_ignores"})
_MAX_DEPTH: Final = 12
_OURS: Final = "event_streaming_bus"


def code_hash(*roots: Callable[..., Any]) -> str:
    """The hash of functions and classes, as 32 hexadecimal digits."""
    walk = _Walk({home for root in roots if (home := _package(root)) is not None})
    for root in roots:
        walk.visit(root)
    return hashlib.sha256("\n".join(sorted(walk.parts)).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def shape(node: object) -> str:
    """A syntax tree as text: the same in every Python version, and for every layout of the same code."""
    if isinstance(node, ast.AST):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node = _without_docstring(node)
        fields = [(name, value) for name, value in ast.iter_fields(node) if name not in _SKIPPED_FIELDS]
        # Fields that a version of Python does not know are empty in another one: leave out what is empty.
        told = ", ".join(f"{name}={shape(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({told})"
    if isinstance(node, list):
        return f"[{', '.join(map(shape, node))}]"
    return repr(node)


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            fields = {**dict(ast.iter_fields(node)), "body": rest or [ast.Pass()]}
            return type(node)(**fields)
    return node


class _Walk:
    """Walks from the roots over all that counts; ``parts`` are lines of text about it."""

    def __init__(self, packages: set[str]) -> None:
        self.parts: list[str] = []
        self._packages = packages
        self._seen: dict[int, object] = {}
        self._sources: dict[str, _Source] = {}

    def visit(self, thing: object) -> None:
        """Note a function or class of the user's package, once."""
        if id(thing) in self._seen:
            return
        self._seen[id(thing)] = thing  # kept, so that no other object gets its id
        if isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, FunctionType):
            self._function(thing)

    def told(self, value: object, depth: int = 0) -> str:
        """What a value counts as; functions and classes of the user's package are noted, too."""
        if depth > _MAX_DEPTH:
            return "..."
        if isinstance(value, enum.Enum):
            self._note(type(value))
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, CodeType):
            return self._bytecode(value)
        if isinstance(value, list | tuple):
            return f"[{', '.join(self.told(each, depth + 1) for each in value)}]"
        if isinstance(value, set | frozenset):
            return f"{{{', '.join(sorted(self.told(each, depth + 1) for each in value))}}}"
        if isinstance(value, dict | MappingProxyType):
            pairs = (f"{self.told(key, depth + 1)}: {self.told(each, depth + 1)}" for key, each in value.items())
            return f"{{{', '.join(pairs)}}}"
        if isinstance(value, re.Pattern):
            return f"pattern {value.pattern!r} {value.flags}"
        return self._told_object(value, depth)

    def _told_object(self, value: Any, depth: int) -> str:
        if isinstance(value, ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, functools.partial):
            return f"partial {self.told([value.func, value.args, value.keywords], depth + 1)}"
        if isinstance(value, staticmethod | classmethod):
            return self.told(value.__func__, depth + 1)
        if isinstance(value, property):
            return self.told([value.fget, value.fset], depth + 1)
        if typing.get_origin(value) is not None or isinstance(value, type | FunctionType):
            return self.type_text(value)
        wrapped = inspect.getattr_static(value, "__wrapped__", None)  # runs no code of the object's
        if callable(wrapped):
            return self.told(wrapped, depth + 1)
        kind = type(value)
        if self._is_ours(kind):
            self.visit(kind)
            with contextlib.suppress(TypeError):
                return f"{kind.__qualname__} {self.told(vars(value), depth + 1)}"
        name = value.__qualname__ if isinstance(value, BuiltinFunctionType) else ""
        # Between versions of Python the parts in C of a library change places: _collections, collections.
        return f"{kind.__module__.lstrip('_')}.{kind.__qualname__} {name}"

    def type_text(self, kind: Any) -> str:
        """A type, class or function by its name; those of the user's package without their module, and noted."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is not None:
            return f"{self.type_text(origin)}[{', '.join(map(self.type_text, arguments))}]"
        if isinstance(kind, type | FunctionType):
            if self._is_ours(kind):
                self.visit(kind)
                return kind.__qualname__
            return f"{kind.__module__}.{kind.__qualname__}"
        return self.told(kind) if isinstance(kind, _PLAIN) else repr(kind)

    def _note(self, kind: type) -> None:
        if self._is_ours(kind):
            self.visit(kind)

    def _is_ours(self, thing: object) -> bool:
        return _package(thing) in self._packages

    # --- classes --------------------------------------------------------------------------------------------------------

    def _class(self, kind: type) -> None:
        bases = [self.type_text(base) for base in kind.__bases__]
        lines = [f"class {kind.__qualname__} of {bases}"]
        lines += [f"{name}: {self.type_text(hint)}" for name, hint in _hints(kind).items()]
        lines += [f"default of {name}: {text}" for name, text in self._defaults(kind)]
        if issubclass(kind, enum.Enum):
            lines += [f"{name} = {self.told(member.value)}" for name, member in kind.__members__.items()]
        for name, value in vars(kind).items():
            if isinstance(value, FunctionType):
                if self._is_ours(value) and not _is_generated(kind, name, value):
                    lines.append(f"def {name}")
                    self.visit(value)
            elif issubclass(kind, enum.Enum) and (name.startswith("_") or name in kind.__members__):
                continue  # what the library keeps there, and members, which are told already
            elif not name.startswith("__") and type(value).__name__ not in ("member_descriptor", "getset_descriptor"):
                lines.append(f"{name} = {self.told(value)}")
        self.parts.append("; ".join(lines))

    def _defaults(self, kind: type) -> Iterator[tuple[str, str]]:
        if issubclass(kind, msgspec.Struct):
            for field in msgspec.structs.fields(kind):
                default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
                told = "none" if default is msgspec.NODEFAULT else self.told(default)
                yield field.name, f"{told} written {field.encode_name}"
        elif dataclasses.is_dataclass(kind):
            for each in dataclasses.fields(kind):
                default = each.default if each.default is not dataclasses.MISSING else each.default_factory
                yield each.name, "none" if default is dataclasses.MISSING else self.told(default)

    # --- functions ------------------------------------------------------------------------------------------------------

    def _function(self, function: FunctionType) -> None:
        code = function.__code__
        if str(function.__globals__.get("__name__")).partition(".")[0] in self._packages:
            source = self._sources.get(code.co_filename)
            if source is None:
                source = self._sources[code.co_filename] = _Source(code.co_filename, function.__globals__)
            text, names = source.shape_of(code) or self._bytecode(code), sorted(_names(code))
        else:  # a library's wrapper around a function of the user's, which is in its closure
            text, names = f"{function.__globals__.get('__name__')}.{code.co_name}", []
        lines = [f"def {function.__qualname__}: {text}"]
        if function.__defaults__ or function.__kwdefaults__:
            lines.append(f"defaults {self.told([function.__defaults__, function.__kwdefaults__])}")
        lines += [f"{name}: {self.type_text(hint)}" for name, hint in _hints(function).items()]
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # an empty cell
                lines.append(f"{name} = {self.told(cell.cell_contents)}")
        for name in names:
            if name in function.__globals__:
                lines += self._global(name, function.__globals__[name], names)
        self.parts.append("; ".join(lines))

    def _global(self, name: str, value: object, names: list[str]) -> Iterator[str]:
        yield f"{name} = {self.told(value)}"
        if isinstance(value, ModuleType) and self._is_ours(value):
            # Which names are those of the module cannot be told from the bytecode; one too many does no harm.
            for inner in names:
                if inner in vars(value):
                    yield f"{name}.{inner} = {self.told(vars(value)[inner])}"

    def _bytecode(self, code: CodeType) -> str:
        return f"{code.co_code.hex()} {self.told(code.co_consts)} {code.co_names} {code.co_varnames} {code.co_argcount}"


class _Source:
    """The source of a module, as far as it is that of the code that runs."""

    def __init__(self, file: str, module_globals: dict[str, Any]) -> None:
        self._tree: ast.Module | None = None
        self._codes: set[CodeType] = set()
        linecache.checkcache(file)
        text = "".join(linecache.getlines(file, module_globals))
        with contextlib.suppress(SyntaxError, ValueError, RecursionError):
            self._codes = set(_codes(compile(text, file, "exec", dont_inherit=True)))
            self._tree = ast.parse(text)

    def shape_of(self, code: CodeType) -> str | None:
        """The shape of a function's definition; None if there is no source of it."""
        if self._tree is None or code not in self._codes:
            return None
        found = [node for node in ast.walk(self._tree) if _is_definition(node, code)]
        return shape(found[0]) if len(found) == 1 else None


def _is_definition(node: ast.AST, code: CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
        return node.name == code.co_name and first == code.co_firstlineno
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _is_generated(kind: type, name: str, function: FunctionType) -> bool:
    """Whether a library has written the method, as the ``__init__`` of a dataclass: it then follows from the fields."""
    is_made = dataclasses.is_dataclass(kind) or issubclass(kind, tuple)
    by_library = function.__code__.co_filename == "<string>" or function.__globals__.get("__name__") != kind.__module__
    return is_made and by_library and name.startswith("__") and name != "__post_init__"


def _names(code: CodeType) -> set[str]:
    return {name for each in _codes(code) for name in each.co_names}


def _hints(thing: type | FunctionType) -> dict[str, Any]:
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except Exception:  # an annotation that only type checkers can resolve: it counts as it is written
        return inspect.get_annotations(thing)


def _package(thing: object) -> str | None:
    """The top-level package of a function, class or module; None for those of the bus itself."""
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    package = name.partition(".")[0] if isinstance(name, str) else None
    return None if package == _OURS else package
