"""The measured queries written by hand for Bytewax, as a practised user would write them, over the same chunks of events.

``fused_*``: stateless work is one function over a batch, only the fields that matter are decoded, in one call for a batch;
windows are summed up within a batch before their state is touched, and all keys of a shard share one ``stateful_batch`` key.
They rely on events that come in the order of their times, and close windows by the newest time. ``windowing_*``: Bytewax's own
window operators, used as documented. All hand on what any sink of events needs: ``(key, timestamp in ms, payload as JSON)``.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final, TypeAlias

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import Source
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.operators.windowing import EventClock, TumblingWindower, WindowOut, fold_window, join_window
from bytewax.outputs import Sink

from event_streaming_bus.flows.items import Chunk
from event_streaming_bus.models import rfc3339

from .generator import AUCTION, BID

Message: TypeAlias = tuple[str, int, bytes]
Update: TypeAlias = tuple[dict[int, dict[int, int]], int]
"""By start of the window and bidder what is to be added; and the newest time of the batch."""

WINDOW_MS: Final = 10_000
SHARDS: Final = 8
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STANDSTILL: Final = datetime(2000, 1, 1, tzinfo=UTC)
_encode: Final = msgspec.json.Encoder().encode


class ConvertedBid(msgspec.Struct, gc=False):
    auction: int = 0
    price: float = 0
    bidder: int = 0
    dateTime: int = 0  # noqa: N815 - the payload's name
    extra: str = ""


class _Price(msgspec.Struct, gc=False):
    auction: int = 0
    price: int = 0


class Offer(msgspec.Struct, gc=False):
    bidder: int = 0
    price: int = 0


class _Bidder(msgspec.Struct, gc=False):
    bidder: int = 0


class _Bid(msgspec.Struct, gc=False):
    auction: int = 0
    bidder: int = 0
    price: int = 0


class _Auction(msgspec.Struct, gc=False):
    id: int = 0
    category: int = 0
    seller: int = 0


def decoded(chunk: Chunk, decoder: "msgspec.json.Decoder[Any]") -> Iterable[tuple[str, str, int, Any]]:
    """``(event type, key, time, decoded payload)`` of each event."""
    return chain.from_iterable(
        zip(
            *(batch.column("event_type"), batch.column("key"), batch.timestamps_ms()),
            decoder.decode_lines(batch.payload_lines() or b"\n".join(batch.payloads())),
            strict=True,
        )
        for batch in chunk.batches
    )


# --- stateless ----------------------------------------------------------------------------------------------------------


def fused_q1(source: Source[Chunk], sink: Sink[Message]) -> Dataflow:
    """Every bid, its price in another currency."""
    decoder = msgspec.json.Decoder(ConvertedBid)

    def convert(chunks: list[Chunk]) -> list[Message]:
        out = []
        for chunk in chunks:
            for event_type, key, time_ms, bid in decoded(chunk, decoder):
                if event_type == BID:
                    bid.price *= 0.908
                    out.append((key, time_ms, _encode(bid)))
        return out

    return _stateless("fused_q1", source, convert, sink)


def fused_q2(source: Source[Chunk], sink: Sink[Message]) -> Dataflow:
    """The bids on some of the auctions."""
    decoder = msgspec.json.Decoder(_Price)

    def select(chunks: list[Chunk]) -> list[Message]:
        return [
            (key, time_ms, _encode(bid))
            for chunk in chunks
            for event_type, key, time_ms, bid in decoded(chunk, decoder)
            if event_type == BID and bid.auction % 123 == 0
        ]

    return _stateless("fused_q2", source, select, sink)


def _stateless(name: str, source: Source[Chunk], mapper: Callable[[list[Chunk]], list[Message]], sink: Sink[Message]) -> Dataflow:
    flow = Dataflow(name)
    op.output("out", op.flat_map_batch("map", op.input("in", flow, source), mapper), sink)
    return flow


# --- tumbling windows ---------------------------------------------------------------------------------------------------


class _Windows(StatefulBatchLogic[Update, Message, Any]):
    """The open windows of one shard: by start, what each bidder has."""

    def __init__(self, field: str, resume: Any) -> None:
        self._field = field
        self._open: dict[int, dict[int, int]] = resume or {}

    def on_batch(self, values: list[Update]) -> tuple[list[Message], bool]:
        out: list[Message] = []
        for windows, newest_ms in values:
            for start_ms, added in windows.items():
                totals = self._open.setdefault(start_ms, {})
                for bidder, number in added.items():
                    totals[bidder] = totals.get(bidder, 0) + number
            out += self._close(newest_ms)
        return out, StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[Message], bool]:
        return self._close(None), StatefulBatchLogic.RETAIN

    def _close(self, newest_ms: int | None) -> list[Message]:
        out: list[Message] = []
        for start_ms in sorted(self._open):
            end_ms = start_ms + WINDOW_MS
            if newest_ms is None or end_ms <= newest_ms:
                start, end = rfc3339(start_ms), rfc3339(end_ms)
                for bidder, number in self._open.pop(start_ms).items():
                    row = {"bidder": bidder, "window_start": start, "window_end": end, self._field: number}
                    out.append((str(bidder), end_ms, _encode(row)))
        return out

    def snapshot(self) -> Any:
        return {start_ms: dict(totals) for start_ms, totals in self._open.items()}


def fused_sum(source: Source[Chunk], sink: Sink[Message]) -> Dataflow:
    """What each bidder offers in every 10 s."""
    decoder = msgspec.json.Decoder(Offer)

    def summed(chunk: Chunk) -> tuple[dict[tuple[int, int], int], int]:
        sums: dict[tuple[int, int], int] = {}
        get, newest_ms = sums.get, 0
        for event_type, _, time_ms, bid in decoded(chunk, decoder):
            if event_type == BID:
                place = time_ms - time_ms % WINDOW_MS, bid.bidder
                sums[place] = get(place, 0) + bid.price
                newest_ms = time_ms
        return sums, newest_ms

    return _windowed("fused_sum", source, summed, "offered", sink)


def fused_q12(source: Source[Chunk], sink: Sink[Message]) -> Dataflow:
    """How many bids each bidder makes in every 10 s."""
    decoder = msgspec.json.Decoder(_Bidder)

    def counted(chunk: Chunk) -> tuple[dict[tuple[int, int], int], int]:
        counts: dict[tuple[int, int], int] = {}
        get, newest_ms = counts.get, 0
        for event_type, _, time_ms, bid in decoded(chunk, decoder):
            if event_type == BID:
                place = time_ms - time_ms % WINDOW_MS, bid.bidder
                counts[place] = get(place, 0) + 1
                newest_ms = time_ms
        return counts, newest_ms

    return _windowed("fused_q12", source, counted, "bids", sink)


def _windowed(
    name: str,
    source: Source[Chunk],
    combine: Callable[[Chunk], tuple[dict[tuple[int, int], int], int]],
    field: str,
    sink: Sink[Message],
) -> Dataflow:
    shards = [str(shard) for shard in range(SHARDS)]

    def combined(chunks: list[Chunk]) -> list[tuple[str, Update]]:
        out: list[tuple[str, Update]] = []
        for chunk in chunks:
            totals, newest_ms = combine(chunk)
            updates: list[dict[int, dict[int, int]]] = [{} for _ in shards]
            for (start_ms, bidder), number in totals.items():
                updates[bidder % SHARDS].setdefault(start_ms, {})[bidder] = number
            out += [(shard, (update, newest_ms)) for shard, update in zip(shards, updates, strict=True)]
        return out

    flow = Dataflow(name)
    updates: KeyedStream[Update] = op.flat_map_batch("combine", op.input("in", flow, source), combined)
    closed: KeyedStream[Message] = op.stateful_batch("windows", updates, lambda resume: _Windows(field, resume))
    op.output("out", op.key_rm("messages", closed), sink)
    return flow


# --- Bytewax's window operators -----------------------------------------------------------------------------------------


def _clock(wait_s: int = 0) -> EventClock[Any]:
    """Event time alone: the system's clock stands still, for history is read faster than it happened."""
    return EventClock(lambda value: value[0], wait_for_system_duration=timedelta(seconds=wait_s), now_getter=lambda: _STANDSTILL)


