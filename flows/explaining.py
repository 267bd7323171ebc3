"""Why a processor failed on an event, in words."""

from event_streaming_bus.expressions import Expression
from event_streaming_bus.flows.plan import Node
from event_streaming_bus.flows.processors import kind_of
from event_streaming_bus.models import Event


def explain(node: Node, error: Exception, event: Event) -> str:
    """A sentence on why the processor failed on the event: for an expression, which field was null or of a wrong type."""
    for expression in kind_of(node.spec).expressions(node.spec.processing_logic):
        told = _explain_expression(expression, error, event)
        if told is not None:
            return told
    return str(error)


def _explain_expression(expression: Expression, error: Exception, event: Event) -> str | None:
    try:
        expression.compile()(event)
    except Exception as again:
        if type(again) is type(error):
            return f"{expression.text}: {expression.explain(again, event)}"
    return None
