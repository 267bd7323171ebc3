"""Group commit: what waits while one transaction is written becomes the next one."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from event_streaming_bus.errors import ClosedError
from event_streaming_bus.store.log.group_commit import MAX_WAITING, MAX_WEIGHT, GroupCommit


class Item:
    def __init__(self, number: int, weight: int = 1) -> None:
        self.number = number
        self.weight = weight
        self.future: Future[int] = Future()


class Disk:
    """Takes groups as a transaction does. While the gate is shut a group is on its way and nothing else is written."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gate = threading.Event()
        self.reached = threading.Event()
        self.commits: GroupCommit[Item] = GroupCommit(self.write, "test-writer")

    def write(self, items: list[Item]) -> None:
        self.reached.set()
        assert self.gate.wait(30)
        self.groups.append([item.number for item in items])
        for item in items:
            item.future.set_result(item.number)

    def submit(self, *items: Item) -> None:
        for item in items:
            self.commits.submit(item)

    def begin(self) -> None:
        """Submit the item 0 and return when it is on its way to the disk."""
        self.submit(Item(0))
        assert self.reached.wait(30)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.gate.set()
    disk.commits.close()


def test_what_waits_is_written_together_and_in_order(disk: Disk) -> None:
    disk.begin()
    items = [Item(number) for number in range(1, 50)]
    disk.submit(*items)
    disk.gate.set()
    assert [item.future.result(30) for item in items] == list(range(1, 50))
    assert disk.groups == [[0], list(range(1, 50))]


def test_a_group_is_bounded_by_its_weight_and_one_heavy_item_still_goes(disk: Disk) -> None:
    disk.begin()
    items = [Item(1, MAX_WEIGHT - 1), Item(2), Item(3), Item(4, 10 * MAX_WEIGHT), Item(5)]
    disk.submit(*items)
    disk.gate.set()
    items[-1].future.result(30)
    assert disk.groups == [[0], [1, 2], [3, 4], [5]]


def test_a_full_queue_blocks_who_submits_until_there_is_room(disk: Disk) -> None:
    disk.begin()
    disk.submit(*[Item(number) for number in range(1, MAX_WAITING + 1)])
    one_more = Item(MAX_WAITING + 1)
    thread = threading.Thread(target=disk.submit, args=(one_more,))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    disk.gate.set()
    thread.join(30)
    assert one_more.future.result(30) == MAX_WAITING + 1


def test_closing_writes_what_waits_and_takes_no_more(disk: Disk) -> None:
    disk.begin()
    items = [Item(number) for number in range(1, 4)]
    disk.submit(*items)
    disk.gate.set()
    disk.commits.close()
    disk.commits.close()
    assert disk.groups == [[0], [1, 2, 3]]
    with pytest.raises(ClosedError):
        disk.submit(Item(4))


def test_who_is_blocked_by_a_full_queue_learns_that_it_was_closed(disk: Disk) -> None:
    disk.begin()
    disk.submit(*[Item(number) for number in range(1, MAX_WAITING + 1)])
    raised: list[BaseException] = []

    def submit_one_more() -> None:
        try:
            disk.submit(Item(-1))
        except ClosedError as error:
            raised.append(error)

    blocked = threading.Thread(target=submit_one_more)
    blocked.start()
    blocked.join(0.1)
    assert blocked.is_alive()
    closing = threading.Thread(target=disk.commits.close)
    closing.start()
    blocked.join(30)
    assert len(raised) == 1
    disk.gate.set()
    closing.join(30)
    assert sum(map(len, disk.groups)) == MAX_WAITING + 1


def test_closing_what_was_never_used_is_harmless() -> None:
    disk = Disk()
    disk.commits.close()
    with pytest.raises(ClosedError):
        disk.submit(Item(1))
