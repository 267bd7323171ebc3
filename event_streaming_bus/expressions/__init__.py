"""The expression language of flows and business rules: a safe subset of Python's expressions, compiled to native code."""

from event_streaming_bus.expressions.expression import ENVELOPE_NAMES, Expression, Scope, parse
from event_streaming_bus.expressions.functions import NAMESPACE, get_path

__all__ = ["ENVELOPE_NAMES", "NAMESPACE", "Expression", "Scope", "get_path", "parse"]
