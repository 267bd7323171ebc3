"""Reads folds that are declared in a file (YAML, JSON or TOML): one, or several under ``folds``."""

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.errors import BusError, FlowError
from event_streaming_bus.flows.checker import (
    BAD,
    Field,
    Path,
    Problems,
    Reader,
    Table,
    choice,
    dotted_path,
    format_path,
    integer,
    json_value,
    list_of,
    mapping_of,
    paths_apart,
    read_table,
    required,
    suggest,
    text,
)
from event_streaming_bus.flows.findings import Severity
from event_streaming_bus.flows.flow_file import SUFFIXES, read_flow_file
from event_streaming_bus.flows.inference import infer
from event_streaming_bus.flows.types import ANY, INTEGER, TEXT, Others, Type, object_of, or_null
from event_streaming_bus.registry.migrations import MigrationConfig
from event_streaming_bus.registry.semantic_versions import is_version
from event_streaming_bus.sourcing.folds.base import Fold
from event_streaming_bus.sourcing.folds.class_fold import ClassFold
from event_streaming_bus.sourcing.folds.class_loading import load_aggregate
from event_streaming_bus.sourcing.folds.declared import DeclaredFold, DeclaredSpec, Otherwise, Step
from event_streaming_bus.sourcing.folds.fold_expressions import read_expression
from event_streaming_bus.sourcing.folds.state_types import read_type
from event_streaming_bus.sourcing.folds.upcasts import Upcasting, declared_upcast
from event_streaming_bus.sourcing.sourcing_errors import FoldConfigError

_TYPE: Final = text(r"\S(.*\S)?", "a type as text, without space around it", 200)


class DeclaredFolds(NamedTuple):
    """A fold of a file and the type of aggregate it is for."""

    aggregate_type: str
    fold: Fold[Any]


