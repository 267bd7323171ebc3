"""The registry's server process: nothing but its Confluent surface, beside whatever else uses the data folder."""

import click

from event_streaming_bus.api.app import HEADERS
from event_streaming_bus.api.confluent.app import registry_app
from event_streaming_bus.api.server import check_reach, hosts_of, listening, run, url_of
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.store.storage import Storage


def serve_registry(storage: Storage, host: str, port: int, *, allow_remote: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    The data folder may be served by other processes at the same time: what one registers, all of them see. Raises ``InUseError``
    for a port that is taken, and ``InvalidInputError`` for an address that others can reach, unless ``allow_remote``.
    """
    try:
        check_reach(host, allow_remote)
        with listening(host, port) as listener:
            hosts = hosts_of(host, allow_remote)
            app = registry_app(SchemaRegistryService(storage).subjects, hosts=hosts, headers=HEADERS, at_root=True)
            click.echo(f"serving the schema registry of {storage.folder} on {url_of(host, listener)}")
            run(app, listener)
    finally:
        storage.close()
    return 0
