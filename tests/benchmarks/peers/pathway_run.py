"""A query in Pathway over a file of JSON lines, to such a file.

Arguments: query, folder of inputs, file to write, worker threads. It needs nothing but pathway. Its rows say whether they are
added or taken back (``diff``) and when. The sums are grouped by the start of the window, which is faster than its ``windowby``.
"""

import os
import sys
import time

started_s = time.perf_counter()
query, folder, out, threads = sys.argv[1:]
os.environ["PATHWAY_THREADS"] = threads
os.environ["PATHWAY_MONITORING_SERVER"] = ""

import pathway as pw  # noqa: E402 - it reads the variables when it is imported

WINDOW_MS = 10_000


class Bid(pw.Schema):
    auction: int
    bidder: int
    price: int
    dateTime: int  # noqa: N815 - the payload's name
    extra: str


def q1(bids: pw.Table) -> pw.Table:
    return bids.select(bids.auction, bids.bidder, bids.dateTime, bids.extra, price=bids.price * 0.908)


def sum_by_bidder(bids: pw.Table) -> pw.Table:
    timed = bids.select(bids.bidder, bids.price, window_start=bids.dateTime - bids.dateTime % WINDOW_MS)
    sums = timed.groupby(timed.bidder, timed.window_start).reduce(
        timed.bidder, timed.window_start, offered=pw.reducers.sum(timed.price)
    )
    return sums.select(sums.bidder, sums.window_start, sums.offered, window_end=sums.window_start + WINDOW_MS)


def main() -> None:
    bids = pw.io.jsonlines.read(f"{folder}/bid.jsonl", schema=Bid, mode="static")
    pw.io.jsonlines.write({"q1": q1, "sum_by_bidder": sum_by_bidder}[query](bids), out)
    print("STARTED", time.perf_counter() - started_s, flush=True)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


main()
