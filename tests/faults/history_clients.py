"""Clients that work with a bus and record the history of it: started as ``python history_clients.py HISTORY``.

One process loads the code, and forks a client for each line that it reads: ``PROCESS KIND URL SEED``. It tells ``PROCESS PID``.
So a client that is killed has a successor in no time. At the end of its input it waits for all of them, and tells how each has
ended: ``PROCESS CODE``. A client does one thing after the other, chosen by its seed, until there is a file ``stop`` beside the
history.
"""

import gc
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
from history_hands import AGGREGATE_TYPE, EVENTS, GROUP, STREAMS, Hands, taken
from history_operations import (
    Action,
    Append,
    Commit,
    Committed,
    Kept,
    Outcome,
    Page,
    Part,
    Poll,
    Publish,
    Read,
    Recorder,
    Scan,
    Sent,
)

from event_streaming_bus.client.client_errors import ServerUnreachableError
from event_streaming_bus.errors import (
    BusError,
    FencedError,
    InvalidInputError,
    LostDatabaseError,
    OverloadedError,
    StreamNotFoundError,
)
from event_streaming_bus.store.aggregate_errors import VersionConflictError

MOST_VERSIONS: Final = 48
"""An aggregate that has so many events is left alone, and the next one is begun: what is read whole must not grow for ever."""
STOP: Final = "stop"
_AT_ONCE: Final = 4
_KEYS: Final = 6
_TRIES: Final = 3
_PAUSE_S: Final = 0.05
_REFUSALS: Final = (InvalidInputError, OverloadedError, FencedError)


