"""A process that is a member of a group, for tests that kill or stop it: ``python kafka_members.py URL GROUP STREAM``.

It prints what it does, a line each: ``member ID``, ``delivered EVENT...`` for a poll with events, ``committed EVENT...`` once
those are committed, or ``fenced`` if that was refused. With the word ``slow`` as its last argument, it waits for a line on its
standard input before each commit.
"""

import asyncio
import sys

from event_streaming_bus.bus import open_bus
from event_streaming_bus.errors import FencedError


async def main(url: str, group: str, stream: str, *more: str) -> None:
    with open_bus(url) as bus:
        async with bus.consumer(group, [stream], auto_commit=False, max_poll_events=20) as consumer:
            print("member", consumer.member_id, flush=True)
            while True:
                events = [event.event_id for event in await consumer.poll(timeout_s=1)]
                if not events:
                    continue
                print("delivered", *events, flush=True)
                if "slow" in more:
                    await asyncio.to_thread(sys.stdin.readline)
                try:
                    await consumer.commit()
                    print("committed", *events, flush=True)
                except FencedError:
                    print("fenced", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
