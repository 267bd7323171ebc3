"""The clock is set while a flow runs, for its process and for all that it is made of: libfaketime stands before the C library."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from history_places import FakeClock, fake_clock_libraries, forget_clocks

from event_streaming_bus import EventConfig, open_bus
from event_streaming_bus.testing import read_all

pytestmark = pytest.mark.skipif(
    not fake_clock_libraries(), reason="jumps of the clock need libfaketime (Debian's package faketime) and a C compiler"
)
FLOW = """
streams:
  - name: numbers
    partitions: 4
  - name: evens
processors:
  - processor_name: even
    processor_type: FILTER
    source_stream_id: numbers
    target_stream_id: evens
    processing_logic:
      filter_expression: payload.n % 2 == 0
"""


def test_a_flow_reads_on_when_the_clock_is_set(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    clock, data = FakeClock(tmp_path), tmp_path / "data"
    with open_bus(data) as bus, (tmp_path / "output").open("w") as output:
        bus.create_stream("numbers", partitions=4)
        bus.create_stream("evens")
        esb = Path(sys.executable).with_name("esb")
        flow = subprocess.Popen(
            [esb, "--data", data, "run", tmp_path / "flow.yaml"], env=os.environ | clock.environment, stdout=output, stderr=output
        )
        try:
            published = 0
            for seconds in (0, 3600, -3600, 0):
                clock.jump(seconds)
                time.sleep(0.3)
                for number in range(20):
                    config = EventConfig(event_type="t", key=f"k{number}")
                    asyncio.run(bus.publishing.publish_event(config, {"n": number}, "numbers"))
                published += 10
                until_s = time.monotonic() + 60
                while len(read_all(bus, "evens")) < published:
                    assert time.monotonic() < until_s, f"{seconds}: {(tmp_path / 'output').read_text()[-2000:]}"
                    time.sleep(0.05)
            flow.terminate()
            flow.wait(60)  # it stops as well
        finally:
            flow.kill()
            flow.wait(30)
            forget_clocks()
