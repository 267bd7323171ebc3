"""What overloads a server because something in it, or beside it, is stuck."""

import asyncio
import fcntl
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from overload_clients import Tally, publish, unread_socket
from overload_run import API, SLOW_S, STREAM_OF_LOAD, Outcome, Run, Sizes, not_once, run, within
from overload_server import Served
from overload_watch import asked

# --- what is stuck ----------------------------------------------------------------------------------------------------


async def stuck_consumer(folder: Path, sizes: Sizes) -> Outcome:
    """A member takes all that it may and never commits, and an event stream is never read, while others publish."""

    async def work(at: Run) -> None:
        served = at.served
        for group in ("stuck", "unread"):
            served.post(f"{API}/consumer-groups", {"group_name": group})
        joined = served.post(
            f"{API}/consumer-groups/stuck/members",
            {"streams": [STREAM_OF_LOAD], "auto_commit": False, "max_unacknowledged": 2500},
        )
        poll = f"{API}/consumer-groups/stuck/members/{joined['member_id']}/poll"
        unread = unread_socket(served.port)
        unread.sendall(
            f"GET {API}/consumer-groups/unread/events?streams={STREAM_OF_LOAD} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        tally, until = Tally(), asyncio.Event()
        taken = 0
        async with at.load():
            each = [
                asyncio.create_task(publish(served.port, f"c{n}", STREAM_OF_LOAD, 200, {"text": "x" * 200}, until, tally))
                for n in range(4)
            ]
            since_s = time.monotonic()
            while time.monotonic() - since_s < sizes.seconds:
                polled = await asyncio.to_thread(served.post, poll, {"max_events": 5000, "timeout_ms": 200})
                taken += len(polled["events"])
                await asyncio.sleep(0.1)
            until.set()
            await asyncio.gather(*each)
        members_s = await within(lambda: not _members(served, "unread"), sizes.stall_s + 20)
        at.figures.update(published=tally.events, handed_out=taken, unread_stream_ended_s=members_s)
        at.check(
            taken <= 5000, f"{taken} events were handed out to one that acknowledged none of at most 5000"
        )  # of two partitions
        at.check(members_s is not None, "the member whose event stream nobody reads is still there")
        unread.close()
        await at.measure()

    return await run(folder, sizes, work, "--stall-s", str(sizes.stall_s))


def _members(served: Served, group: str) -> int:
    return len(served.get(f"{API}/consumer-groups/{group}")["members"])


async def stuck_history(folder: Path, sizes: Sizes) -> Outcome:
    """The loading of the history stands still in the middle of a commit, while events are published and the history is asked."""
    tally, statuses = Tally(), Counter[int]()

    async def work(at: Run) -> None:
        served, until = at.served, asyncio.Event()

        async def ask(n: int) -> None:
            while not until.is_set():
                answer = await client.get(f"{served.url}{API}/events/evt_{n}")
                statuses[answer.status_code] += 1
                if answer.status_code == 503:
                    at.check("retry-after" in answer.headers, "a 503 without Retry-After")
                    with suppress(TimeoutError):
                        await asyncio.wait_for(until.wait(), int(answer.headers["retry-after"]))

        async with (
            httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=200, keepalive_expiry=2)) as client,
            at.load(),
        ):
            each = [
                asyncio.create_task(publish(served.port, f"h{n}", STREAM_OF_LOAD, 50, {"n": n}, until, tally)) for n in range(4)
            ]
            each += [asyncio.create_task(ask(n)) for n in range(40)]
            slowest_s = 0.0
            since_s = time.monotonic()
            while time.monotonic() - since_s < sizes.stuck_s - 0.5:
                begun = time.monotonic()
                await asyncio.to_thread(served.get, f"{API}/streams")
                slowest_s = max(slowest_s, time.monotonic() - begun)
                await asyncio.sleep(0.2)
            at.figures["management_slowest_s"] = round(slowest_s, 2)
            at.figures["backlog_most"] = served.get("/health")["history_backlog"]
            at.check(slowest_s < SLOW_S, f"listing streams took {slowest_s:.1f} s")
            at.check(at.figures["backlog_most"] > 0, "the history was not stuck")
            until.set()
            await asyncio.gather(*each)
        at.figures["backlog_gone_s"] = await within(lambda: served.get("/health")["history_backlog"] == 0, 120)
        at.check(at.figures["backlog_gone_s"] is not None, "the history has not caught up")
        await at.measure()
        rows = served.post(f"{API}/history/query", {"sql": "SELECT count(*) AS n FROM events WHERE stream = 'load'"})
        at.figures["rows"] = rows["rows"][0]

    faults = ",".join(f"history.commit=sleep:{sizes.stuck_s}@{n}" for n in range(2, 3))
    done = await run(folder, sizes, work, environment={"ESB_FAULTS": faults})
    done.figures.update(asked=dict(statuses), told=tally.figures())
    done.findings.extend(not_once(folder, tally))
    return done


async def stuck_log(folder: Path, sizes: Sizes) -> Outcome:
    """Nothing can be written to the log for a while: another process holds its lock, as a disk that hangs would. Publishers and
    those who make streams wait, and then others are refused; whoever looks is answered."""
    tally = Tally()

    async def work(at: Run) -> None:
        served, until, threads = at.served, asyncio.Event(), ThreadPoolExecutor(20)
        async with at.load():
            with (folder / "log.db.lock").open("rb") as lock:
                await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
                stuck_until_s = time.monotonic() + sizes.stuck_s
                each: list[asyncio.Future[Any]] = [
                    asyncio.create_task(publish(served.port, f"l{n}", STREAM_OF_LOAD, 10, {"n": n}, until, tally))
                    for n in range(2 * sizes.max_requests)
                ]
                making = [{"name": f"made-{n}"} for n in range(20)]
                each += [asyncio.wrap_future(threads.submit(served.post, f"{API}/streams", body)) for body in making]
                slowest_s = 0.0
                while time.monotonic() < stuck_until_s:
                    begun = time.monotonic()
                    await asyncio.to_thread(asked, served.url, "GET", f"{API}/streams")
                    slowest_s = max(slowest_s, time.monotonic() - begun)
                    at.figures["in_flight"] = served.get("/health")["load"]["requests"]
                    await asyncio.sleep(0.2)
            at.figures["looking_slowest_s"] = round(slowest_s, 2)
            at.check(slowest_s < SLOW_S, f"listing streams took {slowest_s:.1f} s")
            at.check(at.figures["in_flight"]["publishing"] == sizes.max_requests, f"{at.figures['in_flight']} were in flight")
            await asyncio.sleep(1)
            until.set()
            await asyncio.gather(*each)
        await at.measure()
        at.check(len(served.get(f"{API}/streams?limit=100")["streams"]) >= 22, "streams that were to be made are not there")

    done = await run(folder, sizes, work, "--max-requests", str(sizes.max_requests))
    done.figures["told"] = tally.figures()
    done.findings.extend(not_once(folder, tally))
    return done
