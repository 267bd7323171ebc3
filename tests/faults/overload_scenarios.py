"""What overloads a server, and what must hold meanwhile and afterwards.

Each scenario starts a server of its own, has it watched, and returns what was measured with what was found to be wrong.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from overload_clients import (
    HOST,
    SILENT,
    SLOW_HEAD,
    SLOW_HEADER,
    Holder,
    Tally,
    answered,
    publish,
    slow_body,
    unread_socket,
    upgrade,
)
from overload_run import API, SMALL, STREAM_OF_LOAD, Outcome, Run, Sizes, not_once, run, within
from overload_server import Served, ids_of
from overload_stuck import stuck_consumer, stuck_history, stuck_log
from overload_watch import STREAM
from websockets.asyncio.client import connect

# --- more publishers than there is room for ---------------------------------------------------------------------------


async def publishers(folder: Path, sizes: Sizes) -> Outcome:
    """Many publish as fast as they can; each sends again what was refused."""
    tally = Tally()

    async def work(at: Run) -> None:
        until = asyncio.Event()
        async with at.load():
            each = [
                asyncio.create_task(publish(at.served.port, f"p{n}", STREAM_OF_LOAD, 10, {"n": n}, until, tally))
                for n in range(sizes.publishers)
            ]
            await asyncio.sleep(sizes.seconds)
            at.figures["management_s"] = await _managed(at)
            until.set()
            await asyncio.gather(*each)
        await at.measure()

    done = await run(folder, sizes, work, "--max-requests", str(sizes.max_requests))
    done.figures.update(publishers=sizes.publishers, told=tally.figures())
    done.findings.extend(not_once(folder, tally))
    for wrong in ("without_retry_after", "other_statuses"):
        if tally.figures()[wrong]:
            done.findings.append(f"{wrong}: {tally.figures()[wrong]}")
    if not tally.refused:
        done.findings.append("nobody was refused: this was no overload")
    return done


async def large_bodies(folder: Path, sizes: Sizes) -> Outcome:
    """Many publish batches of some megabytes at once: what is held of them is bounded."""
    tally = Tally()

    async def work(at: Run) -> None:
        until = asyncio.Event()
        async with at.load():
            each = [
                asyncio.create_task(publish(at.served.port, f"b{n}", STREAM_OF_LOAD, 400, "x" * 10_000, until, tally))
                for n in range(sizes.large_bodies)
            ]
            await asyncio.sleep(sizes.seconds)
            until.set()
            await asyncio.gather(*each)
        await at.measure()

    done = await run(folder, sizes, work, "--max-buffered-mb", "32" if sizes is SMALL else "64")
    done.figures["told"] = tally.figures()
    done.findings.extend(not_once(folder, tally))
    return done


async def _managed(at: Run) -> float:
    """How long it took, under the load, to make a stream and to list streams."""
    begun = time.monotonic()

    def manage() -> None:
        at.served.post(f"{API}/streams", {"name": f"made-{int(begun * 1000)}"})
        at.served.get(f"{API}/streams")

    await asyncio.to_thread(manage)
    return round(time.monotonic() - begun, 2)


# --- connections ------------------------------------------------------------------------------------------------------


async def connections(folder: Path, sizes: Sizes) -> Outcome:
    """As many connections as there may be, most of which say nothing or say it slowly; and then others that want to come in."""
    slow = int(sizes.connections * 0.38)
    live = min(100, sizes.connections // 10)

    async def work(at: Run) -> None:
        holder = Holder(at.served.port)
        async with at.load():
            for n in range(live):
                await holder.hold(1, upgrade()) if n % 10 == 0 else asyncio.create_task(holder.hold(1, upgrade()))
            await holder.hold(sizes.connections - 2 * slow - live, SILENT)
            await holder.hold(slow, SLOW_HEAD, SLOW_HEADER, every_s=5.0)
            await holder.hold(slow, slow_body(), b" ", every_s=5.0)
            at.figures["opened_within_s"] = round(time.monotonic() - at.begun_s, 1)
            await asyncio.sleep(sizes.seconds)
            at.figures["connections"] = at.served.get("/health")["load"]["connections"]
            held_mib = at.seen.looks[-1].server_mib - at.seen.between(0, at.begun_s).looks[-1].server_mib
            at.figures["kib_each"] = round(held_mib * 1024 / max(1, at.figures["connections"]), 1)
            at.figures["failed"] = holder.failed
            at.check(at.figures["connections"] >= 0.9 * sizes.connections, f"only {at.figures['connections']} were open")
            at.figures["served_beyond"], at.figures["refused_beyond"], at.figures["lost_beyond"] = await _beyond(at, 200)
            at.check(at.figures["lost_beyond"] <= 20, f"{at.figures['lost_beyond']} of 200 newcomers got no answer")
            await holder.release()
        await at.measure()

    return await run(
        folder, sizes, work, "--max-connections", str(sizes.connections), "--stall-s", "5" if sizes is SMALL else "600"
    )


async def _beyond(at: Run, count: int) -> tuple[int, int, int]:
    """``(served, refused, without an answer)`` of so many clients with a connection each."""

    body = b'{"event_type":"late","payload":{}}'
    request = b"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def one() -> int:
        try:
            async with asyncio.timeout(20):
                reader, writer = await asyncio.open_connection(HOST, at.served.port)
                writer.write(request)
                status, _, _ = await answered(reader)
                writer.close()
        except (OSError, EOFError, TimeoutError):
            return 0
        return status

    statuses = Counter([status for begin in range(0, count, 20) for status in await asyncio.gather(*(one() for _ in range(20)))])
    at.check(set(statuses) <= {0, 201, 503}, f"newcomers were answered {dict(statuses)}")
    return statuses[201], statuses[503], statuses[0]


# --- clients that do not read -----------------------------------------------------------------------------------------


async def slow_websockets(folder: Path, sizes: Sizes) -> Outcome:
    """Clients of the live monitoring that never read a message; one that reads gets its own in time."""

    async def work(at: Run) -> None:
        served = at.served
        for n in range(200):
            served.post(f"{API}/streams", {"name": f"stream-with-a-rather-long-name-so-that-messages-become-large-{n:03}"})
        sockets = []
        late_s: list[float] = []
        async with at.load():
            for _ in range(sizes.slow_clients - 1):
                unread = unread_socket(served.port)
                unread.sendall(upgrade())
                sockets.append(unread)
            async with connect(f"ws://{HOST}:{served.port}/ws/monitoring", max_size=1 << 24) as reading:
                until_s = time.monotonic() + sizes.seconds
                last_s = time.monotonic()
                while time.monotonic() < until_s:
                    await reading.recv()
                    late_s.append(time.monotonic() - last_s)
                    last_s = time.monotonic()
        gone_s = None
        if sizes is not SMALL:  # what the machine takes for a client is much, and takes a while to fill
            gone_s = await within(lambda: served.get("/health")["load"]["connections"] <= 3, sizes.stall_s + 60)
            at.check(gone_s is not None, "clients that read nothing are still connected")
        at.figures.update(
            messages_read=len(late_s), slowest_message_s=round(max(late_s[1:], default=0), 2), slow_ones_dropped_s=gone_s
        )
        at.check(max(late_s[1:], default=9) < 3.5, "the client that reads was made to wait")
        for each in sockets:
            each.close()
        await at.measure()

    return await run(folder, sizes, work, "--stall-s", str(sizes.stall_s))


# --- dead letters -----------------------------------------------------------------------------------------------------


async def dead_letters(folder: Path, sizes: Sizes) -> Outcome:
    """A routing rule makes a dead letter of every single event that is published."""
    tally = Tally()

    async def work(at: Run) -> None:
        rule = {"name": "storm", "stream": STREAM_OF_LOAD, "dead_letter": "nobody takes this"}
        at.served.post(f"{API}/routes/apply", {"routes": [rule]})
        async with at.load():
            await _publish_many(at, sizes.letters, tally)
        at.figures["page_s"] = await _timed(at.served, f"{API}/dead-letters?limit=100")
        at.figures["backlog_gone_s"] = await within(lambda: at.served.get("/health")["history_backlog"] == 0, 600)
        await at.measure()

    done = await run(folder, sizes, work)
    done.findings.extend(_not_one_letter_each(folder, tally, done.figures))
    return done


async def failing_processor(folder: Path, sizes: Sizes) -> Outcome:
    """A processor fails at every single event."""
    tally = Tally()

    async def work(at: Run) -> None:
        served = at.served
        made = served.post(
            f"{API}/stream-processors",
            {
                "processor_name": "fails",
                "processor_type": "FILTER",
                "source_stream_id": STREAM_OF_LOAD,
                "target_stream_id": STREAM,
                "processing_logic": {"filter_expression": "payload.n / payload.zero > 1"},
                "error_handling_strategy": "DEAD_LETTER",
            },
        )
        path = f"{API}/stream-processors/{made['processor_id']}"
        served.post(f"{path}/start")
        metrics: dict[str, Any] = {}
        async with at.load():
            published = await _publish_many(at, sizes.failures, tally)

            def is_done() -> bool:
                metrics.update(served.get(f"{path}/metrics"))
                return bool(metrics["events_processed"] >= published)

            await within(is_done, 3600)
        at.check(metrics["error_count"] == published, f"{metrics['error_count']} of {published} became dead letters: {metrics}")
        served.post(f"{path}/stop")
        await at.measure()

    done = await run(folder, sizes, work)
    done.findings.extend(not_once(folder, tally) + _not_one_letter_each(folder, tally, done.figures))
    return done


async def _publish_many(at: Run, count: int, tally: Tally) -> int:
    """Publish so many events, or a few more; how many it were."""
    until = asyncio.Event()
    each = [
        asyncio.create_task(publish(at.served.port, f"d{n}", STREAM_OF_LOAD, 1000, {"n": n, "zero": 0}, until, tally))
        for n in range(4)
    ]
    await within(lambda: tally.events >= count, 3600)
    until.set()
    await asyncio.gather(*each)
    at.figures["published_within_s"] = round(time.monotonic() - at.begun_s, 1)
    return tally.events


def _not_one_letter_each(folder: Path, tally: Tally, figures: dict[str, Any]) -> list[str]:
    """What is wrong of: each event became one dead letter."""
    letters = ids_of(folder, "_dead_letters")
    figures |= {"published": tally.events, "letters": letters.total()}
    is_so = len(letters) == letters.total() == tally.events
    return [] if is_so else [f"{tally.events} events became {letters.total()} dead letters, {len(letters)} different ones"]


async def _timed(served: Served, path: str) -> float:
    begun = time.monotonic()
    await asyncio.to_thread(served.get, path)
    return round(time.monotonic() - begun, 2)


SCENARIOS: Final[dict[str, Callable[[Path, Sizes], Awaitable[Outcome]]]] = {
    each.__name__: each
    for each in (
        publishers,
        large_bodies,
        connections,
        stuck_consumer,
        stuck_history,
        stuck_log,
        slow_websockets,
        dead_letters,
        failing_processor,
    )
}
