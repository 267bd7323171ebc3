"""Functions of users: which ones are loaded, how they are called, and what may come of it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from event_streaming_bus.errors import ConfigError, FlowError
from event_streaming_bus.flows.checker import Problems
from event_streaming_bus.flows.custom_calls import BatchCalls, EventCalls, Failed, Outcome, calls_of
from event_streaming_bus.flows.custom_functions import (
    CUSTOM_MODULES,
    allow_modules,
    allowed_modules,
    check_function,
    import_from_working_folder,
    load_function,
)
from event_streaming_bus.flows.custom_outputs import MAX_OUTPUTS, outputs_of
from event_streaming_bus.flows.processors.custom import CustomForm, CustomLogic
from event_streaming_bus.flows.retries import Retrier, once
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.models import Event, SerializationFormat

PATH = ("processors", 2, "processing_logic")
WHERE = "processors[2].processing_logic"
MODULE = """
import functools
import os
from os import system
from subprocess import Popen

RATES = {"EUR": 1.1}

def convert(event, rate=1):
    return None

def strict(event, rate):
    return None

def keyed(event, state, limit=0):
    return None

async def later(event):
    return None

def several(event):
    yield None

class Converter:
    def __call__(self, event):
        return None

instance = Converter()
cached = functools.lru_cache(convert)
partial = functools.partial(os.system)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules, importable; ``acme`` and those below it are allowed."""
    monkeypatch.setenv(CUSTOM_MODULES, "acme")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "__init__.py").write_text("")
    (tmp_path / "acme" / "flows.py").write_text(MODULE)
    (tmp_path / "acmeother.py").write_text(MODULE)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("acme", "acmeother"):
            del sys.modules[name]


def load(function: str, form: CustomForm = CustomForm.EVENT, **params: Any) -> Callable[..., Any]:
    return load_function(CustomLogic(function=function, form=form, params=params), PATH)


def refused(function: str, form: CustomForm = CustomForm.EVENT, **params: Any) -> FlowError:
    with pytest.raises(FlowError) as caught:
        load(function, form, **params)
    error = caught.value
    assert error.message.startswith(f"{error.details['path']}: ")
    assert error.details["errors"][0]["path"] == error.details["path"]
    return error


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["convert", "instance", "cached"])
def test_a_function_of_an_allowed_module_is_loaded(modules: Path, name: str) -> None:
    assert load(f"acme.flows:{name}") is getattr(sys.modules["acme.flows"], name)


def test_nothing_is_allowed_by_default(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUSTOM_MODULES)
    told = refused("acme.flows:convert").message
    assert told == (
        f"{WHERE}.function: the module acme.flows is not allowed (allowed: none); "
        "allow it with --allow-module acme.flows or the environment variable ESB_CUSTOM_MODULES"
    )
    assert "acme.flows" not in sys.modules


def test_a_module_whose_name_merely_begins_like_an_allowed_one_is_not_allowed(modules: Path) -> None:
    assert "acmeother is not allowed (allowed: acme)" in refused("acmeother:convert").message


def test_a_module_above_an_allowed_one_is_not_allowed(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUSTOM_MODULES, "acme.flows")
    assert "acme is not allowed" in refused("acme:convert").message
    assert load("acme.flows:convert")


@pytest.mark.parametrize(("name", "home"), [("system", os.system.__module__), ("partial", "functools")])
def test_what_an_allowed_module_has_imported_is_refused(modules: Path, name: str, home: str) -> None:
    assert (
        f"acme.flows:{name} comes from the module {home}, which is not allowed (allowed: acme)"
        in refused(f"acme.flows:{name}").message
    )


@pytest.mark.parametrize(
    "function", ["acme.flows", "acme.flows:os.system", "acme flows:f", "acme.flows:", ":f", "acme..flows:f", "a:b:c"]
)
def test_what_is_no_name_of_a_function_is_refused(modules: Path, function: str) -> None:
    assert "expected module:function, such as" in refused(function).message


@pytest.mark.parametrize("function", ["acme.__init__:convert", "acme.flows:__builtins__", "__main__:f"])
def test_names_of_pythons_own_are_refused(modules: Path, function: str) -> None:
    assert "expected names that do not begin with two underscores" in refused(function).message


def test_a_name_is_checked_without_importing_anything(modules: Path) -> None:
    problems = Problems()
    assert check_function("acme.flows:convert", (*PATH, "function"), problems)
    assert not check_function("os:system", (*PATH, "function"), problems)
    assert [problem.path for problem in problems.found] == [(*PATH, "function")]
    assert "acme.flows" not in sys.modules


def test_a_module_that_is_not_there_is_told(modules: Path) -> None:
    error = refused("acme.missing:convert")
    assert "there is no module acme.missing; install it, or start from the folder that holds it" in error.message
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_a_module_that_imports_what_is_not_there_is_told(modules: Path) -> None:
    (modules / "acme" / "broken.py").write_text("import no_such_library")
    assert "acme.broken cannot be imported: No module named 'no_such_library'" in refused("acme.broken:f").message


@pytest.mark.parametrize(
    ("code", "told"), [("1 / 0", "ZeroDivisionError"), ("def f(", "SyntaxError"), ("raise SystemExit(3)", "SystemExit")]
)
def test_a_module_that_fails_while_it_is_imported_is_told_with_the_cause_kept(modules: Path, code: str, told: str) -> None:
    (modules / "acme" / "failing.py").write_text(code)
    error = refused("acme.failing:f")
    assert f"acme.failing cannot be imported: {told}" in error.message
    assert type(error.__cause__).__name__ == told


def test_a_missing_function_is_told_with_the_nearest(modules: Path) -> None:
    assert "has no function 'convrt'; did you mean 'convert'?" in refused("acme.flows:convrt").message


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("RATES", "is a dict"),
        ("Converter", "is a class"),
        ("later", "is an async function"),
        ("several", "is a generator function"),
    ],
)
def test_what_cannot_be_called_as_a_function_is_told(modules: Path, name: str, told: str) -> None:
    assert told in refused(f"acme.flows:{name}").message


def test_params_that_the_function_does_not_take_are_told_before_it_is_called(modules: Path) -> None:
    error = refused("acme.flows:convert", rates=1)
    assert error.details["path"] == f"{WHERE}.params"
    assert "unexpected keyword argument 'rates'; it is defined with (event, rate=1)" in error.message


def test_params_that_are_missing_are_told_before_it_is_called(modules: Path) -> None:
    assert "missing a required argument: 'rate'" in refused("acme.flows:strict").message
    assert load("acme.flows:strict", rate=2)


def test_a_function_of_another_form_is_told(modules: Path) -> None:
    assert (
        "cannot be called as instance(event, state) in the form keyed" in refused("acme.flows:instance", CustomForm.KEYED).message
    )
    assert "missing a required argument: 'state'" in refused("acme.flows:keyed").message


def test_more_modules_can_be_allowed_and_child_processes_know(modules: Path) -> None:
    allow_modules(["acmeother", "acme", "my_functions"])
    assert allowed_modules() == ("acme", "acmeother", "my_functions")
    told = subprocess.run(
        [sys.executable, "-c", f"import os; print(os.environ[{CUSTOM_MODULES!r}])"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "acme,acmeother,my_functions"


@pytest.mark.parametrize("name", ["*", "acme.*", "", "a b", "a:f", "a,b"])
def test_what_is_no_name_of_a_module_cannot_be_allowed(modules: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--allow-module: expected names of modules"):
        allow_modules([name])


def test_spaces_and_empty_names_in_the_environment_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUSTOM_MODULES, " acme , ,my.flows,")
    assert allowed_modules() == ("acme", "my.flows")


def test_a_bad_name_in_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUSTOM_MODULES, "acme;other")
    with pytest.raises(ConfigError, match="ESB_CUSTOM_MODULES: expected names of modules"):
        allowed_modules()


LOAD_FROM_HERE = """
from event_streaming_bus.flows.custom_functions import *
from event_streaming_bus.flows.processors.custom import CustomLogic
import sys
{first}
print(load_function(CustomLogic(function="my_functions:f"), ("processors", 0, "processing_logic"))(None))
"""


@pytest.mark.parametrize("as_worker", [True, False])
def test_modules_of_the_working_folder_are_importable_in_workers_and_commands(tmp_path: Path, as_worker: bool) -> None:
    work, bin_folder = tmp_path / "work", tmp_path / "bin"
    work.mkdir()
    bin_folder.mkdir()
    (work / "my_functions.py").write_text("def f(event):\n    return 'found'\n")
    if as_worker:  # python -m puts the working folder first by itself
        (work / "as_worker.py").write_text(LOAD_FROM_HERE.format(first=""))
        command = ["-m", "as_worker"]
    else:  # a script's folder comes first, and the working folder is not there
        (bin_folder / "esb_like.py").write_text(LOAD_FROM_HERE.format(first="import_from_working_folder()"))
        command = [str(bin_folder / "esb_like.py")]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=work,
        env=os.environ | {CUSTOM_MODULES: "my_functions"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("found", "")


def test_the_working_folder_is_added_once_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/somewhere"])
    import_from_working_folder()
    import_from_working_folder()
    assert sys.path == ["/somewhere", str(tmp_path)]


# --- what functions return --------------------------------------------------------------------------------------------

EVENT = Event("evt_1", "order.placed", 1_000, b'{"total":5}', key="k", metadata={"a": 1}, tenant_id="acme")


def test_none_and_an_empty_list_drop_the_event() -> None:
    assert outputs_of(None, EVENT) == outputs_of([], EVENT) == []


def test_a_dict_is_the_new_payload_in_the_same_envelope() -> None:
    (output,) = outputs_of({"total": 6}, EVENT)
    assert output == replace(EVENT, data=b'{"total":6}')


def test_the_event_itself_passes_as_it_is() -> None:
    assert outputs_of(EVENT, EVENT)[0] is EVENT


def test_an_event_takes_the_place_of_the_event_but_for_its_id() -> None:
    made = replace(EVENT, event_id="mine", key="other", event_type="order.seen", metadata=None, data=b"[1]")
    assert outputs_of(made, EVENT) == [replace(made, event_id="evt_1")]


def test_a_list_makes_several_in_order() -> None:
    outputs = outputs_of([{"n": 1}, EVENT, {"n": 2}], EVENT)
    assert [output.data for output in outputs] == [b'{"n":1}', EVENT.data, b'{"n":2}']


def test_a_dict_in_place_of_an_avro_payload_is_written_as_json() -> None:
    (output,) = outputs_of({"n": 1}, replace(EVENT, serialization_format=SerializationFormat.AVRO))
    assert output.serialization_format is SerializationFormat.JSON


@pytest.mark.parametrize(
    ("returned", "error", "told"),
    [
        (
            5,
            TypeError,
            "expected None, a dict (the new payload), an Event or a list of dicts and Events, got a value of type int",
        ),
        ("text", TypeError, "got a value of type str"),
        (({"n": 1},), TypeError, "got a value of type tuple; make a list of it"),
        ((n for n in [{}]), TypeError, "got a value of type generator; make a list of it"),
        ([{}, None], TypeError, "item 1 of the list: expected a dict or an Event, got a value of type NoneType"),
        ([{}, [{}]], TypeError, "item 1 of the list: expected a dict or an Event, got a value of type list"),
        ({"n": object()}, TypeError, "the payload cannot be written as JSON: Encoding objects of type object is unsupported"),
        ({(1, 2): 1}, TypeError, "the payload cannot be written as JSON"),
        ([{"n": object()}], TypeError, "item 0 of the list: the payload cannot be written as JSON"),
        ([{}] * (MAX_OUTPUTS + 1), ValueError, "expected at most 10000 events of one event, got 10001"),
        (
            replace(EVENT, timestamp_ms=999),
            ValueError,
            "timestamp_ms must stay 1000, got 999: a processor gives out its events in",
        ),
        (
            replace(EVENT, tenant_id="other"),
            ValueError,
            "tenant_id must stay 'acme', got 'other': an event stays with its tenant",
        ),
        (replace(EVENT, key=5), TypeError, "Event: Expected `str | null`, got `int` - at `$.key`"),
        (replace(EVENT, data={"n": 1}), TypeError, "Event.data: expected bytes, got a value of type dict"),
        (replace(EVENT, data=b"{n}"), ValueError, "Event.data: expected a payload as JSON"),
        (replace(EVENT, event_type=""), ValueError, "Event.event_type: expected text that is not empty"),
    ],
)
def test_what_cannot_be_an_event_is_told(returned: object, error: type[Exception], told: str) -> None:
    with pytest.raises(error) as caught:
        outputs_of(returned, EVENT)
    assert told in str(caught.value)


def test_a_coroutine_is_told_without_a_warning() -> None:
    async def later() -> None:
        return None

    with pytest.raises(TypeError, match="an async function cannot be used"):
        outputs_of(later(), EVENT)


# --- calls ------------------------------------------------------------------------------------------------------------


def numbered(*numbers: int) -> list[Event]:
    return [Event(f"evt_{n}", "t", n, msgspec.json.encode({"n": n})) for n in numbers]


def said(outcomes: list[Outcome]) -> list[Any]:
    """The payloads' numbers, or the name of the error and the attempts."""
    return [
        (type(each.error).__name__, each.attempts) if isinstance(each, Failed) else [event.payload["n"] for event in each]
        for each in outcomes
    ]


