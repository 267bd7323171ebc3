"""What must hold when the load of the soak has ended and everything has come to rest: the balance, equation by equation."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from soak_load import BATCH_EVENTS, GROUP
from soak_parts import APPENDERS, PUBLISHERS, Parts

from event_streaming_bus.bus import open_bus


class Equation(NamedTuple):
    """Two numbers that must be equal, and what they count."""

    what: str
    left: int
    right: int

    @property
    def holds(self) -> bool:
        return self.left == self.right


class Unrest(AssertionError):
    """It did not come to rest in time."""


def ledger_of(work: Path) -> dict[str, Any]:
    """What the ledger has written last."""
    told: dict[str, Any] = json.loads((work / "ledger").read_bytes())
    return told


def noted(work: Path, name: str, kind: str) -> list[list[str]]:
    """The noted lines of a kind, without it."""
    lines = (work / "notes" / name).read_text().splitlines() if (work / "notes" / name).exists() else []
    return [line.split(" ")[1:] for line in lines if line.startswith(f"{kind} ")]


def is_at_rest(parts: Parts) -> str | None:
    """What is still under way; ``None`` if nothing is."""
    work, told = parts.work, ledger_of(parts.work)
    for name in (*PUBLISHERS, *APPENDERS):
        wanted, done = noted(work, name, "W"), noted(work, name, "A")
        if wanted and (not done or int(wanted[-1][0]) != int(done[-1][0])):
            return f"{name} waits for its acknowledgement"
        seen = (told["closed"] if name in PUBLISHERS else told["appended"]).get(name, [0])
        if done and seen != [int(done[-1][0]) + 1]:
            return f"{name}: the ledger is at {seen[:3]}, acknowledged was {done[-1][0]}"
    if told["open_count"] or told["unbalanced_windows"]:
        return f"{told['open_count']} batches, {len(told['unbalanced_windows'])} windows are not balanced"
    try:
        lag = httpx.get(f"{parts.url}/api/v1/consumer-groups/{GROUP}/lag", timeout=30).raise_for_status().json()
        if lag["total_lag"]:
            return f"the group is {lag['total_lag']} events behind"
        wrong = [each for each in (*_of_consumers(parts, told), *_of_history(parts)) if not each.holds]
        return str(wrong[0]) if wrong else None
    except httpx.HTTPError as error:
        return repr(error)


def wait_for_rest(parts: Parts, seconds: float, meanwhile: Callable[[], None]) -> float:
    """Wait until nothing is under way any more; returns how many seconds that took. Raises ``Unrest``."""
    begun_s = time.monotonic()
    while (why := is_at_rest(parts)) is not None:
        if time.monotonic() > begun_s + seconds:
            raise Unrest(why)
        meanwhile()
        time.sleep(0.3)
    return time.monotonic() - begun_s


def balance(parts: Parts) -> list[Equation]:
    """All equations."""
    told = ledger_of(parts.work)
    counts = {
        **dict.fromkeys(("in", "mapped", "bad", "poison", "filtered", "urgent", "joined", "late left"), 0),
        **told["counts"],
    }
    found = [Equation("violations that the ledger has met", counts.get("violations", 0), 0)]
    for name in PUBLISHERS:
        done = [int(number) for number, *_ in noted(parts.work, name, "A")]
        found.append(
            Equation(f"{name}: batches acknowledged = batches wholly there, once", len(set(done)), told["closed"][name][0])
        )
        found.append(Equation(f"{name}: no batch there that was not acknowledged", max(done) + 1, told["closed"][name][0]))
    batches = sum(told["closed"][name][0] for name in PUBLISHERS)
    found += [
        Equation(
            "events acknowledged = on the stream + set aside by the rule", batches * BATCH_EVENTS, counts["in"] + counts["bad"]
        ),
        Equation("in = filtered + mapped + poison", counts["in"], counts["filtered"] + counts["mapped"] + counts["poison"]),
        Equation("dead letters = bad + poison", counts["_dead_letters"], counts["bad"] + counts["poison"]),
        Equation("windows whose sum or count is not that of the accepted events", len(told["unbalanced_windows"]), 0),
        Equation("batches that are not balanced", told["open_count"], 0),
    ]
    with httpx.Client(base_url=f"{parts.url}/api/v1", timeout=60) as client:
        found += _of_processors(client, counts)
        found += _of_aggregates(client, parts.work, told)
    found += _of_consumers(parts, told)
    return found + _of_history(parts)


def _of_processors(client: httpx.Client, counts: dict[str, int]) -> list[Equation]:
    found = []
    told = client.get("/flows/sales/metrics").raise_for_status().json()["processors"]
    by_name = {each["processor_name"]: each for each in told}
    keep, shaped, sums = by_name["keep"], by_name["shaped"], by_name["sums_of_keys"]
    found.append(Equation("FILTER: in = what the stream has", keep["events_processed"], counts["in"]))
    found.append(Equation("FILTER: passed + filtered = in", keep["events_passed"] + keep["events_filtered"], counts["in"]))
    found.append(
        Equation("MAP: out + dead = passed by the FILTER", shaped["events_out"] + shaped["error_count"], keep["events_passed"])
    )
    found.append(Equation("AGGREGATE: in = out of the MAP", sums["events_processed"], counts["mapped"]))
    found.append(Equation("AGGREGATE: late = the stream of late events", sums["events_late"], counts.get("late", 0)))
    return found


def _of_aggregates(client: httpx.Client, work: Path, told: dict[str, Any]) -> list[Equation]:
    acknowledged: dict[str, dict[int, str]] = {}
    ids = set()
    doubled = 0
    for name in APPENDERS:
        for number, account, version, _ in noted(work, name, "A"):
            if (name, number) in ids:  # done again by a next life: it must have the version of the first time
                doubled += acknowledged[account].get(int(version)) != f"{name}-{number}"
                continue
            ids.add((name, number))
            doubled += acknowledged.setdefault(account, {}).setdefault(int(version), f"{name}-{number}") != f"{name}-{number}"
    found = [Equation("aggregates: versions that were acknowledged for two appends", doubled, 0)]
    there = sum(count for count, _ in told["aggregates"].values())
    found.append(Equation("aggregates: appends acknowledged = events on the stream", len(ids), there))
    gaps = wrong = behind = 0
    for account, versions in acknowledged.items():
        gaps += sorted(versions) != list(range(1, len(versions) + 1))
        state = client.get(f"/event-sourcing/aggregates/{account}").raise_for_status().json()
        behind += state["current_version"] != len(versions)
        after = max(0, state["current_version"] - 50)
        path = f"/event-sourcing/aggregates/{account}/events"
        events = client.get(path, params={"after_version": after, "limit": 100}).raise_for_status().json()["events"]
        wrong += [versions[event["version"]] for event in events] != [event["event_id"] for event in events]
        wrong += [event["version"] for event in events] != list(range(after + 1, state["current_version"] + 1))
    found.append(Equation("aggregates whose acknowledged versions have gaps", gaps, 0))
    found.append(Equation("aggregates that are not at their last acknowledged version", behind, 0))
    found.append(Equation("aggregates whose newest 50 events are not those acknowledged", wrong, 0))
    client.post("/projections/accounts/wait", json={"timeout_s": 30}).raise_for_status()
    rows = client.get("/projections/accounts/rows", params={"limit": 100}).raise_for_status().json()["rows"]
    shown = {row["account"]: [row["n"], row["total"]] for row in rows}
    found.append(Equation("rows of the projection that are not the fold of the events", _differing(shown, told["aggregates"]), 0))
    return found


def _of_consumers(parts: Parts, told: dict[str, Any]) -> list[Equation]:
    with open_bus(parts.work / "data") as bus:
        ends = bus.log.end_offsets(bus.log.find_stream("default", "mapped").stream_id)
    processed = {split: runs for split, runs in told["consumed"].items() if runs}
    wanted = {str(split): [[0, end]] for split, end in ends.items() if end}
    return [Equation("consumers: splits of which some event was processed by nobody", _differing(processed, wanted), 0)]


def _of_history(parts: Parts) -> list[Equation]:
    """Every event that the log ever had has one row, at its place."""
    at = ledger_of(parts.work)["at_offsets"]
    question = 'SELECT stream_id, partition, lane, count(*), sum("offset")::bigint, max("offset") FROM events GROUP BY ALL'
    answer = httpx.post(f"{parts.url}/api/v1/history/query", json={"sql": question}, timeout=90).raise_for_status().json()
    rows = {f"{stream}/{partition}/{lane}".lower(): tuple(more) for stream, partition, lane, *more in answer["rows"]}
    wrong = {split: end for split, end in at.items() if end and rows.get(split.lower()) != (end, end * (end - 1) // 2, end - 1)}
    total = sum(row[0] for split, row in rows.items() if split in {each.lower() for each in at})
    return [
        Equation("history: rows of events = events that the log had", total, sum(at.values())),
        Equation("history: splits whose rows are not those of the log", len(wrong), 0),
    ]


def _differing(one: dict[str, Any], other: dict[str, Any]) -> int:
    return sum(one.get(name) != other.get(name) for name in one.keys() | other.keys())
