"""A little of the fuzzing, the same each time: every input that is kept, and some that mutation and Hypothesis make of them."""

import random
from collections.abc import Iterator
from itertools import islice

import pytest
from fuzz_choices import Choices
from fuzz_expressions import written
from fuzz_mutation import mutants
from fuzz_target import CORPUS
from fuzz_targets import MODULES, target_of
from hypothesis import given, settings
from hypothesis import strategies as st

MUTANTS = {"expressions": 250, "flow_files": 300, "json_schemas": 60, "rest": 60, "sql": 12}
"""How many more each gets; 400 where nothing is said."""


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    yield
    for name in MODULES:
        target_of(name).close()


@pytest.mark.parametrize("name", MODULES)
def test_what_was_found_once_is_not_found_again(name: str) -> None:
    target = target_of(name)
    assert target.corpus()
    for data in target.corpus():
        target.tried(data)


@pytest.mark.parametrize("name", MODULES)
def test_some_mutations_break_no_promise(name: str) -> None:
    target, chance = target_of(name), random.Random(name)
    seeds = target.corpus()
    for data in islice(mutants(seeds, target.words, target.max_bytes, chance), len(seeds), len(seeds) + MUTANTS.get(name, 400)):
        target.tried(data)


@pytest.mark.parametrize("name", ["record_batches", "kafka_records", "journal", "messages", "cloudevents", "avro_data"])
@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_break_no_promise(name: str, data: bytes) -> None:
    target_of(name).tried(data)


def test_every_target_has_its_folder_of_inputs_and_there_is_no_other() -> None:
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(MODULES)


def test_the_same_decisions_are_made_of_the_same_bytes() -> None:
    data = random.Random(1).randbytes(400)
    assert written(Choices(data)) == written(Choices(data)) != written(Choices(data[::-1]))