def _windower() -> TumblingWindower:
    return TumblingWindower(length=timedelta(milliseconds=WINDOW_MS), align_to=_EPOCH)


def _timed(chunks: list[Chunk], event_type: str, key: str, decoder: "msgspec.json.Decoder[Any]") -> list[tuple[str, Any]]:
    """``(field, (time, payload))`` of the events of a type."""
    return [
        (str(getattr(payload, key)), (datetime.fromtimestamp(time_ms / 1000, UTC), payload))
        for chunk in chunks
        for found, _, time_ms, payload in decoded(chunk, decoder)
        if found == event_type
    ]


def windowing_sum(source: Source[Chunk], sink: Sink[Message]) -> Dataflow:
    """What each bidder offers in every 10 s, with ``fold_window``."""
    decoder = msgspec.json.Decoder(Offer)

    def message(item: tuple[str, tuple[int, int]]) -> Message:
        bidder, (window_id, offered) = item
        start_ms = window_id * WINDOW_MS
        times = {"window_start": rfc3339(start_ms), "window_end": rfc3339(start_ms + WINDOW_MS)}
        return bidder, start_ms + WINDOW_MS, _encode({"bidder": int(bidder), **times, "offered": offered})

    flow = Dataflow("windowing_sum")
    chunks: Stream[Chunk] = op.input("in", flow, source)
    bids: KeyedStream[Any] = op.flat_map_batch("bids", chunks, lambda chunks: _timed(chunks, BID, "bidder", decoder))
    sums: WindowOut[Any, int] = fold_window(
        "sums", bids, _clock(), _windower(), int, lambda total, bid: total + bid[1].price, lambda one, other: one + other
    )
    op.output("out", op.map("messages", sums.down, message), sink)
    return flow


