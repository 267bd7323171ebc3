"""Files that declare schemas, read with the lines of what is in them."""

import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from event_streaming_bus.cli.files import files_below
from event_streaming_bus.errors import FlowError, InvalidInputError
from event_streaming_bus.flows.flow_file import MAX_FILE_BYTES, read_flow_file
from event_streaming_bus.models import time_ms
from event_streaming_bus.registry.schema_files import SUFFIXES, DeclaredSchema, SchemaFile, declared_in

STDIN: Final = "standard input"


def read_files(paths: Iterable[str]) -> list[SchemaFile]:
    """What files declare. ``-`` is standard input; a folder stands for all files below it with one of the suffixes that are not
    hidden."""
    found: list[SchemaFile] = []
    for path in paths:
        if path == "-":
            found.append(_read_stdin())
        elif Path(path).is_dir():
            files = files_below(Path(path), SUFFIXES)
            if not files:
                raise InvalidInputError(f"{path}: there is no file below it that ends in {', '.join(SUFFIXES)}")
            found += map(_read, files)
        else:
            found.append(_read(Path(path)))
    return found


def read_one(path: str) -> DeclaredSchema:
    """The one schema that a file declares."""
    schemas = [schema for file in read_files([path]) for schema in file.schemas]
    if len(schemas) != 1:
        raise InvalidInputError(f"{STDIN if path == '-' else path}: expected one schema, got {len(schemas)}")
    return schemas[0]


def _read(path: Path) -> SchemaFile:
    if path.suffix.lower() == ".avsc":
        return declared_in(_avro_text(path), str(path))
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInputError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    document = read_flow_file(path)
    document.problems.raise_if_any()
    return declared_in(document.data, str(path), document.problems.line)


def _avro_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise InvalidInputError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes")
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise InvalidInputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path}: expected UTF-8 text, got bytes that are not") from None


def _read_stdin() -> SchemaFile:
    text = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    suffix = ".json" if text.lstrip()[:1] in (b"{", b"[") else ".yaml"
    with tempfile.NamedTemporaryFile(prefix="esb-", suffix=suffix) as file:
        file.write(text)
        file.flush()
        try:
            document = read_flow_file(Path(file.name))
            document.problems.raise_if_any()
        except FlowError as error:
            raise FlowError(error.message.replace(file.name, STDIN), **error.details) from None
    return declared_in(document.data, STDIN, document.problems.line)


def as_time(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """The callback of an option that is a time, RFC 3339 or epoch milliseconds: the time in epoch milliseconds."""
    try:
        return None if value is None else time_ms(int(value) if value.isdecimal() else value)
    except InvalidInputError as error:
        raise click.BadParameter(error.message.removeprefix("timestamp: ")) from None


def placed(error: InvalidInputError, declared: DeclaredSchema) -> InvalidInputError:
    """An error about a schema, with the file and the line in front."""
    details: Mapping[str, Any] = error.details
    return type(error)(declared.told(error.message), **details)
