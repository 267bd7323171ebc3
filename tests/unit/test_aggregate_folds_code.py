"""The hash of folds: what changes it and what does not; and how classes of folds are found."""

import ast
import compileall
import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from event_streaming_bus.errors import BusError
from event_streaming_bus.flows.custom_functions import CUSTOM_MODULES
from event_streaming_bus.sourcing.folds.class_fold import ClassFold
from event_streaming_bus.sourcing.folds.class_loading import load_aggregate
from event_streaming_bus.sourcing.folds.code_hash import code_hash, shape
from event_streaming_bus.sourcing.folds.fold_file import read_folds
from event_streaming_bus.sourcing.folds.merging import MergeFold
from event_streaming_bus.sourcing.sourcing_errors import FoldConfigError

MODULE = '''
"""Accounts."""

import contextlib
import functools
import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec

from event_streaming_bus.sourcing.folds.aggregate import Aggregate, applies
from event_streaming_bus.sourcing.folds.events import AppliedEvent
from event_streaming_bus.sourcing.folds.upcasts import upcasts

RATES = {"EUR": 1.1, "USD": 1}
CODES = re.compile("[A-Z]+")
SMALL = {"a", "b", "c"}
UNUSED = 1


class Color(Enum):
    RED = "red"


@dataclass
class Money:
    amount: float
    currency: str = "USD"
    tags: list[str] = field(default_factory=list)


class Point(NamedTuple):
    x: int = 0
    y: int = 0


class Line(TypedDict, total=False):
    start: str


class Deposited(msgspec.Struct):
    money: Money
    color: Color = Color.RED
    point: Point = Point(1, 2)
    line: Line = {}


def logged(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)

    return wrapper


@contextlib.contextmanager
def bounded(limit):
    yield min(limit, 9)


@logged
def rounded(value):
    # to cents
    return math.floor(value * 100) / 100


@functools.cache
def rate(currency: str) -> float:
    """The rate."""
    return RATES[currency] if CODES.match(currency) else 0


KINDS = {"plain": rounded, "other": lambda value: value + 1}


class Base(Aggregate):
    fold_version = 1
    note: str = ""

    def kept(self) -> str:
        return f"{self.note}!"


class Account(Base):
    balance: Annotated[float, msgspec.Meta(ge=-5)] = 0
    extra: dict[str, Any] = {}

    @applies("account.deposited")
    def deposited(self, payload: Deposited, event: AppliedEvent) -> None:
        """More money."""
        if payload.money.currency not in {"x", "y", "z"}:
            self.balance += KINDS["plain"](payload.money.amount * rate(payload.money.currency))
        with bounded(5) as limit:
            self.note = self.kept()[:limit]

    @upcasts("account.deposited", from_version="1.0")
    @staticmethod
    def in_dollars(payload: dict[str, Any]) -> dict[str, Any]:
        payload["money"]["amount"] *= 1
        return payload


def unused():
    return 5
'''


@pytest.fixture
def hash_of(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """The hash of the class ``Account`` of a module with the text given."""
    number = 0

    def loaded(text: str) -> str:
        nonlocal number
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "accounts.py").write_text(text)
        return ClassFold(load_aggregate("accounts.py:Account", folder)).fold_hash

    yield loaded
    for name in [name for name in sys.modules if name.startswith("accounts_")]:
        del sys.modules[name]