def trying(attempts: int) -> Retrier:
    return Retrier(RetryPolicy(max_attempts=attempts, backoff_ms=0))


def double(event: Event, by: int = 2) -> dict[str, int] | None:
    n = event.payload["n"]
    if n < 0:
        raise ValueError("negative")
    return {"n": n * by} if n else None


def double_all(events: list[Event], by: int = 2) -> list[Any]:
    return [double(event, by) for event in events]


@pytest.mark.parametrize(("form", "function"), [(CustomForm.EVENT, double), (CustomForm.BATCH, double_all)])
def test_each_event_has_its_outcome_and_a_bad_one_fails_alone(form: CustomForm, function: Callable[..., Any]) -> None:
    calls = calls_of(CustomLogic(function="m:f", form=form, params={"by": 3}), function, once())
    outcomes = said(calls(numbered(1, 0, -1, 2)))
    attempts = 2 if form is CustomForm.BATCH else 1  # with the others, then alone
    assert outcomes == [[3], [], ("ValueError", attempts), [6]]


def test_a_function_of_the_form_event_is_tried_again() -> None:
    seen: list[str] = []

    def flaky(event: Event) -> dict[str, int]:
        seen.append(event.event_id)
        if event.event_id == "evt_2" or seen.count(event.event_id) < 2:
            raise TimeoutError
        return event.payload  # type: ignore[no-any-return]

    assert said(EventCalls(flaky, {}, trying(3))(numbered(1, 2, 3))) == [[1], ("TimeoutError", 3), [3]]
    assert seen == ["evt_1"] * 2 + ["evt_2"] * 3 + ["evt_3"] * 2


