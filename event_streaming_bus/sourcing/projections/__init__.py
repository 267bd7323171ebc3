"""Read models: tables that are kept up to date with the events of aggregates, declared in files or as classes."""

from event_streaming_bus.sourcing.projections.classes import Projection, projects
from event_streaming_bus.sourcing.projections.definition import ProjectionDefinition
from event_streaming_bus.sourcing.projections.service import ProjectionService
from event_streaming_bus.sourcing.projections.tables import Table, Tables

__all__ = ["Projection", "ProjectionDefinition", "ProjectionService", "Table", "Tables", "projects"]
