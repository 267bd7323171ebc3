"""Nexmark events: people who join an auction house, auctions that they open, and bids on them.

It follows the published description (P. A. Tucker, K. Tufte, V. Papadimos, D. Maier, "NEXMark, a Benchmark for Queries over
Data Streams", and the generator that Apache Beam and Flink's nexmark made of it): of every 50 events the first is a person, the
next 3 are auctions and 46 are bids. Ids count up from 1000. Half of the bids go to the hot auction, the newest whose number is
a multiple of 100, the others to one of the 100 newest or the 10 to come; three quarters come from the hot bidder, and three
quarters of the auctions from the hot seller, likewise; the others are among the 1000 newest people. Prices are 100 * 10^x, x even
between 0 and 6. An auction ends after a time drawn evenly from twice the time in which 100 auctions open.

What event number n is depends on the seed and n alone: never on the clock, nor on how many events are asked for.
"""

import random
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

PERSON: Final = "person"
AUCTION: Final = "auction"
BID: Final = "bid"

PERSONS_OF_50: Final = 1
AUCTIONS_OF_50: Final = 3
EPOCH: Final = 50
"""After so many events the proportions are exact."""

FIRST_ID: Final = 1000
FIRST_CATEGORY: Final = 10
CATEGORIES: Final = 5

_BLOCK_EPOCHS: Final = 20
BLOCK: Final = EPOCH * _BLOCK_EPOCHS
"""How many events are drawn at once, and the size of a batch of an ordered stream."""

_HOT: Final = 100
_IN_FLIGHT_AUCTIONS: Final = 100
_ACTIVE_PEOPLE: Final = 1000
_ID_LEAD: Final = 10
_DRAWS: Final = struct.Struct(f"<{2 * BLOCK}Q")

_STATES: Final = ["AZ", "CA", "ID", "OR", "WA", "WY"]
_CITIES: Final = [
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
]
_FIRST_NAMES: Final = ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"]
_LAST_NAMES: Final = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"]
_CHANNELS: Final = ["Google", "Facebook", "Baidu", "Apple"]
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is generated.

    Event ``n`` has the time ``first_timestamp_ms + n * 1000 // events_per_second``. With ``max_disorder_ms`` events come up to so
    much later than their time says; none is moved otherwise. ``distinct_bidders``: bids come from so many people (in
    turns of the ids that they would have had), for sums over a known number of keys.
    """

    seed: int = 1
    first_timestamp_ms: int = 1_436_918_400_000
    events_per_second: int = 10_000
    max_disorder_ms: int = 0
    distinct_bidders: int | None = None


DEFAULT: Final = Settings()

Payload: TypeAlias = dict[str, Any]


class Row(NamedTuple):
    """One event; ``key`` decides its partition: the id of the auction or the person. ``data`` is the payload as JSON."""

    event_type: str
    timestamp_ms: int
    key: str
    data: bytes


def events(count: int, settings: Settings = DEFAULT) -> Iterator[tuple[str, int, Payload]]:
    """``count`` events as ``(event type, time in ms, payload)``, in the order of their times unless disorder is asked for."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for batch in batches(count, settings):
        for row in batch:
            yield row.event_type, row.timestamp_ms, decode(row.data)