def changed(old: str, new: str) -> str:
    assert old in MODULE
    return MODULE.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    # to cents\n", "    # to cents, rounded down\n\n"),
        ('"""More money."""', '"""Much more money."""'),
        ("return math.floor(value * 100) / 100", "return (math.floor(value*100)\n            / 100)"),
        ("UNUSED = 1", "UNUSED = 2"),
        ("    return 5\n", "    return 6\n"),
        ('"""Accounts."""\n', '"""Accounts and more."""\n\n\n'),
        ('RATES = {"EUR"', "RATES = {'EUR'"),
    ],
)
def test_what_the_code_does_not_do_does_not_count(hash_of: Callable[[str], str], old: str, new: str) -> None:
    assert hash_of(changed(old, new)) == hash_of(MODULE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    yield min(limit, 9)", "    yield min(limit, 8)"),
        ("return function(*arguments)", "return -function(*arguments)"),
        ("    y: int = 0", "    y: int = 1"),
        ("    start: str", "    start: int"),
        ("self.balance += KINDS", "self.balance -= KINDS"),
        ("return math.floor(value * 100) / 100", "return math.ceil(value * 100) / 100"),
        ("math.floor(value * 100) / 100", "math.floor(value * 1000) / 1000"),
        ('"EUR": 1.1', '"EUR": 1.2'),
        ('"[A-Z]+"', '"[A-Z]*"'),
        ("lambda value: value + 1", "lambda value: value + 2"),
        ("else 0\n", "else 1\n"),
        ("fold_version = 1", "fold_version = 2"),
        ('return f"{self.note}!"', 'return f"{self.note}?"'),
        ('RED = "red"', 'RED = "RED"'),
        ('currency: str = "USD"', 'currency: str = "EUR"'),
        ("tags: list[str] =", "tags: list[int] ="),
        ("amount: float", "amount: int"),
        ("money: Money", "money: Money | None"),
        ("ge=-5", "ge=-6"),
        ("balance: Annotated[float, msgspec.Meta(ge=-5)] = 0", "balance: Annotated[float, msgspec.Meta(ge=-5)] = 1"),
        ("extra: dict[str, Any] = {}", "extra: dict[str, Any] = {}\n    more: int = 0"),
        ('@applies("account.deposited")', '@applies("account.deposited", "account.other")'),
        ("class Account(Base):", 'class Account(Base, rename="camel"):\n    my_name: int = 0'),
        ("class Account(Base):", 'class Account(Base):\n    otherwise = "fail"'),
        ('from_version="1.0"', 'from_version="1.1"'),
        ('payload["money"]["amount"] *= 1', 'payload["money"]["amount"] *= 2'),
        ('{"x", "y", "z"}', '{"x", "y"}'),
    ],
)
def test_what_the_code_does_counts_and_what_it_uses_too(hash_of: Callable[[str], str], old: str, new: str) -> None:
    assert hash_of(changed(old, new)) != hash_of(MODULE)


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import accounts
from event_streaming_bus.sourcing.folds.class_fold import ClassFold
print(ClassFold(accounts.Account).fold_hash)
"""


def in_process(folder: Path, seed: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM, str(folder)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_every_process_has_the_same_hash_with_source_and_without(tmp_path: Path, hash_of: Callable[[str], str]) -> None:
    file = tmp_path / "accounts.py"
    file.write_text(MODULE)
    with_source = {in_process(tmp_path, seed) for seed in ("1", "2")}
    assert with_source == {hash_of(MODULE)}
    assert in_process(tmp_path, "1", "-OO") == hash_of(MODULE)
    assert compileall.compile_file(file, legacy=True, quiet=1)
    file.unlink()
    without = {in_process(tmp_path, seed) for seed in ("1", "2")}
    assert len(without) == 1
    assert without != with_source


def test_a_file_that_was_edited_since_it_was_imported_does_not_lend_its_hash_to_the_old_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edited_accounts.py"
    file.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    module: Any = importlib.import_module("edited_accounts")
    before = ClassFold(module.Account).fold_hash
    file.write_text(changed("self.balance += KINDS", "self.balance -= KINDS"))
    stale = ClassFold(module.Account).fold_hash
    monkeypatch.delitem(sys.modules, "edited_accounts")
    (tmp_path / "edited_accounts.py").touch()
    importlib.invalidate_caches()
    fresh = load_aggregate("edited_accounts.py:Account", tmp_path)
    assert ClassFold(fresh).fold_hash not in (before, stale)


def test_code_that_has_run_often_has_the_hash_that_it_had(tmp_path: Path) -> None:
    (tmp_path / "hot.py").write_text(
        "from event_streaming_bus.sourcing.folds.aggregate import Aggregate\n\n"
        "def busy(n):\n    total = 0\n    for i in range(n):\n        total += i * 2\n    return total\n\n"
        "class Account(Aggregate):\n    n: int = 0\n\n    def go(self):\n        return busy(self.n)\n"
    )
    kind: Any = load_aggregate("hot.py:Account", tmp_path)
    before = code_hash(kind)
    for _ in range(50):
        kind(n=100).go()
    assert code_hash(kind) == before


def test_layout_and_docstrings_have_no_shape() -> None:
    one = ast.parse(textwrap.dedent('def f(a):\n    """Doc."""\n    return [a,\n  "x" "y"]'))
    other = ast.parse("def f(a): return [a, 'xy']")
    assert shape(one) == shape(other)
    assert shape(ast.parse("def f(a): return [a, 'xz']")) != shape(other)


def test_the_default_and_declared_folds_have_hashes_that_stay() -> None:
    # Snapshots of existing data folders are found by these: change one only along with what the fold makes.
    assert MergeFold().fold_hash == "440baaa6b90b23c1723d35e2a0141002"
    data: dict[str, Any] = {
        "aggregate_type": "Account",
        "state": {"balance": "number"},
        "initial": {"balance": 0},
        "apply": {"account.deposited": {"balance": "state.balance + payload.amount"}},
        "remove": {"account.closed": ["limit"]},
    }
    assert read_folds(data)[0].fold.fold_hash == "e8a56e6dd390a9b60d4ac5dea167f328"
    different = [
        {"fold_version": 2},
        {"initial": {"balance": 1}},
        {"state": {"balance": "integer"}},
        {"apply": {"account.deposited": {"balance": "state.balance - payload.amount"}}},
        {"remove": {"account.closed": ["limits"]}},
        {"merge": ["account.deposited"]},
        {"ignore": ["account.noted"]},
        {"otherwise": "merge"},
        {"upcasts": [{"event_type": "a", "from_version": "1.0", "remove": ["b"]}]},
    ]
    hashes = {read_folds({**data, **change})[0].fold.fold_hash for change in different}
    assert len(hashes | {"e8a56e6dd390a9b60d4ac5dea167f328"}) == len(different) + 1


# --- how classes are found ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the modules ``fold_classes`` and ``fold_broken``; nothing is allowed yet."""
    (tmp_path / "fold_classes.py").write_text(MODULE + "\nfrom os import PathLike\n")
    (tmp_path / "fold_broken.py").write_text("x = 1\nraise ValueError('no')\n")
    (tmp_path / "fold_imports.py").write_text("from fold_classes import Account\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(CUSTOM_MODULES, raising=False)
    for name in ("fold_classes", "fold_broken", "fold_imports"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_modules_are_imported_only_if_they_are_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FoldConfigError, match="the module fold_classes is not allowed"):
        load_aggregate("fold_classes:Account")
    assert "fold_classes" not in sys.modules
    monkeypatch.setenv(CUSTOM_MODULES, "fold_classes")
    assert load_aggregate("fold_classes:Account").__name__ == "Account"
    monkeypatch.setenv(CUSTOM_MODULES, "fold_imports")
    with pytest.raises(FoldConfigError, match="comes from the module fold_classes, which is not allowed"):
        load_aggregate("fold_imports:Account")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fold_classes:Acount", "fold_classes has no class 'Acount'; did you mean 'Account'?"),
        ("fold_classes:Money", "fold_classes:Money is no class that derives from Aggregate"),
        ("fold_classes:rounded", "is no class that derives from Aggregate"),
        ("fold_nothing:Account", "there is no module fold_nothing"),
        ("fold_broken:Account", r"the module fold_broken cannot be imported: ValueError: no \(fold_broken.py, line 2: raise"),
        ("fold_broken.py:Account", r"fold_broken.py cannot be imported: ValueError: no \(fold_broken.py, line 2: raise"),
        ("fold_none.py:Account", "there is no file .*fold_none.py"),
        ("Account", "expected module:Class or file.py:Class"),
        ("a b.py:Ac count", "expected file.py:Class"),
        ("fold_classes:__name__", "is Python's own"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str) -> None:
    monkeypatch.setenv(CUSTOM_MODULES, "fold_classes,fold_nothing,fold_broken")
    with pytest.raises(FoldConfigError, match=told):
        load_aggregate(name, folder)


def test_files_are_not_loaded_without_a_folder(folder: Path) -> None:
    with pytest.raises(BusError, match="files cannot be loaded here"):
        load_aggregate("fold_classes.py:Account")
    with pytest.raises(BusError, match=r"class: fold_classes.py:Account: files cannot be loaded here"):
        read_folds({"class": "fold_classes.py:Account"})
