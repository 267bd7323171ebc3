"""Flow files: any bytes are a flow, or a ``FlowError`` that says where."""

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from fuzz_target import Target

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.flow_file import MAX_DEPTH, MAX_VALUES, read_flow_file
from event_streaming_bus.flows.lint import lint
from event_streaming_bus.flows.spec import load_flow

SUFFIXES: Final = (".yaml", ".json", ".toml")


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="esb-fuzz-"))


def close() -> None:
    shutil.rmtree(folder())
    folder.cache_clear()


def run(data: bytes) -> None:
    """The first byte chooses the format."""
    file = folder() / f"flow{SUFFIXES[data[0] % 3] if data else '.yaml'}"
    file.write_bytes(data[1:])
    try:
        document = read_flow_file(file)
        check_size(document.data)
        for finding in lint(load_flow(file)):
            str(finding).encode()
    except FlowError as error:
        str(error).encode()


def check_size(data: object) -> None:
    """Text that can be written, no deeper and no larger than files may be, aliases counted as often as they are used."""
    waiting, seen = [(data, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        seen += 1
        assert depth <= MAX_DEPTH + 1
        assert seen <= 2 * MAX_VALUES
        if isinstance(each, str):
            each.encode()
        elif isinstance(each, dict):
            "".join(each).encode()
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        waiting += [(item, depth + 1) for item in inner]


_WORDS: Final = (
    *(
        b"&a [*a]",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!python/object/apply:os.system [id]",
        b"!!binary ",
        b"? ",
        b"---\n",
        b"...",
        b"%YAML 1.1\n",
    ),
    *(
        b"a.b.c.d",
        b"[[a.b]]",
        b'"""',
        b"'''",
        b'\\ud800"',
        b'"\\u0000"',
        b"1e999",
        b"NaN",
        b"inf",
        b"0o7",
        b"1979-05-27T07:32:00Z",
    ),
    *(
        b"processors:\n",
        b"- processor_name: p\n",
        b"processing_logic:",
        b"window_config:",
        b"filter_expression:",
        b"source_stream_id: s",
    ),
    *(
        b"processor_type: AGGREGATE",
        b"streams:",
        b"schemas:",
        b"tests:",
        b"aggregations:",
        b"group_by:",
        b"size_ms: 1000",
        b"parallelism: ",
    ),
)  # fmt: skip
FLOW_FILES: Final = Target("flow_files", run, 8192, _WORDS, close)
