"""Dry runs of flows: what one would do with the newest events of its streams, without doing it.

Each runs in a process of its own, which is ended if it takes too long: a flow is the caller's program, and the server has other
things to do. The process copies the events to a folder of its own, which is gone afterwards.
"""

import asyncio
import sys
from typing import Any, Final

import msgspec

from event_streaming_bus import errors
from event_streaming_bus.errors import BusError, FlowError, InvalidInputError, InvalidStateError, StreamNotFoundError
from event_streaming_bus.flows.samples import copy_events, newest
from event_streaming_bus.flows.spec import FlowSpec, parse_flow, to_data
from event_streaming_bus.flows.trial import DeadEvent, LateEvent, TrialResult, sources_of, trial
from event_streaming_bus.models import Event, StreamInfo, rfc3339
from event_streaming_bus.store.storage import Storage, open_storage

DEFAULT_EVENTS: Final = 1000
MAX_EVENTS: Final = 10_000
MAX_SHOWN: Final = 100
TIMEOUT_S: Final = 60.0
_AT_ONCE: Final = 2


class _Asked(msgspec.Struct):
    """What the process is to do; ``url`` opens the storage, and goes over a pipe, since it may hold a password."""

    url: str
    flow: dict[str, Any]
    last: int


class _Told(msgspec.Struct):
    """What came of it: a result, or the name, the message and the details of an error."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    message: str = ""
    details: dict[str, Any] = {}


class FlowTrials:
    """Runs dry runs, two at a time. Belongs to one event loop."""

    def __init__(self, storage: Storage) -> None:
        self._url = storage.url
        self._running = 0

    async def run(self, spec: FlowSpec, last: int) -> bytes:
        """What the flow would do with the ``last`` newest events of each stream that it reads, as JSON.

        Raises ``StreamNotFoundError`` if none of these is there, what deploying the flow raises, ``InvalidStateError`` if others
        have their dry runs at the moment, and ``InvalidInputError`` if it takes more than a minute.
        """
        if not 1 <= last <= MAX_EVENTS:
            raise InvalidInputError(f"last: expected 1 to {MAX_EVENTS:,}, got {last:,}", path="last")
        if self._running >= _AT_ONCE:
            raise InvalidStateError("Other dry runs are at work; try again when they are done.")
        self._running += 1
        try:
            return await self._run(_Asked(self._url, to_data(spec), last))
        finally:
            self._running -= 1

    async def _run(self, asked: _Asked) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "event_streaming_bus.api.flow_trials"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(msgspec.json.encode(asked)), TIMEOUT_S)
        except TimeoutError:
            raise InvalidInputError(
                f"last: the dry run took more than {TIMEOUT_S:.0f} s; ask for fewer events than {asked.last:,}", path="last"
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        told = msgspec.json.decode(out.rpartition(b"\n")[2] or b'{"error":"BusError","message":"The dry run ended."}', type=_Told)
        if told.error is None:
            return bytes(told.result)
        kind = getattr(errors, told.error, FlowError)
        raise kind(told.message, **told.details)


# --- in the process ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Do what standard input says, and tell of it in the last line of standard output."""
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=_Asked)
    try:
        told = _Told(result=msgspec.Raw(msgspec.json.encode(_tried(asked))))
    except BusError as error:
        told = _Told(error=type(error).__name__, message=error.message, details=error.details)
    sys.stdout.write("\n" + msgspec.json.encode(told, enc_hook=str).decode())


def _tried(asked: _Asked) -> dict[str, Any]:
    spec = msgspec.structs.replace(parse_flow(asked.flow, name="flow"), tests=())
    storage = open_storage(asked.url)
    infos = _there(spec, storage)
    read = [name for name in sources_of(spec) if name in infos]
    if not read:
        raise StreamNotFoundError("None of the streams that the flow reads is there, so there are no events to run it over.")
    with trial() as tried:
        storage.schemas.copy_to(tried.storage.schemas, spec.tenant_id)
        tried.prepare(spec, {info.stream_id: info for info in infos.values()}.values())
        counts, is_partial = {}, False
        for info in {infos[name].stream_id: infos[name] for name in read}.values():
            begins, ends = newest(storage.log, info, asked.last), storage.log.end_offsets(info.stream_id)
            is_partial = is_partial or begins != storage.log.begin_offsets(info.stream_id)
            counts[info.name] = copy_events(storage.log, tried.log, begins, ends)
        return {"read": counts, "partial": is_partial, **_told_of(tried.run(most=MAX_SHOWN))}


def _there(spec: FlowSpec, storage: Storage) -> dict[str, StreamInfo]:
    """The streams of the flow that are there, by what the flow calls them."""
    infos: dict[str, StreamInfo] = {}
    for name in (*(stream.name for stream in spec.streams), *spec.streams_used()):
        try:
            infos[name] = storage.log.find_stream(spec.tenant_id, name)
        except StreamNotFoundError:
            continue  # the flow would make it, or the trial does
    return infos


def _told_of(result: TrialResult) -> dict[str, Any]:
    return {
        "processors": [msgspec.to_builtins(each) for each in result.metrics],
        "written": [
            {"stream": stream, "count": result.written[stream], "events": [_event(event) for event in events]}
            for stream, events in result.outputs.items()
        ],
        "late_count": result.late_count,
        "late": [_late(each) for each in result.late],
        "dead_count": result.dead_count,
        "dead": [_dead(each) for each in result.dead],
    }


def _event(event: Event) -> dict[str, Any]:
    told = {"event_id": event.event_id, "event_type": event.event_type, "timestamp": rfc3339(event.timestamp_ms)}
    return told | {"key": event.key} | event.payload_data()


def _late(late: LateEvent) -> dict[str, Any]:
    window = {"window_start": rfc3339(late.window_start_ms), "window_end": rfc3339(late.window_end_ms)}
    return {"processor": late.processor, **window, **_event(late.event)}


def _dead(dead: DeadEvent) -> dict[str, Any]:
    why = {"processor": dead.processor, "stream": dead.stream, "error_type": dead.error_type, "reason": dead.reason}
    return why | _event(dead.event)


if __name__ == "__main__":
    main()
