"""Enrichment: what a processor does that adds to events, and otherwise leaves them as they are. History tells it apart.

Such are a JOIN by lookup, for the events of its left side, and a MAP that only sets fields. The rows of the lookup's table, on
its right side, are processed as any event is.
"""

from collections.abc import Sequence

from event_streaming_bus.flows.folds.base import LEFT
from event_streaming_bus.flows.plan import Edge, Node
from event_streaming_bus.flows.processors.join import JoinLogic
from event_streaming_bus.flows.processors.map import MapLogic, MapMode
from event_streaming_bus.models import ProcessingStage


def history_stages(roots: Sequence[Edge]) -> dict[int, str]:
    """The stage that history tells of each processor that runs behind ``roots``, by its number."""
    stages: dict[int, str] = {}

    def visit(edges: Sequence[Edge]) -> None:
        for edge in edges:
            node = edge.node
            is_known = node.number in stages
            if enriches(node, edge.side):
                stages[node.number] = ProcessingStage.ENRICHMENT.value
            else:
                stages.setdefault(node.number, ProcessingStage.PROCESSING.value)
            if not is_known:
                visit(node.error_children if node.has_state else (*node.children, *node.error_children))

    visit(roots)
    return stages


def enriches(node: Node, side: int) -> bool:
    """Whether the processor only adds to the events that it reads on this side."""
    logic = node.spec.processing_logic
    if isinstance(logic, JoinLogic):
        return logic.lookup is not None and side == LEFT
    if not isinstance(logic, MapLogic) or logic.mode is not MapMode.MERGE or not logic.fields:
        return False
    takes_away = logic.select is not None or logic.drop or logic.rename or logic.flatten is not None
    return not takes_away and logic.key is None and logic.event_type is None
