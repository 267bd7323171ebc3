"""A query in Polars over a file of JSON lines, to such a file: a bound, for it sees all of its input at once and keeps no state.

Arguments: query, folder of inputs, file to write, threads. It needs nothing but polars.
"""

import os
import sys
import time

started_s = time.perf_counter()
query, folder, out, threads = sys.argv[1:]
os.environ["POLARS_MAX_THREADS"] = threads

import polars as pl  # noqa: E402 - it reads the variable when it is imported

WINDOW_MS = 10_000
NUMBERS = ("auction", "bidder", "price", "dateTime")
TEXTS = ("channel", "url", "extra")


def q1(bids: pl.LazyFrame) -> pl.LazyFrame:
    return bids.select("auction", pl.col("price").cast(pl.Float64) * 0.908, "bidder", "dateTime", "extra")


def sum_by_bidder(bids: pl.LazyFrame) -> pl.LazyFrame:
    start = pl.col("dateTime") - pl.col("dateTime") % WINDOW_MS
    sums = bids.group_by("bidder", start.alias("window_start")).agg(offered=pl.col("price").sum())
    return sums.with_columns(window_end=pl.col("window_start") + WINDOW_MS)


def main() -> None:
    schema = pl.Schema({**dict.fromkeys(NUMBERS, pl.Int64), **dict.fromkeys(TEXTS, pl.String)})
    bids = pl.scan_ndjson(f"{folder}/bid.jsonl", schema=schema)
    print("STARTED", time.perf_counter() - started_s, flush=True)
    {"q1": q1, "sum_by_bidder": sum_by_bidder}[query](bids).sink_ndjson(out)


main()
