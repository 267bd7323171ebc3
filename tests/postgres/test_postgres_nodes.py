"""Several nodes over one database: which of them leads, and that each answers whatever it is asked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from event_streaming_bus.store import election as election_module
from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.store.election import Election


def until(what: object, seconds: float = 15.0) -> None:
    """Wait for a thing to become true."""
    assert callable(what)
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def elected(place: PostgresPlace, *urls: str) -> Iterator[list[Election]]:
    nodes = [Election(place, url) for url in urls]
    for node in nodes:
        node.start()
    yield nodes
    for node in nodes:
        node.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election_module, "EVERY_S", 0.1)


def test_one_node_leads_and_the_others_know_which(shared: PostgresPlace) -> None:
    with elected(shared, "http://a", "http://b", "http://c") as (a, b, c):
        assert [node.leads for node in (a, b, c)] == [True, False, False]
        for node in (a, b, c):
            until(lambda node=node: (leader := node.leader()) is not None and leader.url == "http://a")
            until(lambda node=node: len(node.nodes()) == 3)


def test_when_it_leaves_another_leads(shared: PostgresPlace) -> None:
    with elected(shared, "http://a", "http://b") as (a, b):
        a.close()
        until(lambda: b.leads)
        until(lambda: (leader := b.leader()) is not None and leader.node_id == b.node_id)
        assert not a.leads


def test_a_leader_whose_session_ends_goes_on_if_nobody_was_faster(shared: PostgresPlace) -> None:
    with elected(shared, "http://a") as (a,):
        assert a._connection is not None
        a._connection.close()
        until(lambda: a._connection is not None and not a._connection.closed)
        assert (a.leads, a.is_over) == (True, False)


def test_a_leader_that_cannot_lead_lets_another(shared: PostgresPlace) -> None:
    with elected(shared, "http://a", "http://b") as (a, b):
        a.failed()
        until(lambda: b.leads)
        a.close()
        assert (a.leads, a.is_over) == (False, True)


def test_a_leader_learns_that_another_was_faster(shared: PostgresPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    with elected(shared, "http://a") as (a,):
        monkeypatch.setattr(election_module, "EVERY_S", 2.0)  # so long it gives no sign of life, but for one that is under way
        time.sleep(0.3)
        assert a._connection is not None
        a._connection.close()
        with elected(shared, "http://b") as (b,):
            assert (a.leads, b.leads) == (True, True)  # it does not know yet
            until(lambda: a.is_over)
            assert b.leads
