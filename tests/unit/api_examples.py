"""Runs the examples of the OpenAPI document. ``python tests/unit/api_examples.py`` records the answers to them anew."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from event_streaming_bus.api.openapi import examples
from event_streaming_bus.api.openapi.examples import Step, filled

_MOST_ITEMS = 2
FILE = Path(examples.__file__).with_name("examples.json")


def run(client: httpx.Client, steps: list[Step]) -> Iterator[tuple[Step, httpx.Response, dict[str, str]]]:
    """Each step with its answer, and with what was known by then of what earlier ones call ``$name``."""
    known: dict[str, str] = {}
    for step in steps:
        method, route = step.key
        address = route
        for name, value in step.path.items():
            address = address.replace(f"{{{name}}}", filled(value, known))
        content = None if step.body is msgspec.UNSET else msgspec.json.encode(filled(step.body, known))
        query = {name: str(value).lower() if isinstance(value, bool) else value for name, value in step.query.items()}
        answer = client.request(method, address, params=filled(query, known), content=content, headers=step.headers)
        yield step, answer, dict(known)
        if step.save and answer.is_success:
            told = answer.json()
            known |= {name: str(_member(told, place)) for name, place in step.save.items()}


def _member(told: Any, place: str) -> Any:
    for part in place.split("."):
        told = told[int(part)] if isinstance(told, list) else told[part]
    return told


def shortened(value: Any) -> Any:
    """An answer with the first items of its lists alone."""
    if isinstance(value, dict):
        return {name: shortened(each) for name, each in value.items()}
    return [shortened(each) for each in value[:_MOST_ITEMS]] if isinstance(value, list) else value


def is_json(answer: httpx.Response) -> bool:
    return answer.headers.get("content-type", "").startswith("application/json")


def record(client: httpx.Client, steps: list[Step]) -> list[Step]:
    """The steps with the answers that they get."""
    recorded = []
    for step, answer, known in run(client, steps):
        if not answer.is_success:
            raise SystemExit(f"{step.operation}: {answer.status_code} {answer.text}")
        told = shortened(answer.json()) if is_json(answer) else None
        if step.operation == "POST /api/v1/tokens":
            told["token"] = "esb_..."
        recorded.append(msgspec.structs.replace(step, status=answer.status_code, answer=told, values=_used(step, known)))
    return recorded


def _used(step: Step, known: dict[str, str]) -> dict[str, str]:
    text = msgspec.json.encode([step.path, step.query, None if step.body is msgspec.UNSET else step.body]).decode()
    return {name: value for name, value in known.items() if f'"${name}"' in text}


def _plain(step: Step) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(step)
    return {name: value for name, value in told.items() if value not in ({}, None) or name == "body"}


def main(source: Path) -> None:
    from running import served

    steps = msgspec.json.decode(source.read_bytes(), type=list[Step])
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url, httpx.Client(base_url=url, timeout=60) as client:
        recorded = [_plain(step) for step in record(client, steps)]
    lines = ",\n".join(msgspec.json.encode(step).decode() for step in recorded)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
