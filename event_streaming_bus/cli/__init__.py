"""The command line: ``esb``."""

from event_streaming_bus.cli.main import main

__all__ = ["main"]
