"""A query in Flink SQL, from Python, over a file of JSON lines, to a folder of such files; streaming, with a checkpoint a second.

Arguments: query, folder of inputs, folder to write, parallelism. It needs apache-flink and Java 17. Its start is that of the
JVM; the time in which the job is submitted counts as work. The watermark is a millisecond behind, as the manual has it for times
that may repeat: without that, bids of a window's last millisecond are late if a watermark comes between them.
"""

import sys
import time

started_s = time.perf_counter()
query, folder, out, parallelism = sys.argv[1:]

from pyflink.table import EnvironmentSettings, TableEnvironment  # noqa: E402 - its import is part of the start

SINKS = {
    "q1": "auction bigint, price double, bidder bigint, `dateTime` bigint, extra string",
    "sum_by_bidder": "bidder bigint, offered bigint, window_start bigint, window_end bigint",
}
QUERIES = {
    "q1": "select auction, cast(price as double) * cast(0.908 as double), bidder, `dateTime`, extra from bid",
    "sum_by_bidder": """
        select bidder, sum(price), min(`dateTime` - mod(`dateTime`, 10000)), min(`dateTime` - mod(`dateTime`, 10000)) + 10000
        from table(tumble(table bid, descriptor(bid_at), interval '10' seconds))
        group by bidder, window_start, window_end""",
}


def main() -> None:
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for name, value in {
        "parallelism.default": parallelism,
        "execution.checkpointing.interval": "1s",
        "table.exec.source.idle-timeout": "1s",  # a file's splits may all be one worker's
    }.items():
        tables.get_config().set(name, value)
    print("STARTED", time.perf_counter() - started_s, flush=True)
    tables.execute_sql(f"""
        create table bid (
            auction bigint, bidder bigint, price bigint, channel string, url string, `dateTime` bigint, extra string,
            bid_at as to_timestamp_ltz(`dateTime`, 3), watermark for bid_at as bid_at - interval '0.001' second
        ) with ('connector' = 'filesystem', 'path' = 'file://{folder}/bid.jsonl', 'format' = 'json')""")
    tables.execute_sql(f"""
        create table answer ({SINKS[query]})
        with ('connector' = 'filesystem', 'path' = 'file://{out}', 'format' = 'json')""")
    tables.execute_sql(f"insert into answer {QUERIES[query]}").wait()


main()
