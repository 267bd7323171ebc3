"""What the tests of projections share: a data folder with events of aggregates, and a build of a projection over them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.sourcing.projections.classes import Projection
from event_streaming_bus.sourcing.projections.definition import ProjectionDefinition
from event_streaming_bus.sourcing.projections.folding import Fold
from event_streaming_bus.sourcing.projections.reading import read_projection
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.projections import EventFailure
from event_streaming_bus.store.projections_base import ProjectionDatabase
from event_streaming_bus.store.projections_duckdb import DuckdbProjection
from event_streaming_bus.store.projections_sqlite import SqliteProjection
from event_streaming_bus.store.recorded import RecordedEvent
from event_streaming_bus.store.storage import Storage

STORES = ("sqlite", "duckdb")
TOTALS: dict[str, Any] = {
    "name": "totals",
    "from": {"aggregate_types": ["Order"]},
    "table": {"columns": {"customer": "text", "orders": "integer", "total": "number", "last": "timestamp"}, "key": ["customer"]},
    "on": {
        "order.placed": [
            {
                "upsert": {
                    "customer": "payload.customer",
                    "orders": "row.orders + 1",
                    "total": "row.total + payload.amount",
                    "last": "timestamp",
                }
            }
        ],
        "customer.left": [{"delete": {"customer": "payload.customer"}}],
    },
}


def event(
    position: int, event_type: str, payload: Any, aggregate_id: str = "a-1", aggregate_type: str = "Order"
) -> RecordedEvent:
    """An event at a position; it was recorded so many milliseconds after 2024."""
    at_ms = 1_704_067_200_000 + position
    data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    return RecordedEvent(position, aggregate_id, aggregate_type, 1, event_type, f"evt-{position}", at_ms, at_ms, data)


def events(*types_and_payloads: tuple[str, Any]) -> list[RecordedEvent]:
    """Events at the positions 1, 2, ..."""
    return [event(i, *each) for i, each in enumerate(types_and_payloads, 1)]


class Build:
    """A build of a projection in a folder, which is given events by hand."""

    def __init__(self, folder: Path, definition: ProjectionDefinition, cls: type[Projection] | None = None, **more: Any) -> None:
        self.definition = definition
        kind = DuckdbProjection if definition.store == "duckdb" else SqliteProjection
        self.database: ProjectionDatabase = kind(folder / f"build.{definition.store.value}", definition.tables)
        self.fold = Fold(definition, self.database, cls, **more)

    def project(self, *given: RecordedEvent) -> EventFailure | None:
        return self.fold.project(given, given[-1].position)

    def rows(self, table: str | None = None) -> list[dict[str, Any]]:
        shape = self.definition.table(table) if table else self.definition.tables[0]
        assert shape is not None
        return self.database.find(shape, {})


@contextmanager
def built(folder: Path, declared: Mapping[str, Any], cls: type[Projection] | None = None, **more: Any) -> Iterator[Build]:
    """A build of what is declared."""
    folder.mkdir(exist_ok=True)
    build = Build(folder, read_projection(declared, kept=cls is not None), cls, **more)
    try:
        yield build
    finally:
        build.database.close()


def place(storage: Storage, *orders: tuple[str, float], tenant_id: str = "default", event_type: str = "order.placed") -> int:
    """Append an order for each (customer, amount); the position of the last."""
    new = [NewEvent(event_type=event_type, event_data={"customer": customer, "amount": amount}) for customer, amount in orders]
    append = NewEvents(aggregate_id="order-1", aggregate_type="Order", events=new)
    return EventSourcingService(storage).append_now([append], tenant_id)[-1].position


def table(columns: Mapping[str, Any], key: Sequence[str]) -> dict[str, Any]:
    return {"columns": dict(columns), "key": list(key)}
