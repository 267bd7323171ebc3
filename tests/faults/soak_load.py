"""The clients of the soak, each a process of its own: ``python soak_load.py ROLE NAME WORK``; ``WORK`` is the soak's folder.

What a client has been told to be done it notes in ``WORK/notes/NAME``, a line each, written at once; so whoever is started under
the same name after a kill goes on where the one before stopped: with the same ids, for what was not acknowledged. What the n-th
batch of a publisher holds follows from its name and n alone, so that whoever reads a stream can tell what must be there.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect as listen_to

from event_streaming_bus import EventConfig
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.client import ClientOptions, sync
from event_streaming_bus.errors import BusError
from event_streaming_bus.models import Event, Position
from event_streaming_bus.sourcing.model import NewEvent
from event_streaming_bus.store.aggregate_errors import VersionConflictError

BATCH_EVENTS: Final = 50
KEYS: Final = 10
AGGREGATES: Final = 20
POISON: Final = 0.002
"""The share of events on which the MAP fails, and the share that a routing rule sets aside."""
GROUP: Final = "readers"
_LATE_EVERY: Final = 40
"""One batch in so many tells of what is ``_LATE_MS`` ago: too late for its window."""
_LATE_MS: Final = 20_000
_OPTIONS: Final = ClientOptions(retry_for_s=3, answer_timeout_s=15)
_AFTER_ERROR_S: Final = 0.2
_BEHIND_S: Final = 1.0

Payload = dict[str, Any]


def batch_of(name: str, number: int) -> list[Payload]:
    """The payloads of a publisher's batch, but for the time."""
    chance = random.Random(f"{name} {number}")
    return [
        {
            "id": f"{name}-{number}-{i}",
            "k": f"k{chance.randrange(KEYS)}",
            "x": chance.randrange(8),
            "d": 0 if chance.random() < POISON else chance.randrange(1, 100),
            "amount": chance.randrange(1000),
            "is_urgent": chance.random() < 0.05,
            "is_bad": chance.random() < POISON,
            "note": "n" * chance.randrange(150),
        }
        for i in range(BATCH_EVENTS)
    ]


def is_paid(index: int) -> bool:
    """Whether the event with this index in its batch gets an event on the other side of the join."""
    return index % 5 == 0


class Stopping:
    """Whether the process has been asked to end."""

    def __init__(self) -> None:
        self.is_asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.is_asked = True


