"""Looks at what may be stuck: who asks is answered in time."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from event_streaming_bus.api.deadlines import Deadlines
from event_streaming_bus.api.looks import Looks
from event_streaming_bus.bus import open_bus
from event_streaming_bus.errors import UnavailableError
from event_streaming_bus.models import EventConfig
from event_streaming_bus.store.history import History
from event_streaming_bus.store.history import history as history_module


async def test_a_look_that_is_stuck_is_shared_and_keeps_nobody_waiting_for_another() -> None:
    looks, may_end, begun = Looks(), threading.Event(), []

    def look() -> str:
        begun.append(time.monotonic())
        may_end.wait(20)
        return "seen"

    since_s = time.monotonic()
    asked = [looks.at("stuck", look, 0.1) for _ in range(20)]
    assert {type(each) for each in await asyncio.gather(*asked, return_exceptions=True)} == {TimeoutError}
    assert len(begun) == 1
    assert await looks.at("other", lambda: "fine", 1) == "fine"
    assert time.monotonic() - since_s < 5
    waiting = asyncio.create_task(looks.at("stuck", look, 10))
    await asyncio.sleep(0.05)
    may_end.set()
    assert await waiting == "seen"
    assert await looks.at("stuck", lambda: "anew", 10) == "anew"
    looks.close()


async def test_waiting_is_given_up_at_its_time_and_a_cancellation_is_one() -> None:
    deadlines, now_s = Deadlines(), asyncio.get_running_loop().time()
    never = asyncio.Event()
    waiting = [asyncio.create_task(deadlines.by(now_s + after_s, never.wait)) for after_s in (0.1, 60, 60)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    done = await asyncio.wait_for(asyncio.gather(*waiting[:2], return_exceptions=True), 10)
    assert [type(each) for each in done] == [TimeoutError, asyncio.CancelledError]
    never.set()
    assert await waiting[2] is True
    assert waiting[0].cancelling() == 0, "whoever goes on after that is not taken for cancelled"


async def test_what_a_look_raises_is_raised() -> None:
    looks = Looks()
    with pytest.raises(ZeroDivisionError):
        await looks.at("wrong", lambda: 1 // 0, 1)
    looks.close()


def test_who_asks_the_history_does_not_load_for_others_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MAX_ROWS", 10)
    with open_bus(tmp_path / "data") as bus:
        history = History(bus.storage)
        bus.create_stream("orders")
        for _ in range(8):
            bus.publishing.submit(EventConfig(event_type="t"), list(range(10)), stream_id="orders").result()
        backlog = history.backlog()
        with pytest.raises(UnavailableError, match="records behind"):
            history.reach(0)
        assert 0 < history.backlog() < backlog, "what was loaded is loaded"
        history.reach()
        assert history.backlog() == 0
        history.close()


def test_who_asks_the_history_does_not_wait_for_a_loading_that_gets_nowhere(tmp_path: Path) -> None:
    with open_bus(tmp_path / "data") as bus:
        history = History(bus.storage)
        bus.create_stream("orders")
        bus.publishing.submit(EventConfig(event_type="t"), [1, 2, 3], stream_id="orders").result()
        is_loading, may_go_on = threading.Event(), threading.Event()

        def held(done: int, there: int) -> None:
            is_loading.set()
            may_go_on.wait(20)

        loading = threading.Thread(target=history.catch_up, args=(held,))
        loading.start()
        assert is_loading.wait(20)
        history.reach(0.05)  # all that there is has been loaded: nobody has to wait
        bus.publishing.submit(EventConfig(event_type="t"), [4], stream_id="orders").result()
        assert history.backlog() == 1
        with pytest.raises(UnavailableError, match=r"The history is 1 records behind.* within 0.05 s") as raised:
            history.reach(0.05)
        assert raised.value.details == {"retry_after_s": 5}
        may_go_on.set()
        loading.join()
        history.reach()
        assert history.backlog() == 0
        history.close()
