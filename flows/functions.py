"""The user's functions of a flow's CUSTOM processors, loaded and ready to be called."""

from collections.abc import Callable, Iterable, Mapping

from event_streaming_bus.flows.custom_calls import Calls, calls_of
from event_streaming_bus.flows.custom_functions import load_function
from event_streaming_bus.flows.folds.base import Fold
from event_streaming_bus.flows.folds.custom import KeyedFold
from event_streaming_bus.flows.plan import Node
from event_streaming_bus.flows.processors.custom import CustomForm, CustomLogic
from event_streaming_bus.flows.retries import Retrier, once


def _never() -> bool:
    return False


def load_functions(nodes: Iterable[Node], stopping: Callable[[], bool] = _never) -> Mapping[int, Calls]:
    """What calls the functions of the CUSTOM processors without state among ``nodes``, by their number.

    Raises ``FlowError`` for a function that is not there or not allowed.
    """
    calls: dict[int, Calls] = {}
    for node in nodes:
        logic = node.spec.processing_logic
        if isinstance(logic, CustomLogic) and logic.form is not CustomForm.KEYED:
            calls[node.number] = calls_of(logic, load_function(logic, _place(node)), _retrier(node, stopping))
    return calls


def keyed_fold(node: Node, stopping: Callable[[], bool] = _never) -> Callable[[], Fold]:
    """What makes the fold of a CUSTOM with state. Raises ``FlowError`` as ``load_functions`` does."""
    logic = node.spec.processing_logic
    assert isinstance(logic, CustomLogic)  # noqa: S101 - the caller has looked
    function, retrier = load_function(logic, _place(node)), _retrier(node, stopping)
    return lambda: KeyedFold(function, logic.params, logic.state_ttl_ms, retrier)


def _place(node: Node) -> tuple[str | int, ...]:
    return ("processors", node.number, "processing_logic")


def _retrier(node: Node, stopping: Callable[[], bool]) -> Retrier:
    policy = node.spec.retry_policy
    return once() if policy is None else Retrier(policy, stopping)
