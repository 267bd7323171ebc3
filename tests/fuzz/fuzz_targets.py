"""All targets, by name. Each is imported when it is asked for: an engine that watches coverage then watches that part alone."""

import importlib
from typing import Final

from fuzz_target import Target

MODULES: Final = {
    "expressions": "fuzz_expressions",
    "flow_files": "fuzz_files",
    "json_schemas": "fuzz_schemas",
    "avro_schemas": "fuzz_schemas",
    "avro_data": "fuzz_schemas",
    "record_batches": "fuzz_log",
    "kafka_records": "fuzz_log",
    "cloudevents": "fuzz_log",
    "journal": "fuzz_log",
    "messages": "fuzz_messages",
    "words": "fuzz_messages",
    "rest": "fuzz_api",
    "sql": "fuzz_sql",
}
"""The names of all targets, and the modules that have them under their names in capitals."""


def target_of(name: str) -> Target:
    """The target of this name."""
    target: Target = getattr(importlib.import_module(MODULES[name]), name.upper())
    assert target.name == name
    return target
