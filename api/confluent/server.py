"""The registry's server process: nothing but its Confluent surface, beside whatever else uses the data folder."""

import asyncio
from contextlib import closing

import click

from event_streaming_bus.access.settings import AccessSettings
from event_streaming_bus.access.tokens import TokenService
from event_streaming_bus.api.access import guarding
from event_streaming_bus.api.app import HEADERS
from event_streaming_bus.api.audit_recording import Recorder, recording
from event_streaming_bus.api.confluent.app import registry_app
from event_streaming_bus.api.server import (
    AuthMode,
    access_of,
    check_reach,
    hosts_of,
    listening,
    run,
    told_of,
    url_of,
)
from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.store.storage import Storage


def serve_registry(storage: Storage, host: str, port: int, *, allow_remote: bool = False, auth: AuthMode = "auto") -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Clients say who they are as those of ``serve`` do, and what they
    change is in the audit.

    The data folder may be served by other processes at the same time: what one registers, all of them see. Raises ``InUseError``
    for a port that is taken, and ``InvalidInputError`` for an address that others can reach, unless ``allow_remote``.
    """
    try:
        check_reach(host, allow_remote)
        with (
            listening(host, port) as listener,
            closing(AuditService(storage)) as audit,
            closing(TokenService(storage)) as tokens,
        ):
            hosts = hosts_of(host, allow_remote)
            access = access_of(auth, storage, tokens, audit, AccessSettings())
            recorder = Recorder(storage, audit, tokens)
            app = registry_app(SchemaRegistryService(storage).subjects, hosts=hosts, headers=HEADERS, at_root=True)
            guarded = guarding(access, recorder, hosts=hosts, headers=HEADERS)(recording(recorder)(app))
            click.echo(f"serving the schema registry of {storage.folder} on {url_of(host, listener)}")
            click.echo(told_of(access, tokens))
            run(guarded, listener)
            asyncio.run(recorder.close())
    finally:
        storage.close()
    return 0