def test_a_batch_is_called_once_for_all_of_its_events() -> None:
    sizes: list[int] = []

    def counted(events: list[Event]) -> list[Any]:
        sizes.append(len(events))
        return double_all(events)

    assert said(BatchCalls(counted, {}, once())(numbered(1, 2, 3))) == [[2], [4], [6]]
    assert BatchCalls(counted, {}, once())([]) == []
    assert sizes == [3]


@pytest.mark.parametrize("returned", [[], [None, None, None], None, {}, "ab", (None, None)])
def test_a_batch_that_returns_another_number_of_items_fails_as_a_whole_and_is_not_called_again(returned: Any) -> None:
    called = 0

    def wrong(events: list[Event]) -> Any:
        nonlocal called
        called += 1
        return returned

    outcomes = BatchCalls(wrong, {}, trying(3))(numbered(1, 2))
    assert said(outcomes) == [("WrongLengthError", 1)] * 2
    assert isinstance(outcomes[0], Failed)
    assert "expected a list with one item for each of the 2 events, got" in str(outcomes[0].error)
    assert called == 1


def test_an_item_that_is_no_output_fails_its_own_event_alone() -> None:
    assert said(BatchCalls(lambda events: [{"n": 1}, 5, None], {}, once())(numbered(1, 2, 3))) == [[1], ("TypeError", 1), []]


def test_a_batch_is_tried_again_before_its_events_are_called_alone() -> None:
    sizes: list[int] = []

    def flaky(events: list[Event]) -> list[Any]:
        sizes.append(len(events))
        if len(sizes) < 3 or events[0].event_id == "evt_2":
            raise TimeoutError
        return double_all(events)

    assert said(BatchCalls(flaky, {}, trying(2))(numbered(1, 2, 3))) == [[2], ("TimeoutError", 3), [6]]
    assert sizes == [3, 3, 1, 1, 1]


def test_what_a_function_does_to_its_list_of_events_does_no_harm() -> None:
    def emptied(events: list[Event]) -> list[Any]:
        made = double_all(events)
        events.clear()
        return made

    assert said(BatchCalls(emptied, {}, once())(numbered(1, 2))) == [[2], [4]]


def test_a_function_with_state_is_not_called_without_it() -> None:
    with pytest.raises(ValueError, match="KeyedFold"):
        calls_of(CustomLogic(function="m:f", form=CustomForm.KEYED), double, once())
