"""What the log leaves behind in memory."""

import gc

from event_streaming_bus import ids
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import temporary_bus


def test_an_append_leaves_no_event_to_the_garbage_collector() -> None:
    with temporary_bus() as bus:
        bus.create_stream("s")
        stream = bus.log.find_stream("default", "s")
        flags = gc.get_debug()
        gc.collect()
        gc.disable()
        try:
            gc.set_debug(gc.DEBUG_SAVEALL)
            for new_ids in (True, False):
                events = [Event(ids.new_id(ids.EVENT), "t", 0, b"{}") for _ in range(3)]
                result = bus.log.append([Append(stream.stream_id, events, new_ids=new_ids)])
                assert len(result[0].receipts()) == 3
                del events, result
            gc.collect()
            left = {type(each).__name__ for each in gc.garbage}
        finally:
            gc.set_debug(flags)
            gc.garbage.clear()
            gc.enable()
    assert not left & {"AppendResult", "Transaction", "Receipt"}