def batches(count: int, settings: Settings = DEFAULT) -> Iterator[list[Row]]:
    """The same events in batches: of ``BLOCK`` events, the last one shorter; with disorder of about as many."""
    house = _AuctionHouse(settings)
    held: list[tuple[int, int, Row]] = []
    for first in range(0, count, BLOCK):
        rows, delays = house.block(first // BLOCK)
        if count - first < BLOCK:
            rows = rows[: count - first]
        if not settings.max_disorder_ms:
            yield rows
            continue
        span = settings.max_disorder_ms + 1
        held += [(row.timestamp_ms + delays[i] % span, first + i, row) for i, row in enumerate(rows)]
        held.sort()
        newest_ms = rows[-1].timestamp_ms  # all that is still to be made comes at this time or later
        ready = next((i for i, item in enumerate(held) if item[0] >= newest_ms), len(held))
        if ready:
            yield [row for _, _, row in held[:ready]]
            del held[:ready]
    if held:
        yield [row for _, _, row in held]


class _AuctionHouse:
    """Makes events, a block at a time. Tables of texts and prices are drawn once, so that making an event is quick."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        rng = random.Random(f"nexmark tables {settings.seed}")
        self._prices = [round(100 * 10 ** (6 * (i + 0.5) / 65536)) for i in range(65536)]
        self._bid_ends = [self._bid_end(rng, i) for i in range(4096)]
        self._fillings = [_text(rng, 40, 160) for _ in range(1024)]

    @staticmethod
    def _bid_end(rng: random.Random, number: int) -> tuple[bytes, bytes]:
        """``(channel and url, extra)`` of a bid: half of them over one of the hot channels."""
        if number % 2:
            channel = _CHANNELS[number // 2 % len(_CHANNELS)]
            query = "query=1"
        else:
            channel = f"channel-{rng.randrange(10_000)}"
            query = f"query=1&channel_id={rng.getrandbits(31)}"
        url = f"https://www.nexmark.com/{_text(rng, 3, 5)}/{_text(rng, 3, 5)}/{_text(rng, 3, 5)}/item.htm?{query}"
        return f'"channel":"{channel}","url":"{url}"'.encode(), f'"extra":"{_text(rng, 20, 60)}"'.encode()

    def block(self, number: int) -> tuple[list[Row], list[int]]:
        """The events of a block, and a random number for each."""
        rng = random.Random(f"nexmark {self._settings.seed} {number}")
        draws = _DRAWS.unpack(rng.randbytes(_DRAWS.size))
        rows: list[Row] = []
        for epoch in range(_BLOCK_EPOCHS):
            first = number * BLOCK + epoch * EPOCH
            self._epoch(rows, first, draws[epoch * EPOCH : (epoch + 1) * EPOCH], draws[BLOCK + epoch * EPOCH :])
        return rows, [draw >> 32 for draw in draws[BLOCK:]]

    def _time_ms(self, event: int) -> int:
        return self._settings.first_timestamp_ms + event * 1000 // self._settings.events_per_second

    def _epoch(self, rows: list[Row], first: int, draws: tuple[int, ...], more: tuple[int, ...]) -> None:
        person = first // EPOCH * PERSONS_OF_50
        auctions = first // EPOCH * AUCTIONS_OF_50
        rows.append(self._person(person, self._time_ms(first), draws[0]))
        for i in range(AUCTIONS_OF_50):
            event = first + PERSONS_OF_50 + i
            rows.append(self._auction(auctions + i, person, event, draws[PERSONS_OF_50 + i], more[PERSONS_OF_50 + i]))
        self._bids(rows, first, auctions + AUCTIONS_OF_50 - 1, person, draws)

    def _bids(self, rows: list[Row], first: int, newest_auction: int, newest_person: int, draws: tuple[int, ...]) -> None:
        base_ms, per_second = self._settings.first_timestamp_ms, self._settings.events_per_second
        prices, ends, new, add = self._prices, self._bid_ends, Row._make, rows.append
        hot_auction = newest_auction // _HOT * _HOT + FIRST_ID
        oldest_auction = max(newest_auction - _IN_FLIGHT_AUCTIONS, 0)
        auctions = newest_auction - oldest_auction + 1 + _ID_LEAD
        oldest_auction += FIRST_ID
        hot_bidder = newest_person // _HOT * _HOT + 1 + FIRST_ID
        oldest_person, people = _active(newest_person)
        modulus = self._settings.distinct_bidders
        for i in range(PERSONS_OF_50 + AUCTIONS_OF_50, EPOCH):
            draw = draws[i]
            time_ms = base_ms + (first + i) * 1000 // per_second
            auction = hot_auction if draw & 1 else oldest_auction + (draw >> 3 & 0xFFFF) % auctions
            bidder = hot_bidder if draw & 6 else oldest_person + (draw >> 19 & 0xFFFF) % people
            if modulus is not None:
                bidder = FIRST_ID + (draw >> 19 & 0xFFFFFFFF) % modulus
            where, extra = ends[draw >> 52]
            data = b'{"auction":%d,"bidder":%d,"price":%d,%b,"dateTime":%d,%b}' % (
                *(auction, bidder, prices[draw >> 35 & 0xFFFF]),
                *(where, time_ms, extra),
            )
            add(new((BID, time_ms, str(auction), data)))

    def _person(self, number: int, time_ms: int, draw: int) -> Row:
        first_name, last_name = _FIRST_NAMES[draw % 11], _LAST_NAMES[(draw >> 8) % 9]
        payload = {
            "id": FIRST_ID + number,
            "name": f"{first_name} {last_name}",
            "emailAddress": f"{first_name}.{last_name}@example.com".lower(),
            "creditCard": " ".join(f"{draw >> shift & 0x1FFF:04d}" for shift in (16, 24, 32, 40)),
            "city": _CITIES[(draw >> 44) % len(_CITIES)],
            "state": _STATES[(draw >> 50) % len(_STATES)],
            "dateTime": time_ms,
            "extra": self._fillings[draw >> 54],
        }
        return Row(PERSON, time_ms, str(payload["id"]), msgspec.json.encode(payload))

    def _auction(self, number: int, newest_person: int, event: int, draw: int, more: int) -> Row:
        time_ms = self._time_ms(event)
        oldest_person, people = _active(newest_person)
        seller = newest_person // _HOT * _HOT + FIRST_ID if draw & 3 else oldest_person + (draw >> 2 & 0xFFFF) % people
        horizon_ms = self._time_ms(event + _IN_FLIGHT_AUCTIONS * EPOCH // AUCTIONS_OF_50) - time_ms
        first_bid = self._prices[draw >> 18 & 0xFFFF]
        payload = {
            "id": FIRST_ID + number,
            "itemName": self._fillings[draw >> 34 & 0x3FF][:20],
            "description": self._fillings[draw >> 44 & 0x3FF],
            "initialBid": first_bid,
            "reserve": first_bid + self._prices[more & 0xFFFF],
            "dateTime": time_ms,
            "expires": time_ms + 1 + (more >> 16 & 0xFFFFFFFF) % max(2 * horizon_ms, 1),
            "seller": seller,
            "category": FIRST_CATEGORY + (more >> 48) % CATEGORIES,
            "extra": self._fillings[draw >> 54],
        }
        return Row(AUCTION, time_ms, str(payload["id"]), msgspec.json.encode(payload))


def _active(newest_person: int) -> tuple[int, int]:
    """``(the id of the oldest person who may act, how many may)``: the newest people, and a few still to come."""
    active = min(newest_person + 1, _ACTIVE_PEOPLE)
    return FIRST_ID + newest_person + 1 - active, active + _ID_LEAD


def _text(rng: random.Random, shortest: int, longest: int) -> str:
    return "".join(rng.choices(_LETTERS, k=rng.randint(shortest, longest)))
