"""A query in DuckDB over files of JSON lines, to such a file: a bound, for it sees all of its input at once and keeps no state.

Arguments: query, folder of inputs, file to write, threads. It needs nothing but duckdb.
"""

import sys
import time
from pathlib import Path

import duckdb

QUERIES = Path(__file__).parents[1] / "nexmark" / "queries"
COLUMNS = {
    "person": "id name:t emailAddress:t creditCard:t city:t state:t dateTime extra:t",
    "auction": "id itemName:t description:t initialBid reserve dateTime expires seller category extra:t",
    "bid": "auction bidder price channel:t url:t dateTime extra:t",
}


def main() -> None:
    started_s = time.perf_counter()
    query, folder, out, threads = sys.argv[1:]
    database = duckdb.connect(config={"threads": threads})
    for name, columns in COLUMNS.items():
        types = {c.removesuffix(":t"): "varchar" if c.endswith(":t") else "bigint" for c in columns.split()}
        database.execute(f"create view {name} as from read_json('{folder}/{name}.jsonl', format = 'nd', columns = {types})")
    print("STARTED", time.perf_counter() - started_s, flush=True)
    database.execute(f"copy ({(QUERIES / f'{query}.sql').read_text()}) to '{out}' (format json)")


main()
