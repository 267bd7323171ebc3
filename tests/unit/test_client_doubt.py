"""What a client says of a request that may have been carried out, whatever became of the tries after it."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from event_streaming_bus import EventConfig
from event_streaming_bus.client import ClientOptions, sync
from event_streaming_bus.client.client_errors import ServerUnreachableError

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextmanager
def answering(answers: Sequence[bytes]) -> Iterator[str]:
    """The URL of a server that reads one request on each connection, gives the next answer, of which ``b""`` is none, and after
    the last one is gone."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for number, answer in enumerate(answers, 1):
            connection, _ = listener.accept()
            with connection:
                if number == len(answers):
                    listener.close()
                connection.recv(1 << 16)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join()


@pytest.mark.parametrize("answers", [[b""], [b"", BUSY]])
def test_a_lost_connection_stays_in_doubt(answers: list[bytes]) -> None:
    """The second try finds no server, or one that is busy: that it was not carried out says nothing of the first one."""
    with answering(answers) as url, sync.connect(url, options=ClientOptions(retry_for_s=1.5)) as bus:
        with pytest.raises(ServerUnreachableError, match="was lost during POST") as caught:
            bus.publishing.publish_event(EventConfig(event_type="t"), {})
        assert "Nothing was sent" not in caught.value.message


def test_what_was_never_sent_is_told_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with (
        sync.connect(url, options=ClientOptions(retry_for_s=1)) as bus,
        pytest.raises(ServerUnreachableError, match="Nothing was sent"),
    ):
        bus.publishing.publish_event(EventConfig(event_type="t"), {})