class Client:
    """One client: ``hands`` on the bus, and what it knows of it. ``until`` says when to stop."""

    def __init__(self, hands: Any, recorder: Recorder, process: int, seed: str) -> None:
        self._hands = hands
        self._recorder = recorder
        self._process = process
        self._chance = random.Random(f"{seed} {process}")
        self._count = self._first = self._position = 0
        self._versions: dict[str, int] = {}
        self._begins: dict[str, dict[str, int]] = {stream: {} for stream in STREAMS}
        self._sessions = 0

    def do(self, asked: Action, do: Callable[[], Action], *, is_read: bool = False) -> Action | None:
        """Record an operation and do it; what was told, if it happened. What fails while it only reads has not happened."""
        self._recorder.invoke(asked)
        told: Action = asked
        try:
            told = do()
            outcome = Outcome.OK
        except VersionConflictError as error:
            assert isinstance(asked, Append)
            told, outcome = self._refused(asked, error), Outcome.FAIL
        except (BusError, httpx.HTTPError) as error:
            outcome = Outcome.FAIL if is_read or _is_refusal(error) else Outcome.INFO
        self._recorder.end(outcome, told)
        if outcome is Outcome.OK:
            return told
        if told is asked:
            time.sleep(_PAUSE_S)  # after a failure, which for now goes on mostly
        return None

    def _refused(self, asked: Append, error: VersionConflictError) -> Append:
        key, version = error.details["aggregate_id"], error.details["current_version"]
        told = error.details["events"]
        between = tuple(Kept(key, each["event_data"]["e"], each["version"], 0) for each in told)
        self._versions[key] = version
        return Append(asked.parts, (), key, version, between)

    def _elements(self, count: int) -> tuple[str, ...]:
        self._count += count
        return tuple(f"{self._process}-{number}" for number in range(self._count - count, self._count))

    # --- aggregates ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Find the aggregates that are not full yet."""
        step = 1
        while step:
            if len(self._hands.read(f"k{self._first + step - 1}")) >= MOST_VERSIONS:
                self._first += step
                step *= 2
            else:
                step //= 2

    def _key(self) -> str:
        while self._versions.get(f"k{self._first}", 0) >= MOST_VERSIONS:
            self._versions.pop(f"k{self._first}")
            self._first += 1
        return f"k{self._first + self._chance.randrange(_AT_ONCE)}"

    def append(self) -> None:
        """Append to one aggregate or to several, mostly on condition of the version that was seen last."""
        keys = dict.fromkeys(self._key() for _ in range(self._chance.choice([1, 1, 1, 2, 3])))
        parts = []
        for key in keys:
            known = self._versions.get(key)
            expected = known if known is not None and self._chance.random() < 0.6 else None
            parts.append(Part(key, expected, self._elements(self._chance.choice([1, 1, 1, 2, 3]))))
        asked, own_ids = Append(tuple(parts)), self._chance.random() < 0.5

        def do() -> Action:
            return Append(asked.parts, self._again(lambda: self._hands.append(asked.parts, own_ids=own_ids), own_ids))

        told = self.do(asked, do)
        if isinstance(told, Append):
            for kept in told.kept:
                self._versions[kept.key] = kept.version

    def _again(self, do: Callable[[], Any], own_ids: bool) -> Any:
        """Do it; again, where ids of one's own see to it that it is done once."""
        doubt: BusError | None = None  # a try that may have been carried out, whatever is said of those after it
        for left in reversed(range(_TRIES)):
            try:
                return do()
            except VersionConflictError:
                raise
            except BusError as error:
                doubt = doubt or (None if _is_refusal(error) else error)
                if not isinstance(error, ServerUnreachableError) or not left or not own_ids:
                    raise (doubt or error) from None
        raise AssertionError("unreachable")

    def read(self) -> None:
        key = self._key()
        told = self.do(Read(key), lambda: Read(key, self._hands.read(key)), is_read=True)
        if isinstance(told, Read):
            self._versions[key] = told.kept[-1].version if told.kept else 0

    def page(self) -> None:
        """Read on in the order of all aggregates."""
        after = self._position
        told = self.do(Page(after), lambda: Page(after, *self._hands.page(after)), is_read=True)
        if isinstance(told, Page) and told.kept:
            self._position = told.kept[-1].position

    # --- streams ------------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Publish one event or several, now or for later."""
        due_ms = None
        if self._chance.random() < 0.1:
            due_ms = time.time_ns() // 1_000_000 + self._chance.randrange(100, 1500)
        elements = self._elements(self._chance.choice([1, 1, 2, 5]))
        sent = tuple(Sent(each, f"key-{self._chance.randrange(_KEYS)}", due_ms) for each in elements)
        asked, own_ids = Publish(EVENTS, sent), self._chance.random() < 0.5

        def do() -> Action:
            return Publish(EVENTS, sent, self._again(lambda: self._hands.publish(EVENTS, sent, own_ids=own_ids), own_ids))

        self.do(asked, do)

    def scan(self) -> None:
        """Read on in a stream, to its end."""
        stream = EVENTS if self._chance.random() < 0.6 else AGGREGATE_TYPE
        begin = self._begins[stream]
        try:
            stream_id = self._hands.id_of(stream)
        except (StreamNotFoundError, ServerUnreachableError):
            return  # nothing was appended yet
        told = self.do(
            Scan(stream_id, dict(begin)), lambda: Scan(stream_id, dict(begin), self._hands.scan(stream, begin)), is_read=True
        )
        if isinstance(told, Scan):
            for found in told.found:
                begin[found.split] = found.offset + 1

    # --- groups -------------------------------------------------------------------------------------------------------

    def consume(self, until: Callable[[], bool]) -> None:
        """Be a member of the group for a while: poll, and commit most of what was handed out."""
        self._sessions += 1
        session = f"{self._process}.{self._sessions}"
        try:
            consumer = self._hands.consumer()
        except (BusError, httpx.HTTPError):
            return
        try:
            for _ in range(self._chance.randrange(20, 200)):
                if until():
                    return
                self._poll(consumer, session)
        finally:
            with suppress(BusError, httpx.HTTPError):
                self._hands.done(consumer.close())

    def _poll(self, consumer: Any, session: str) -> None:
        before = consumer.generation

        def poll() -> Action:
            events = self._hands.done(consumer.poll(max_events=self._chance.choice([1, 20, 200]), timeout_s=0.2))
            generation = consumer.generation if consumer.generation == before else 0
            return Poll(GROUP, session, taken(consumer, events), generation)

        told = self.do(Poll(GROUP, session), poll, is_read=True)
        if not isinstance(told, Poll) or not told.found:
            if self._chance.random() < 0.1:
                self.do(Committed(GROUP), lambda: Committed(GROUP, self._hands.committed()), is_read=True)
            return
        if self._chance.random() < 0.8:
            offsets = {found.split: found.offset + 1 for found in told.found}
            missed = consumer.counts["not_in_hand"]

            def commit() -> Action:
                self._hands.done(consumer.commit())
                return Commit(GROUP, session, offsets if consumer.counts["not_in_hand"] == missed else {})

            self.do(Commit(GROUP, session, offsets), commit)

    # --- all of it ----------------------------------------------------------------------------------------------------

    def work(self, until: Callable[[], bool]) -> None:
        """Append, read and publish until the time is over."""
        self.begin()
        doing = [self.append, self.read, self.publish, self.page, self.scan]
        while not until():
            self._chance.choices(doing, [35, 25, 20, 8, 12])[0]()

    def take(self, until: Callable[[], bool]) -> None:
        """Be a member of the group, again and again."""
        while not until():
            self.consume(until)


def _is_refusal(error: BaseException) -> bool:
    """Whether it certainly was not done."""
    if isinstance(error, ServerUnreachableError):
        return error.message.endswith("Nothing was sent.")
    return isinstance(error, _REFUSALS) and not isinstance(error, LostDatabaseError)


def _live(line: str, history: Path) -> None:
    process, kind, url, seed = line.split()
    until = (history / STOP).exists
    hands = None
    while hands is None:
        try:
            hands = Hands(url)
        except BusError:
            if until():
                return
            time.sleep(0.2)
    recorder = Recorder(history, int(process))
    client = Client(hands, recorder, int(process), seed)
    while not until():
        try:
            getattr(client, kind)(until)
        except (ServerUnreachableError, httpx.HTTPError):
            time.sleep(0.1)  # there was no server to begin with
    recorder.close()
    hands.close()


def main() -> None:
    history = Path(sys.argv[1])
    gc.freeze()
    children: dict[str, int] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            code = 1
            try:
                _live(line, history)
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        children[line.split()[0]] = pid  # nobody waits for it before the end, so no other process gets its number
        print(line.split()[0], pid, flush=True)
    for process, pid in children.items():
        print(process, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
