"""Whether what a processor writes fits the schema of the stream that it is written to."""

from event_streaming_bus.flows.checker import FieldPath
from event_streaming_bus.flows.findings import Report, Severity
from event_streaming_bus.flows.types import NUMERIC, Kind, Others, Type

_BREAKS = (Severity.ERROR, "breaks-schema")
_MAY_BREAK = (Severity.WARNING, "may-break-schema")


def check_fit(output: Type, wanted: Type, stream: str, report: Report) -> None:
    """Report where a payload of the type ``output`` does not fit ``wanted``, the type that the schema of ``stream`` gives."""
    _Fit(f"the schema of {stream}", report).check(output, wanted, ())


class _Fit:
    def __init__(self, schema: str, report: Report) -> None:
        self._schema = schema
        self._report = report

    def check(self, output: Type, wanted: Type, path: FieldPath) -> None:
        told = ".".join(path) or "the payload"
        if output.kinds is not None and wanted.kinds is not None:
            if not output.kinds & _with_equal_numbers(wanted.kinds):
                self._report(*_BREAKS, f"{told} is {output.told()}, but {self._schema} wants {wanted.told()}")
                return
            if output.nullable and not wanted.nullable:
                self._report(*_MAY_BREAK, f"{told} may be null, but {self._schema} wants {wanted.told()}")
        if output.values and wanted.values and not any(value in wanted.values for value in output.values):
            self._report(*_BREAKS, f"{told} is never one of the values that {self._schema} lists")
        for name, field in wanted.fields.items():
            self._check_field(output, name, field, (*path, name))
        if wanted.others is Others.CLOSED:
            for name in output.fields.keys() - wanted.fields.keys():
                self._check_extra(output.fields[name], ".".join((*path, name)))

    def _check_field(self, output: Type, name: str, wanted: Type, path: FieldPath) -> None:
        given = output.fields.get(name)
        told = ".".join(path)
        if given is None or (given.always_null and given.optional):
            if wanted.optional:
                return
            if output.others is Others.CLOSED or given is not None:
                self._report(*_BREAKS, f"the output never has the field {told}, which {self._schema} requires")
            elif output.others is Others.UNLISTED:
                self._report(*_MAY_BREAK, f"nothing says that the output has the field {told}, which {self._schema} requires")
            return
        if given.optional and not wanted.optional:
            self._report(*_MAY_BREAK, f"{told} may be missing, but {self._schema} requires it")
        self.check(given, wanted, path)

    def _check_extra(self, given: Type, told: str) -> None:
        if given.optional and given.always_null:
            return
        how = _MAY_BREAK if given.optional else _BREAKS
        self._report(*how, f"{self._schema} allows no field {told}")


def _with_equal_numbers(kinds: frozenset[Kind]) -> frozenset[Kind]:
    # A number without a fraction is an integer to JSON Schema, however it came about.
    return kinds | NUMERIC if kinds & NUMERIC else kinds
