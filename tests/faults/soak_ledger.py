"""The ledger of the soak, a process that is never disturbed: reads every stream as it grows, and keeps accounts.

``python soak_ledger.py WORK WINDOW_MS``. Each batch of a publisher is an account: what must be on each stream because of it
follows from its name and number. An account is closed, and forgotten, when all of that is there once; what comes for a closed
account, or twice, is a violation. So memory is bounded, whatever the length of the run, and nothing is missed that retention
drops later.

``WORK/ledger`` is written anew about every second: what is booked so far, as JSON. ``WORK/latency`` gets a line for each ten
seconds: the time, and how long it took from the publish to the processed event, p50 and p99 in milliseconds, and how many.
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from soak_load import BATCH_EVENTS, GROUP, Stopping, batch_of, is_paid

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.errors import BusError, StreamNotFoundError
from event_streaming_bus.models import Event, Split, time_ms
from event_streaming_bus.store.dead_letters import told_of

WITHIN_MS: Final = 60_000
STREAMS: Final = ("in", "pays", "mapped", "urgent", "sums", "late", "joined", "late_pairs", "Account", "_dead_letters")
_MAX_VIOLATIONS: Final = 200
_READ_BYTES: Final = 1 << 18
_WRITE_S: Final = 1.0
_SLOT_S: Final = 10
_COMMITS_S: Final = 2.0


class Account:
    """What is booked for one batch: for each kind of place the indexes of the events that are there, as bits."""

    __slots__ = ("in_ms", "masks", "paid_ms", "payloads", "wanted")

    def __init__(self, name: str, number: int) -> None:
        payloads = self.payloads = batch_of(name, number)
        self.masks: dict[str, int] = defaultdict(int)
        self.in_ms: int | None = None
        self.paid_ms: int | None = None

        def bits(fits: Callable[[int, dict[str, Any]], bool]) -> int:
            return sum(1 << i for i, payload in enumerate(payloads) if fits(i, payload))

        self.wanted = {
            "in": bits(lambda i, p: not p["is_bad"]),
            "bad": bits(lambda i, p: p["is_bad"]),
            "urgent": bits(lambda i, p: p["is_urgent"] and not p["is_bad"]),
            "mapped": bits(lambda i, p: not p["is_bad"] and p["x"] != 0 and p["d"] != 0),
            "poison": bits(lambda i, p: not p["is_bad"] and p["x"] != 0 and p["d"] == 0),
            "pays": bits(lambda i, p: is_paid(i)),
        }

    def pairs(self) -> int:
        """The events that must find their partner, or be told to be late."""
        if self.in_ms is None or self.paid_ms is None or abs(self.in_ms - self.paid_ms) > WITHIN_MS:
            return 0
        return self.wanted["in"] & self.wanted["pays"]

    def is_balanced(self) -> bool:
        """Whether everything is where it must be. Late events of the join stand for their pairs."""
        if any(self.masks[place] != wanted for place, wanted in self.wanted.items()):
            return False
        late = self.masks["late left"] | self.masks["late right"]
        return not self.pairs() & ~(self.masks["joined"] | late)


class Ledger:
    """All accounts, the windows, the aggregates, and how far each stream has been read."""

    def __init__(self, bus: Bus, work: Path, window_ms: int) -> None:
        self._bus, self._work, self._window_ms = bus, work, window_ms
        self.at: dict[Split, int] = {}
        self.open: dict[tuple[str, int], Account] = {}
        self.closed: dict[str, list[int]] = defaultdict(list)
        """By publisher the first number that is not closed, and behind it the closed numbers above."""
        self.counts: Counter[str] = Counter()
        self.windows: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0, 0])
        """By window and key: sum and count as they must be, as they were given out, and of what was late."""
        self.aggregates: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.appended: dict[str, list[int]] = defaultdict(list)
        self.violations: list[str] = []
        self.consumed: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._notes_at: dict[Path, int] = {}
        self._latencies: list[float] = []
        self._slot = time.time() // _SLOT_S

    def violation(self, text: str) -> None:
        self.counts["violations"] += 1
        if len(self.violations) < _MAX_VIOLATIONS:
            self.violations.append(f"{time.strftime('%H:%M:%S')} {text}")

    # --- reading ------------------------------------------------------------------------------------------------------

    def read_on(self) -> int:
        """Book what has come; returns how many events that were."""
        booked = 0
        for stream in STREAMS:
            try:
                info = self._bus.log.find_stream("default", stream)
            except StreamNotFoundError:
                continue  # made with the first event
            for split, end in self._bus.log.end_offsets(info.stream_id).items():
                if self.at.get(split, 0) < end:
                    booked += self._read(stream, split)
        return booked

    def _read(self, stream: str, split: Split) -> int:
        at = begun = self.at.get(split, 0)
        for batch in self._bus.log.read(split, at, _READ_BYTES):
            if batch.offset != at:
                self.violation(f"{split}: {batch.offset} comes after {at}")
            for event in batch.events():
                self.counts[stream] += 1
                self._book(stream, event)
                if stream == "mapped":
                    self._latencies.append(batch.appended_at_ms - event.payload["at"])
            at = self.at[split] = batch.end_offset
        return at - begun

    def _book(self, stream: str, event: Event) -> None:
        payload = event.payload
        if stream == "sums":
            window = self.windows[time_ms(payload["window_start"]), payload["k"]]
            if window[3]:
                self.violation(f"a window was given out twice: {payload}")
            window[2] += payload["total"]
            window[3] += payload["n"]
        elif stream == "Account":
            self._appended(event)
        elif stream == "_dead_letters":
            why = told_of(event.metadata)
            self._mark({"shaped": "poison"}.get(why["step"], "bad"), payload, event)
        elif stream == "late":
            start_ms = time_ms((event.metadata or {})["late"]["window_start"])
            window = self.windows[start_ms, payload["k"]]
            window[4] += payload["amount"]
            window[5] += 1
        elif stream == "late_pairs":
            self._mark("late left" if "k" in payload else "late right", payload, event)
        else:
            if stream == "mapped":
                window = self.windows[event.timestamp_ms // self._window_ms * self._window_ms, payload["k"]]
                window[0] += payload["amount"]
                window[1] += 1
            self._mark(stream, payload, event)

    def _mark(self, place: str, payload: dict[str, Any], event: Event) -> None:
        name, number, index = self._whose(payload["id"])
        if self.is_closed(name, number):
            # A late event of a pair that was made otherwise is no news; anything else is there twice.
            if not place.startswith("late"):
                self.violation(f"{place}: {payload['id']} ({event.event_id}) comes again after all of its batch was there")
            return
        account = self.open.get((name, number))
        if account is None:
            account = self.open[name, number] = Account(name, number)
        if account.masks[place] >> index & 1:
            self.violation(f"{place}: {payload['id']} ({event.event_id}) is there twice")
        account.masks[place] |= 1 << index
        if place in account.wanted and not account.wanted[place] >> index & 1:
            self.violation(f"{place}: {payload['id']} must not be there")
        if place == "in":
            account.in_ms = event.timestamp_ms
            told, sent = account.payloads[index], {k: v for k, v in payload.items() if k != "at"}
            if told != sent:
                self.violation(f"in: {payload['id']} is not what was sent: {sent}")
        elif place == "pays":
            account.paid_ms = event.timestamp_ms
        elif place == "mapped" and payload["y"] != 100 / account.payloads[index]["d"]:
            self.violation(f"mapped: {payload['id']} was computed wrongly: {payload}")
        if account.is_balanced():
            self._close(name, number)

    @staticmethod
    def _whose(event_id: str) -> tuple[str, int, int]:
        name, number, index = event_id.rsplit("-", 2)
        return name, int(number), int(index)

    def is_closed(self, name: str, number: int) -> bool:
        return bool(known := self.closed[name]) and (number < known[0] or number in known[1:])

    def _close(self, name: str, number: int) -> None:
        account = self.open.pop((name, number))
        self.counts["batches closed"] += 1
        self.counts["pairs"] += account.pairs().bit_count()
        for place in ("bad", "poison", "late left", "late right"):
            self.counts[place] += account.masks[place].bit_count()
        self.counts["filtered"] += (account.wanted["in"] & ~account.wanted["mapped"] & ~account.wanted["poison"]).bit_count()
        _add(self.closed[name], number)

    def _appended(self, event: Event) -> None:
        name, _, number = event.event_id.rpartition("-")
        known = self.appended[name]
        if known and (int(number) < known[0] or int(number) in known[1:]):
            self.violation(f"Account: {event.event_id} is there twice")
            return
        _add(known, int(number))
        totals = self.aggregates[event.aggregate_id or ""]
        totals[0] += 1
        totals[1] += event.payload["amount"]

    # --- consumers ----------------------------------------------------------------------------------------------------

    def check_commits(self) -> None:
        """Everything that the group has committed was noted by some member before: what is committed is read first."""
        coordinator = GroupCoordinator(self._bus.storage)
        committed = coordinator.committed(coordinator.get("default", GROUP).group_id)
        for path in sorted((self._work / "notes").glob("reader*")):
            self._read_consumed(path)
        for split, offset in committed.items():
            runs = self.consumed[str(split)]
            if offset and (not runs or runs[0][0] != 0 or runs[0][1] < offset):
                self.violation(f"{split}: {offset} is committed, and noted was {runs[:3]}")

    def _read_consumed(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(self._notes_at.get(path, 0))
            content = file.read()
        whole = content.rfind(b"\n") + 1
        self._notes_at[path] = self._notes_at.get(path, 0) + whole
        for line in content[:whole].decode().splitlines():
            parts = line.split(" ")
            if parts[0] != "P" or len(parts) != 4:
                continue
            begin, end = int(parts[2]), int(parts[3])
            before = sum(b - a for a, b in self.consumed[parts[1]])
            self.consumed[parts[1]] = merged([*self.consumed[parts[1]], (begin, end)])
            new = sum(b - a for a, b in self.consumed[parts[1]]) - before
            self.counts["consumed"] += new
            self.counts["consumed again"] += end - begin - new

    # --- telling ------------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Write what is booked so far."""
        log = self._bus.log
        streams = {info.name: log.stored_bytes(info.stream_id) for info in log.list_streams(internal=True)}
        windows = [[start, key, *sums] for (start, key), sums in self.windows.items()]
        told = {
            "at": time.time(),
            "counts": self.counts,
            "violations": self.violations,
            "open": {f"{n} {i}": _state(account) for (n, i), account in list(self.open.items())[:50]},
            "open_count": len(self.open),
            "closed": self.closed,
            "appended": self.appended,
            "aggregates": self.aggregates,
            "unbalanced_windows": [w for w in windows if w[2] != w[4] + w[6] or w[3] != w[5] + w[7]],
            "windows": len(windows),
            "window_sum": sum(w[2] for w in windows),
            "consumed": self.consumed,
            "stored_bytes": streams,
            "at_offsets": {str(split): offset for split, offset in self.at.items()},
        }
        path = self._work / "ledger.new"
        path.write_bytes(msgspec.json.encode(told))
        path.rename(self._work / "ledger")

    def tell_latency(self) -> None:
        """When ten seconds are over: a line of them."""
        slot = time.time() // _SLOT_S
        if slot == self._slot:
            return
        if found := sorted(self._latencies):
            with (self._work / "latency").open("a") as file:
                p50, p99 = found[len(found) // 2], found[int(len(found) * 0.99)]
                file.write(f"{self._slot * _SLOT_S:.0f} {p50:.1f} {p99:.1f} {len(found)}\n")
        self._latencies, self._slot = [], slot


def merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs of offsets, in order, neighbours as one."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(runs):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found


def _add(closed: list[int], number: int) -> None:
    """Add a number to those that are done: the first entry is the first number of all that is not, the others are done."""
    if not closed:
        closed.append(0)
    if number == closed[0]:
        closed[0] += 1
        rest = set(closed[1:])
        while closed[0] in rest:
            rest.discard(closed[0])
            closed[0] += 1
        closed[1:] = sorted(rest)
    else:
        closed.append(number)


def _state(account: Account) -> dict[str, Any]:
    missing = {place: bin(wanted & ~account.masks[place]) for place, wanted in account.wanted.items()}
    unpaired = account.pairs() & ~(account.masks["joined"] | account.masks["late left"] | account.masks["late right"])
    return {**{k: v for k, v in missing.items() if v != "0b0"}, "unpaired": bin(unpaired), "of": BATCH_EVENTS}


def _turns(stopping: Stopping) -> Iterator[float]:
    while not stopping.is_asked:
        yield time.monotonic()


def main(work: Path, window_ms: int) -> None:
    stopping = Stopping()
    with open_bus(work / "data") as bus:
        ledger = Ledger(bus, work, window_ms)
        told_s = checked_s = 0.0
        for now_s in _turns(stopping):
            try:
                booked = ledger.read_on()
            except BusError as error:
                ledger.violation(f"reading failed: {error!r}")
                booked = 0
            ledger.tell_latency()
            if now_s - checked_s >= _COMMITS_S:
                ledger.check_commits()
                checked_s = now_s
            if now_s - told_s >= _WRITE_S:
                ledger.tell()
                told_s = now_s
            if booked < 200:
                time.sleep(0.2)
        ledger.read_on()
        ledger.check_commits()
        ledger.tell()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
