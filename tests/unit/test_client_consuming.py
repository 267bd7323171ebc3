"""The client of a server that asks for tokens: consuming, who may do what, and what comes of lost answers and servers."""

import asyncio
import contextlib
import logging
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_buses import KINDS, bus_of, done, events_of, groups_of
from running import ESB

from event_streaming_bus import EventConfig
from event_streaming_bus.access.access_errors import ForbiddenError, LimitError, NotAuthenticatedError
from event_streaming_bus.access.model import Limits
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.client import ClientOptions, ServerUnreachableError, connect
from event_streaming_bus.client.bus import RemoteBus
from event_streaming_bus.client.sync import EventPublishingService
from event_streaming_bus.client.sync import connect as connect_blocking
from event_streaming_bus.errors import ClosedError, FencedError, InvalidInputError, InvalidStateError, PayloadTooLargeError
from event_streaming_bus.store.audit import AuditFilter

T = EventConfig(event_type="t")


class Server:
    """``esb serve`` on one port and data folder, which can be killed and started anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()
        self.token = (folder / "admin.token").read_text().strip()

    def start(self) -> None:
        command = [str(ESB), "--data", str(self.folder), "serve", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        assert " on " in self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("served"))
    yield server
    server.kill()


@pytest.fixture(params=KINDS[:2])
def bus(request: pytest.FixtureRequest, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("ESB_TOKEN", server.token)
    with bus_of(request.param, server.url, tmp_path) as bus:
        bus.create_stream("orders")
        yield bus


@contextlib.contextmanager
def cutting(port: int, cut: list[bytes]) -> Iterator[str]:
    """The URL of what passes everything on to the server at this port, but lets go of a connection, without its answer, once the
    server has answered a request that has one of ``cut`` in it; each cuts once."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        is_hit = threading.Event()

        def answer(server: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while (data := server.recv(1 << 20)) and not is_hit.is_set():
                    client.sendall(data)
            for each in (client, server):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

        with client, socket.create_connection(("127.0.0.1", port)) as server, contextlib.suppress(OSError):
            answering = threading.Thread(target=answer, args=(server,), daemon=True)
            answering.start()
            while data := client.recv(1 << 20):
                for part in [part for part in cut if part in data]:
                    cut.remove(part)
                    is_hit.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            answering.join(10)

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


# --- consuming --------------------------------------------------------------------------------------------------------


async def lag_of(bus: Any, group: str = "g") -> int:
    return int((await done(groups_of(bus).get_consumer_lag(group)))["total_lag"])


async def read(bus: Any, group: str = "g") -> list[Any]:
    """The payloads that the group has not committed."""
    consumer = bus.consumer(group, ["orders"])
    events = await done(consumer.poll(timeout_s=1))
    await done(consumer.close())
    return [event.payload for event in events]


async def publish(bus: Any, *numbers: int) -> None:
    await done(bus.publishing.publish_batch(T, list(numbers), "orders"))


async def test_what_earlier_polls_handed_out_is_done(bus: Any) -> None:
    await publish(bus, 0, 1, 2)
    consumer = bus.consumer("g", ["orders"])
    first = await done(consumer.poll(max_events=2, timeout_s=10))
    assert [event.payload for event in first] == [0, 1]
    (last,) = await done(consumer.poll(timeout_s=10))
    assert consumer.position(last).offset == 2
    with pytest.raises(InvalidStateError, match="is not in hand"):
        consumer.position(first[0])
    await done(consumer.close(settle=False))
    assert await read(bus) == [2]
    assert await lag_of(bus) == 0
    with pytest.raises(ClosedError):
        await done(consumer.poll())


async def test_only_what_is_acknowledged_is_done(bus: Any) -> None:
    await publish(bus, 0, 1, 2)
    consumer = bus.consumer("g", ["orders"], auto_commit=False)
    events = await done(consumer.poll(timeout_s=10))
    assert [consumer.ack(events[0]), consumer.ack(events[0])] == [True, False]
    await done(consumer.commit())
    assert await lag_of(bus) == 2
    await done(consumer.close())
    assert await read(bus) == [1, 2]


async def test_without_an_acknowledgement_a_commit_is_of_all_that_was_handed_out(bus: Any) -> None:
    await publish(bus, 0, 1)
    consumer = bus.consumer("g", ["orders"], auto_commit=False)
    await done(consumer.poll(timeout_s=10))
    await done(consumer.commit())
    assert await lag_of(bus) == 0
    await done(consumer.close())


@pytest.mark.parametrize("bus", KINDS, indirect=True)
async def test_events_are_given_back_and_set_aside(bus: Any) -> None:
    await done(groups_of(bus).create_consumer_group({"group_name": "g", "max_retries": 1}))
    await publish(bus, 0, 1, 2)
    consumer = bus.consumer("g", ["orders"])
    zero, one, _ = await done(consumer.poll(timeout_s=10))
    assert [consumer.nack(zero, ValueError("not now")), consumer.park(one, "never"), consumer.park(one, "again")] == [
        True,
        True,
        False,
    ]
    (again,) = await done(consumer.poll(timeout_s=10))
    assert (again.payload, again.event_id) == (0, zero.event_id)
    assert consumer.nack(again)
    await done(consumer.poll(timeout_s=0.2))
    await done(consumer.close())
    letters = (await done(bus.dead_letters.list_dead_letters(group="g")))["dead_letters"]
    assert {each["event_id"] for each in letters} == {zero.event_id, one.event_id}
    assert await lag_of(bus) == 0


@pytest.mark.parametrize("bus", KINDS, indirect=True)
async def test_an_iteration_that_is_left_leaves_the_rest(bus: Any) -> None:
    await publish(bus, *range(10))
    consumer = bus.consumer("g", ["orders"])
    assert [event.payload for event in await events_of(consumer, 4)] == [0, 1, 2, 3]
    await done(consumer.close(settle=False))
    assert await read(bus) == list(range(3, 10))


@pytest.mark.parametrize("bus", KINDS, indirect=True)
async def test_a_batch_is_done_if_nothing_is_raised(bus: Any) -> None:
    await publish(bus, 0, 1)
    consumer = bus.consumer("g", ["orders"], auto_commit=False)
    for is_fine in (False, True):
        context = consumer.batch(max_events=1, timeout_s=10)
        try:
            if hasattr(context, "__aenter__"):
                async with context as batch:
                    assert is_fine, "not this time"
            else:
                with context as batch:
                    assert is_fine, "not this time"
        except AssertionError:
            continue
        ((split, begin),) = batch.before.items()
        assert ([event.payload for event in batch.events], begin, batch.after[split]) == ([0], 0, 1)
    await done(consumer.close())
    assert await read(bus) == [1]


async def test_a_consumer_goes_on_elsewhere(bus: Any) -> None:
    await publish(bus, *range(5))
    consumer = bus.consumer("g", ["orders"])
    events = await done(consumer.poll(timeout_s=10))
    split = consumer.position(events[0]).split
    assert consumer.offsets()[split] == 5
    consumer.seek(split, 3)
    assert [event.payload for event in await done(consumer.poll(timeout_s=10))] == [3, 4]
    await done(consumer.seek_to_beginning())
    assert len(await done(consumer.poll(timeout_s=10))) == 5
    await done(consumer.seek_to_end([split]))
    assert await done(consumer.poll(timeout_s=0.1)) == []
    await done(consumer.close())


async def test_partitions_are_shared_with_members_that_come_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESB_TOKEN", server.token)
    with bus_of(KINDS[1], server.url, tmp_path) as bus:
        bus.create_stream("orders", partitions=2)
        await bus.consumers.create_consumer_group(
            {"group_name": "g", "session_timeout_ms": 1500, "heartbeat_interval_ms": 200, "rebalance_timeout_ms": 5000}
        )
        keys = [str(n) for n in range(100)]
        first, second = (bus.consumer("g", ["orders"], max_poll_events=50) for _ in range(2))
        async with first:
            assert len(first.assignment) == 2
            await bus.publishing.publish_batch(T, list(range(100)), "orders", keys=keys)
            seen = {event.payload for event in await first.poll(timeout_s=10)}
            async with second:
                while len(seen) < 100 or first.generation < 2 or first.generation != second.generation:
                    for consumer in (first, second):
                        seen |= {event.payload for event in await consumer.poll(timeout_s=0.1)}
                await asyncio.sleep(1.7)  # longer than the session: heartbeats keep both
                assert sorted(first.assignment + second.assignment) == sorted(set(first.assignment + second.assignment))
                assert {len(first.assignment), len(second.assignment)} == {1}
                assert first.counts["put_out"] == second.counts["put_out"] == 0
        assert await lag_of(bus) == 0


async def test_what_is_asked_of_a_consumer_must_make_sense(bus: Any) -> None:
    with pytest.raises(InvalidInputError, match="at least one name"):
        bus.consumer("g", "orders")
    with pytest.raises(InvalidInputError, match="max_poll_events"):
        bus.consumer("g", ["orders"], max_poll_events=0)


# --- who may do what --------------------------------------------------------------------------------------------------


async def test_what_a_token_does_not_allow_is_refused(server: Server) -> None:
    with connect(server.url, token=server.token) as bus:
        bus.create_stream("shop.orders")
        token, record = bus.tokens.create("shop", ["publisher:shop.*"], created_by="me", limits=Limits(requests_per_s=4))
        assert bus.tokens.find(record.token_id, "default").principal == "shop"
        with connect(server.url, token=token) as shop:
            await shop.publishing.publish_event(T, {}, "shop.orders")
            with pytest.raises(ForbiddenError) as forbidden:
                await shop.publishing.publish_event(T, {}, "orders")
            assert forbidden.value.details["permission"] == "event:publish"
        hurried = connect(server.url, token=token, options=ClientOptions(retry_for_s=0))
        with hurried, pytest.raises(LimitError):
            await asyncio.gather(*(hurried.publishing.publish_event(T, {}, "shop.orders") for _ in range(12)))
        with connect(server.url, token=token) as patient:  # it comes again when the server says so
            await asyncio.gather(*(patient.publishing.publish_event(T, {}, "shop.orders") for _ in range(5)))
        bus.tokens.revoke(record.token_id, "default", by="me")
        with connect(server.url, token=token) as shop, pytest.raises(NotAuthenticatedError, match="revoked"):
            await shop.publishing.publish_event(T, {}, "shop.orders")
        page = await bus.audit.list_entries(AuditFilter(tenant_id="default", action="token.*"))
        assert {record.token_id} == {entry.target for entry in page.entries[:2]}
        assert bus.audit.verify().is_intact


def test_without_a_token_nothing_is_allowed(server: Server) -> None:
    with EventPublishingService(server.url) as publishing, pytest.raises(NotAuthenticatedError):
        publishing.publish_event(T, {}, "orders")


async def test_one_argument_moves_a_program(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ESB_TOKEN", server.token)
    monkeypatch.setenv("ESB_DATA", server.url)
    for bus, kind in ((open_bus(), RemoteBus), (open_bus(tmp_path / "here"), Bus)):
        with bus:
            assert type(bus) is kind
            bus.create_stream("moved")
            assert await bus.publishing.publish_event(T, {}, "moved")
    with pytest.raises(InvalidInputError, match="only go with the URL"):
        open_bus(str(tmp_path / "here"), token="x")


# --- what is lost -----------------------------------------------------------------------------------------------------


async def test_where_no_server_is_it_says_so_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with connect(url) as bus, pytest.raises(ServerUnreachableError, match=f"{url} cannot be reached"):
        await bus.publishing.publish_event(T, {}, "orders")
    with connect_blocking(url) as bus, pytest.raises(ServerUnreachableError) as caught:
        bus.publishing.publish_event(T, {}, "orders")
    assert caught.value.details == {"url": url}


@pytest.mark.parametrize("url", ["http://", "ftp://x", "http://me:secret@x", "http://x?a=1", "http://x:port"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="url: "):
        connect(url)


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_a_lost_answer_makes_nothing_twice(
    kind: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESB_TOKEN", server.token)
    cut = [b"/events/batch", b"/append-batch", b"/poll", b"/ack"]
    with cutting(server.port, cut) as url, bus_of(kind, url, tmp_path) as bus:
        bus.create_stream("orders")
        receipts = await done(bus.publishing.publish_batch(T, [0, 1], "orders"))
        assert [(receipt.position.offset, receipt.duplicate) for receipt in receipts] == [(0, False), (1, False)]
        await done(bus.sourcing.append_event("a", "Account", {}, "opened", 0))
        assert (await done(bus.sourcing.get_aggregate("a"))).version == 1
        consumer = bus.consumer("g", ["orders"])
        assert [event.payload for event in await done(consumer.poll(timeout_s=10))] == [0, 1]
        await done(consumer.close())
        assert (cut, await lag_of(bus)) == ([], 0)


async def test_a_connection_that_is_closed_ends_what_waits(server: Server) -> None:
    bus = connect(server.url, token=server.token)
    bus.create_stream("waited_for")
    consumer = bus.consumer("w", ["waited_for"])
    async with consumer:
        waiting = asyncio.create_task(consumer.poll(timeout_s=20))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(bus.close)
        with pytest.raises(ClosedError):
            await waiting
    with pytest.raises(ClosedError):
        await bus.publishing.publish_event(T, {}, "waited_for")
    bus.close()


async def test_a_request_that_is_too_large_is_refused(server: Server) -> None:
    with connect(server.url, token=server.token) as bus:
        bus.create_stream("large")
        with pytest.raises(PayloadTooLargeError):
            await bus.publishing.publish_batch(T, ["x" * 900_000] * 20, "large")


async def test_what_may_have_been_done_is_not_done_again_without_a_key(server: Server) -> None:
    options = ClientOptions(is_idempotent=False)
    with cutting(server.port, [b"/events/batch"]) as url, connect(url, token=server.token, options=options) as bus:
        bus.create_stream("unkeyed")
        with pytest.raises(ServerUnreachableError, match="was lost during POST /api/v1/events/batch"):
            await bus.publishing.publish_event(T, {}, "unkeyed")


async def test_a_server_that_is_killed_and_comes_back_loses_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(server.url, token=server.token) as bus:
        bus.create_stream("killed")
        await bus.consumers.create_consumer_group(  # the member of the server that is killed must be out before another may read
            {"group_name": "k", "session_timeout_ms": 1000, "heartbeat_interval_ms": 300, "rebalance_timeout_ms": 1000}
        )
        consumer = bus.consumer("k", ["killed"], auto_commit=False)
        published: list[int] = []
        go_on = True

        async def publish_on(start: int) -> None:
            n = start
            while go_on:
                await bus.publishing.publish_batch(T, [n, n + 1], "killed")
                published.extend([n, n + 1])
                n += 2

        publishers = [asyncio.create_task(publish_on(start * 1_000_000)) for start in range(4)]
        seen = await consumer.poll(timeout_s=30)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.kill)
        before = len(published)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(60):
            while len(published) < before + 8:  # noqa: ASYNC110 - it is what others do that is waited for
                await asyncio.sleep(0.02)
        go_on = False
        await asyncio.gather(*publishers)
        assert consumer.ack(seen[0])
        with pytest.raises(FencedError), caplog.at_level(logging.ERROR):
            await consumer.commit()
        found: list[Any] = []
        while len(found) < len(published):
            events = await consumer.poll(timeout_s=10)
            assert events
            found += [event.payload for event in events]
        assert sorted(found) == sorted(published)
        assert await consumer.poll(timeout_s=0.2) == []
        assert consumer.counts["put_out"] == 1
        await consumer.close()