class Work:
    """The soak's folder, as a client sees it: where the server is, how fast to go, what was noted before."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.path = folder / "notes" / name
        self.before = self.path.read_text().split("\n")[:-1] if self.path.exists() else []
        # What a kill has cut short is no line: the next one begins anew.
        self._out = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n"):
            os.write(self._out, b"\n")
        self.stopping = Stopping()
        self.url = (folder / "url").read_text()
        self._next_s = time.monotonic()

    def note(self, *lines: str) -> None:
        os.write(self._out, "".join(f"{line}\n" for line in lines).encode())

    def last(self, kind: str) -> int:
        """The number in the last line of this kind, -1 if there is none."""
        return next((int(line.split()[1]) for line in reversed(self.before) if line.startswith(f"{kind} ")), -1)

    def numbers(self, share: float) -> Iterator[int]:
        """The numbers from the first one that was not acknowledged on, each when its time has come; without end."""
        number = self.last("A") + 1
        while not self.stopping.is_asked:
            rate = float((self.folder / "pace").read_text() or 0) * share
            now_s = time.monotonic()
            if rate <= 0:
                time.sleep(0.05)
                self._next_s = now_s
                continue
            if self._next_s > now_s:
                time.sleep(min(self._next_s - now_s, 0.25))
                continue
            self._next_s = max(self._next_s, now_s - _BEHIND_S) + 1 / rate
            yield number
            number += 1

    def until_done(self, work: Callable[[], Any]) -> tuple[Any, int, float]:
        """Try until it works: the result, the number of tries, and how many milliseconds the last one took."""
        tries = 0
        while True:
            tries += 1
            began_s = time.perf_counter()
            try:
                result = work()
            except (BusError, httpx.HTTPError) as error:
                if isinstance(error, VersionConflictError):
                    raise
                self.note(f"E {time.time():.1f} {type(error).__name__}: {str(error)[:200]!r}")
                if self.stopping.is_asked:
                    self.end()
                time.sleep(_AFTER_ERROR_S)
            else:
                return result, tries, (time.perf_counter() - began_s) * 1000

    def end(self) -> NoReturn:
        """End without an acknowledgement, as asked; whoever comes next does it again."""
        os._exit(0)


# --- publishers -------------------------------------------------------------------------------------------------------


Publish = Callable[[str, Sequence[Payload], str, int], None]


def _publish(work: Work, publish: Publish) -> None:
    for number in work.numbers(1.0):
        payloads = batch_of(work.name, number)
        paid = [{"id": payload["id"]} for i, payload in enumerate(payloads) if is_paid(i)]
        work.note(f"W {number}")

        def send(stream: str, what: Sequence[Payload], suffix: str, number: int = number) -> None:
            now_ms = time.time_ns() // 1_000_000
            time_ms = now_ms - _LATE_MS if number % _LATE_EVERY == _LATE_EVERY - 1 else now_ms
            publish(stream, [payload | {"at": now_ms} for payload in what], suffix, time_ms)

        _, tries, spent_ms = work.until_done(lambda p=payloads: send("in", p, ""))
        work.until_done(lambda p=paid: send("pays", p, "-pay"))
        work.note(f"A {number} {tries} {spent_ms:.2f} {time.time():.1f}")


def publish_rest(work: Work) -> None:
    """Batches over HTTP, by a client that knows nothing but HTTP."""
    with httpx.Client(base_url=work.url, timeout=15) as client:

        def publish(stream: str, payloads: Sequence[Payload], suffix: str, time_ms: int) -> None:
            events = [
                {"event_type": "sold", "event_id": p["id"] + suffix, "key": p["id"], "timestamp": time_ms, "payload": p}
                for p in payloads
            ]
            client.post("/api/v1/events/batch", json={"stream_id": stream, "events": events}).raise_for_status()

        _publish(work, publish)


def publish_sdk(work: Work) -> None:
    """Batches by the SDK, in the data folder; also while there is no server."""
    with open_bus(work.folder / "data") as bus:

        def publish(stream: str, payloads: Sequence[Payload], suffix: str, time_ms: int) -> None:
            configs = [EventConfig(event_type="sold", event_id=payload["id"] + suffix) for payload in payloads]
            keys, times_ms = [payload["id"] for payload in payloads], [time_ms] * len(payloads)
            bus.publishing.submit(configs, payloads, stream_id=stream, keys=keys, timestamps_ms=times_ms).result()

        _publish(work, publish)


# --- aggregates -------------------------------------------------------------------------------------------------------


def _append(work: Work, append: Callable[[str, NewEvent, int], int]) -> None:
    versions: dict[str, int] = {}
    for number in work.numbers(0.3):
        chance = random.Random(f"{work.name} {number}")
        account, amount = f"acc-{chance.randrange(AGGREGATES)}", chance.randrange(1000)
        event = NewEvent(event_type="moved", event_data={"amount": amount}, event_id=f"{work.name}-{number}")
        work.note(f"W {number}")
        while True:
            try:
                version, *_ = work.until_done(lambda a=account, e=event: append(a, e, versions.get(a, 0)))
                break
            except VersionConflictError as conflict:
                versions[account] = conflict.details["current_version"]
        # An append that is done again tells the version that it got at first.
        versions[account] = max(version, versions.get(account, 0))
        work.note(f"A {number} {account} {version} {amount}")


def append_rest(work: Work) -> None:
    """Appends at expected versions, by the client."""
    with sync.connect(work.url, options=_OPTIONS) as bus:
        _append(work, lambda a, e, version: bus.sourcing.append_events(a, "Account", [e], version)[0].version)


def append_sdk(work: Work) -> None:
    """Appends at expected versions, in the data folder."""
    with open_bus(work.folder / "data") as bus, asyncio.Runner() as runner:

        def append(account: str, event: NewEvent, version: int) -> int:
            return runner.run(bus.sourcing.append_events(account, "Account", [event], version))[0].version

        _append(work, append)


# --- consumers --------------------------------------------------------------------------------------------------------


def runs_of(positions: Sequence[Position]) -> Iterator[str]:
    """Lines that tell of neighbouring offsets: where they are, the first one, and the one behind the last."""
    begun: tuple[Any, int, int] | None = None
    for split, offset in sorted((str(each.split), each.offset) for each in positions):
        if begun is not None and begun[0] == split and begun[2] == offset:
            begun = split, begun[1], offset + 1
            continue
        if begun is not None:
            yield "P {} {} {}".format(*begun)
        begun = split, offset, offset + 1
    if begun is not None:
        yield "P {} {} {}".format(*begun)


def consume_rest(work: Work) -> None:
    """A member that the server hosts: acknowledges what it has noted."""
    while not work.stopping.is_asked:
        with sync.connect(work.url, options=_OPTIONS) as bus:
            try:
                with bus.consumer(GROUP, ["mapped"], auto_commit=False) as consumer:
                    while not work.stopping.is_asked:
                        events = consumer.poll(timeout_s=1)
                        work.note(*runs_of([consumer.position(event) for event in events]))
                        for event in events:
                            consumer.ack(event)
                        if events:
                            consumer.commit()
            except (BusError, httpx.HTTPError) as error:
                work.note(f"E {time.time():.1f} {type(error).__name__}: {str(error)[:200]!r}")
                time.sleep(_AFTER_ERROR_S)


async def _consume(work: Work, bus: Bus) -> None:
    async with bus.consumer(GROUP, ["mapped"], auto_commit=False) as consumer:
        while not work.stopping.is_asked:
            events: list[Event] = await consumer.poll(timeout_s=1)
            work.note(*runs_of([Position(*consumer.position(event)) for event in events]))
            try:
                await consumer.commit()
            except BusError as error:
                work.note(f"E {time.time():.1f} {type(error).__name__}: {str(error)[:200]!r}")


def consume_sdk(work: Work) -> None:
    """A member in the data folder: commits what it has noted."""
    with open_bus(work.folder / "data") as bus:
        asyncio.run(_consume(work, bus))


# --- those that look on -----------------------------------------------------------------------------------------------

QUESTIONS: Final = (
    'SELECT stream, count(*), max("offset") FROM events WHERE published_at > now() - INTERVAL 60 SECOND GROUP BY stream',
    "SELECT processing_stage, status, count(*) FROM processing_history WHERE started_at > now() - INTERVAL 9 SECOND GROUP BY ALL",
)


def ask(work: Work) -> None:
    """Questions to the history in SQL, the lag of the group, rows of the projection, a look at the metrics."""
    with httpx.Client(base_url=work.url, timeout=30) as client:
        for number in work.numbers(0.1):

            def look(number: int = number) -> None:
                question = {"sql": QUESTIONS[number % len(QUESTIONS)]}
                client.post("/api/v1/history/query", json=question).raise_for_status()
                client.get(f"/api/v1/consumer-groups/{GROUP}/lag").raise_for_status()
                client.get("/api/v1/projections/accounts/rows").raise_for_status()
                client.get("/metrics").raise_for_status()

            _, tries, spent_ms = work.until_done(look)
            work.note(f"A {number} {tries} {spent_ms:.2f} {time.time():.1f}")


def listen(work: Work) -> None:
    """A page that is open: it gets a message a second, and connects anew when the server has gone."""
    number = work.last("A") + 1
    while not work.stopping.is_asked:
        try:
            with listen_to(work.url.replace("http", "ws", 1) + "/ws/monitoring", open_timeout=10) as socket:
                while not work.stopping.is_asked:
                    socket.recv(timeout=15)
                    work.note(f"A {number}")
                    number += 1
        except (OSError, WebSocketException) as error:
            work.note(f"E {time.time():.1f} {type(error).__name__}: {str(error)[:200]!r}")
            time.sleep(1)


ROLES: Final[dict[str, Callable[[Work], None]]] = {
    "publish-rest": publish_rest,
    "publish-sdk": publish_sdk,
    "append-rest": append_rest,
    "append-sdk": append_sdk,
    "consume-rest": consume_rest,
    "consume-sdk": consume_sdk,
    "ask": ask,
    "listen": listen,
}


if __name__ == "__main__":
    role, name, folder = sys.argv[1:]
    ROLES[role](Work(Path(folder), name))