def read_fold_file(path: FilePath) -> list[DeclaredFolds]:
    """The folds of a file. Raises ``FoldConfigError`` that lists every problem with its line and path.

    Classes that the file names are imported, which runs code: those of its own folder too, so only files of those who may run
    code are to be read.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise FoldConfigError(f"{path}: expected a file of folds ending in {', '.join(SUFFIXES)}", path="")
    try:
        document = read_flow_file(path)
        return read_folds(document.data, document.problems, path.parent)
    except FlowError as error:
        raise FoldConfigError(error.message, **error.details) from error.__cause__


def read_folds(data: object, problems: Problems | None = None, folder: FilePath | None = None) -> list[DeclaredFolds]:
    """The folds that plain data declares; the same that ``read_fold_file`` reads of a file.

    ``folder``: where files of classes lie; without one, no files are loaded. Raises ``FoldConfigError``.
    """
    problems = Problems() if problems is None else problems
    folds: list[DeclaredFolds] = []
    if isinstance(data, Mapping) and "folds" in data:
        read = read_table(data, (), {"folds": required(list_of(_fold_in(folder, problems.source), least=1))}, problems)
        folds = list(read["folds"]) if read else []
        seen: dict[str, int] = {}
        for i, each in enumerate(folds):
            if seen.setdefault(each.aggregate_type, i) != i:
                told = f"{each.aggregate_type!r} has a fold before, folds[{seen[each.aggregate_type]}]"
                problems.add(("folds", i, "aggregate_type"), told)
    else:
        one = _fold_in(folder, problems.source)(data, (), problems)
        folds = [] if one is BAD else [one]
    try:
        problems.raise_if_any()
    except FlowError as error:
        raise FoldConfigError(error.message, **error.details) from None
    return folds


def _fold_in(folder: FilePath | None, source: str | None) -> Reader:
    def read(value: object, path: Path, problems: Problems) -> Any:
        is_class = isinstance(value, Mapping) and "class" in value
        values = read_table(value, path, _CLASS if is_class else _DECLARED, problems)
        if values is None:
            return BAD
        upcasting = _upcasting(values, path, problems)
        if upcasting is None:
            return BAD
        if is_class:
            return _class_fold(values, path, problems, folder, upcasting)
        spec = _spec(values, path, problems)
        if spec is None:
            return BAD
        _check_types(spec, path, problems)
        return DeclaredFolds(spec.aggregate_type, DeclaredFold(spec, source or "", upcasting))

    return read


def _class_fold(values: dict[str, Any], path: Path, problems: Problems, folder: FilePath | None, upcasting: Upcasting) -> Any:
    try:
        fold = ClassFold(load_aggregate(values["class"], folder))
        fold = fold.upcasted_by(fold.upcasting.with_steps(upcasting.steps, None, upcasting.unversioned))
    except FoldConfigError as error:
        return problems.add((*path, "class"), error.message)
    return DeclaredFolds(values["aggregate_type"] or fold.aggregate_type, fold)


# --- the table ----------------------------------------------------------------------------------------------------------


def _object(value: object, path: Path, problems: Problems) -> Any:
    return json_value(value, path, problems) if isinstance(value, Mapping) else problems.reject(path, "a mapping", value)


def _version(value: object, path: Path, problems: Problems) -> Any:
    if isinstance(value, str) and is_version(value):
        return value
    hint = " (put it in quotes)" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""
    return problems.reject(path, "a version of two or three numbers, as in '1.0'", value, hint)


def _field(value: object, path: Path, problems: Problems) -> Any:
    """The dotted path of a field that is a key: a problem with it is told at the key."""
    return dotted_path(value, path, problems)


_UPCAST: Final[Table] = {
    "event_type": required(_TYPE),
    "from_version": required(_version),
    "fields": Field(_object, default={}),
    "remove": Field(list_of(text()), default=()),
}


def _upcast(value: object, path: Path, problems: Problems) -> Any:
    values = read_table(value, path, _UPCAST, problems)
    if values is None:
        return BAD
    where = format_path(path)
    try:
        config = msgspec.convert({"fields": values["fields"], "remove": list(values["remove"])}, MigrationConfig)
        return declared_upcast(values["event_type"], values["from_version"], config, where)
    except msgspec.ValidationError as error:
        return problems.add((*path, "fields"), f"expected expressions as text: {error}")
    except BusError as error:
        inner, _, message = error.message.removeprefix(where).lstrip(".").partition(": ")
        return problems.add((*path, *inner.split(".", 1)), message) if message else problems.add(path, error.message)


_COMMON: Final[Table] = {
    "upcasts": Field(list_of(_upcast), default=()),
    "unversioned": Field(_version),
}
_CLASS: Final[Table] = {"class": required(text()), "aggregate_type": Field(_TYPE), **_COMMON}
_DECLARED: Final[Table] = {
    "aggregate_type": required(_TYPE),
    "fold_version": Field(integer(1), default=1),
    "initial": Field(_object, default={}),
    "state": Field(mapping_of(text(), read_type), default=()),
    "apply": Field(mapping_of(_TYPE, mapping_of(_field, read_expression)), default=()),
    "merge": Field(list_of(_TYPE), default=()),
    "remove": Field(mapping_of(_TYPE, list_of(dotted_path, least=1)), default=()),
    "ignore": Field(list_of(_TYPE), default=()),
    "otherwise": Field(choice([word.value for word in Otherwise]), default=Otherwise.IGNORE.value),
    **_COMMON,
}


def _upcasting(values: dict[str, Any], path: Path, problems: Problems) -> Upcasting | None:
    try:
        return Upcasting(values["upcasts"], unversioned=values["unversioned"])
    except FoldConfigError as error:
        problems.add((*path, "upcasts"), error.message)
        return None


def _spec(values: dict[str, Any], path: Path, problems: Problems) -> DeclaredSpec | None:
    before = len(problems.found)
    applied, removed = dict(values["apply"]), dict(values["remove"])
    for event_type, fields in applied.items():
        named = ((".".join(field), field) for field, _ in fields)
        paths_apart(named, "set", (*path, "apply", event_type), problems)
    for i, event_type in enumerate(values["ignore"]):
        if event_type in applied or event_type in removed or event_type in values["merge"]:
            problems.add((*path, "ignore", i), f"{event_type} is not ignored: it is named elsewhere")
    steps = {
        event_type: Step(event_type in values["merge"], applied.get(event_type, ()), removed.get(event_type, ()))
        for event_type in dict.fromkeys((*applied, *values["merge"], *removed, *values["ignore"]))
    }
    if not steps and values["otherwise"] == Otherwise.IGNORE:
        problems.add(path, "the fold applies nothing: expected 'apply', 'merge' or 'remove', or 'otherwise: merge'")
    if len(problems.found) > before:
        return None
    return DeclaredSpec(
        aggregate_type=values["aggregate_type"],
        fold_version=values["fold_version"],
        initial=values["initial"],
        types=dict(values["state"]),
        steps=steps,
        otherwise=Otherwise(values["otherwise"]),
    )


# --- types --------------------------------------------------------------------------------------------------------------


def _check_types(spec: DeclaredSpec, path: Path, problems: Problems) -> None:
    """Report what cannot work by the types of the state; without types, nothing is known of it."""
    if spec.types:
        for name, kind in spec.types.items():
            if name in spec.initial or kind.word.startswith("any"):
                _check_value(kind.check, name, spec.initial.get(name), (*path, "initial", name), problems)
            elif not kind.word.endswith("?"):
                told = f"has no initial value; give it one in 'initial', or let it be null: {kind.word}?"
                problems.add((*path, "state", name), told)
        merges = spec.otherwise is Otherwise.MERGE or any(step.merge for step in spec.steps.values())
        for name in () if merges else [name for name in spec.initial if name not in spec.types]:
            problems.add((*path, "initial", name), f"'state' names no such field{suggest(name, spec.types)}")
    for event_type, step in spec.steps.items():
        for field, expression in step.fields:
            here = (*path, "apply", event_type, ".".join(field))
            found: list[str] = []

            def report(severity: Severity, code: str, message: str, found: list[str] = found) -> None:
                if severity is Severity.ERROR:
                    found.append(message)

            made = infer(expression, _root(spec), report)
            for message in found:
                problems.add(here, message)
            if not spec.types:
                continue
            if field[0] not in spec.types:
                problems.add(here, f"'state' names no field {field[0]!r}{suggest(field[0], spec.types)}")
                continue
            kind = spec.types[field[0]]
            if not found and len(field) == 1 and made.kinds and not (made.kinds & kind.kinds):
                problems.add(here, f"this is {made.told()}, but state.{field[0]} is {kind.word}")
        for i, field in enumerate(step.remove):
            removed = spec.types.get(field[0])
            if removed is not None and len(field) == 1 and not removed.word.endswith("?") and removed.word != "any":
                problems.add((*path, "remove", event_type, i), f"{field[0]} is {removed.word}, which null is not")


def _check_value(check: Any, name: str, value: object, path: Path, problems: Problems) -> None:
    try:
        check(name, value)
    except ValueError as error:
        problems.add(path, str(error))


def _root(spec: DeclaredSpec) -> Type:
    """What is known of the names of expressions."""
    merges = spec.otherwise is Otherwise.MERGE or any(step.merge for step in spec.steps.values())
    fields = {name: kind.type for name, kind in spec.types.items()}
    state = object_of(fields, Others.OPEN if merges or not fields else Others.CLOSED)
    texts = dict.fromkeys(("event_type", "event_id", "aggregate_id", "aggregate_type", "tenant_id"), TEXT)
    maybe = dict.fromkeys(("user_id", "correlation_id", "causation_id", "schema_id"), or_null(TEXT))
    numbers = dict.fromkeys(("version", "position", "timestamp", "recorded_at"), INTEGER)
    return object_of({"state": state, "payload": object_of({}, Others.OPEN), "metadata": ANY, **texts, **maybe, **numbers})
