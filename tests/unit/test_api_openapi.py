"""The OpenAPI document says what the server does: every example in it is carried out."""

from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from api_examples import is_json, run
from running import served

from event_streaming_bus.api.openapi.document import operation_id
from event_streaming_bus.api.openapi.examples import Step, by_operation, steps

# Event streams do not end, and what a query is asked for depends on what runs: these have no example that could be repeated.
WITHOUT_EXAMPLE = {
    ("GET", "/api/v1/consumer-groups/{group}/events"),
    ("DELETE", "/api/v1/history/queries/{query_id}"),
}
PROBLEM = {"$ref": "#/components/schemas/Problem"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{url}/docs/openapi.json", timeout=30).json()
    return answer


def operations(document: dict[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield (method.upper(), path), operation


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = 0

    def look(value: Any) -> None:
        nonlocal found
        if isinstance(value, dict):
            if isinstance(reference := value.get("$ref"), str):
                target: Any = document
                for part in reference.removeprefix("#/").split("/"):
                    target = target[part]
                found += 1
            for name, each in value.items():
                if name != "example":  # which may hold references of its own
                    look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)

    look(document)
    assert (document["openapi"][:3], found > 100) == ("3.1", True)


def test_every_operation_has_an_id_that_follows_from_its_address(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert ids == [operation_id(*key) for key, _ in operations(document)]
    assert operation_id("GET", "/api/v1/streams/{stream}/events") == "get_streams_stream_events"


def test_every_operation_says_how_it_fails_and_with_what(document: dict[str, Any]) -> None:
    for status, answer in document["components"]["responses"].items():
        assert answer["content"] == {"application/problem+json": {"schema": PROBLEM}}, status
    for (method, path), operation in operations(document):
        if not path.startswith("/api/"):
            continue
        wanted = (
            {"400", "401", "403", "429"}
            | ({"404"} if "{" in path else set())
            | ({"413"} if "requestBody" in operation else set())
        )
        assert wanted <= operation["responses"].keys(), (method, path)
        assert any(status.startswith("2") for status in operation["responses"]), (method, path)
        if method == "GET":
            assert "requestBody" not in operation


def test_every_operation_has_an_example(document: dict[str, Any]) -> None:
    of_api = {key for key, _ in operations(document) if key[1].startswith("/api/")}
    missing = of_api - by_operation().keys() - WITHOUT_EXAMPLE
    assert not missing, "python tests/unit/api_examples.py records what is added to api/openapi/examples.json"
    for (method, path), operation in operations(document):
        body = operation.get("requestBody")
        example = by_operation().get((method, path))
        if body is not None and example is not None:
            content = body["content"]["application/json"]
            schema = content["schema"] | {"components": document["components"]}
            jsonschema.validate(content["example"], schema, cls=jsonschema.Draft202012Validator)


def test_every_example_is_answered_as_the_document_says(url: str, document: dict[str, Any]) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        for step, answer, _ in run(client, list(steps())):
            assert answer.status_code == step.status, f"{step.operation}: {answer.text}"
            method, path = step.key
            told = document["paths"][path][method.lower()]["responses"][str(step.status)]
            media_type = answer.headers["content-type"].partition(";")[0]
            assert media_type in told["content"], step.operation
            if is_json(answer):
                _compare(step, answer.json(), step.answer, step.operation)
                schema = told["content"]["application/json"]["schema"] | {"components": document["components"]}
                jsonschema.validate(answer.json(), schema, cls=jsonschema.Draft202012Validator)


def _compare(step: Step, answer: Any, example: Any, place: str) -> None:
    """The answer has the members of the example, and those alone; what counts, times and ids may be others."""
    if example is None or answer is None:
        return
    if isinstance(example, dict):
        assert isinstance(answer, dict), place
        assert answer.keys() == example.keys(), place
        for name, each in example.items():
            _compare(step, answer[name], each, f"{place}.{name}")
    elif isinstance(example, list):
        assert isinstance(answer, list), place
        for got, each in zip(answer, example, strict=False):
            _compare(step, got, each, f"{place}[]")
    elif isinstance(example, int | float):
        assert isinstance(answer, int | float), place
    else:
        assert isinstance(answer, str), place