def windowing_join(source: Source[Chunk], sink: Sink[Message]) -> Dataflow:
    """Bids with their auctions, opened in the same 10 s, with ``join_window``."""
    bid_decoder, auction_decoder = msgspec.json.Decoder(_Bid), msgspec.json.Decoder(_Auction)

    def messages(items: list[Any]) -> list[Message]:
        out = []
        for key, (window_id, (bid, auction)) in items:
            if bid is not None and auction is not None:
                bid, auction = bid[1], auction[1]
                row = {
                    "auction": bid.auction,
                    "bidder": bid.bidder,
                    "price": bid.price,
                    "category": auction.category,
                    "seller": auction.seller,
                }
                out.append((key, (window_id + 1) * WINDOW_MS, _encode(row)))
        return out

    flow = Dataflow("windowing_join")
    chunks: Stream[Chunk] = op.input("in", flow, source)
    bids: KeyedStream[Any] = op.flat_map_batch("bids", chunks, lambda chunks: _timed(chunks, BID, "auction", bid_decoder))
    auctions: KeyedStream[Any] = op.flat_map_batch(
        "auctions", chunks, lambda chunks: _timed(chunks, AUCTION, "id", auction_decoder)
    )
    # Of a chunk one side comes first, as a whole, so the other side has to be waited for.
    joined = join_window(
        "joined", _clock(WINDOW_MS // 1000), _windower(), bids, auctions, insert_mode="product", emit_mode="final"
    )
    op.output("out", op.flat_map_batch("messages", joined.down, messages), sink)
    return flow
