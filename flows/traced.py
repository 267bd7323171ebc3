"""The spans of a flow's stage: one for each recorded trace among the events of a chunk, which what is made of them comes from."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from event_streaming_bus.flows.outputs import NodeOutcome
from event_streaming_bus.flows.plan import Stage
from event_streaming_bus.flows.rows import ChunkRows
from event_streaming_bus.tracing.spans import begin, messaging
from event_streaming_bus.tracing.traceparent import sampled

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

PROCESS: Final = "process"


class TracedChunk:
    """The spans of a chunk that have begun. What is made of its events carries them: ``rows`` says so from now on."""

    def __init__(self, tracer: "Tracer", stage: Stage, flow: str, rows: ChunkRows) -> None:
        is_same, traceparent = rows.constant("traceparent")
        self._came_with = [traceparent] * rows.count if is_same else rows.column("traceparent")
        attributes = messaging(PROCESS, PROCESS, stage.source.name, stage.source.tenant_id) | {
            "messaging.consumer.group.name": flow,
            "esb.flow": flow,
            "esb.processors": [node.name for node in stage.nodes()],
        }
        counts = Counter({traceparent: rows.count}) if is_same else Counter(self._came_with)
        self._spans = begin(tracer, PROCESS, stage.source.name, counts, attributes, kind="CONSUMER")
        if self._spans is not None:
            rows.replace("traceparent", self._spans.traceparents(self._came_with))

    def end(self, nodes: Iterable[NodeOutcome]) -> None:
        """The chunk is processed. The spans of events that a processor failed on say so."""
        if self._spans is None:
            return
        for outcome in nodes:
            for error in outcome.errors:
                place = outcome.rows.roots[error.index]
                self._spans.failed(self._came_with[place], error.error_type, f"{outcome.node.name}: {error.message}")
        self._spans.end()

    def failed(self, error: BaseException) -> None:
        """The flow stops at this chunk."""
        if self._spans is not None:
            self._spans.end(error)


def carries_trace(rows: ChunkRows) -> bool:
    """Whether an event of the chunk may belong to a recorded trace. Cheap where none has a traceparent."""
    is_same, traceparent = rows.constant("traceparent")
    return sampled(traceparent) is not None if is_same else True
