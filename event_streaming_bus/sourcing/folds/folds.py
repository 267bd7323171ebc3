"""Which fold is in force for each type of aggregate."""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from event_streaming_bus.sourcing.folds.aggregate import Aggregate
from event_streaming_bus.sourcing.folds.base import Fold
from event_streaming_bus.sourcing.folds.class_fold import ClassFold
from event_streaming_bus.sourcing.folds.class_loading import load_aggregate
from event_streaming_bus.sourcing.folds.fold_file import read_fold_file
from event_streaming_bus.sourcing.folds.merging import MergeFold
from event_streaming_bus.sourcing.folds.upcasts import Upcast, VersionOf
from event_streaming_bus.sourcing.sourcing_errors import FoldConfigError


class Folds:
    """The folds by type of aggregate; a type for which there is none has the default fold, which merges payloads.

    ``version_of`` gives the semantic version of a schema by its id, for upcasters. ``upcasts`` are applied before every fold,
    along with its own; events without a schema count as of the version ``unversioned``. Safe to use from any thread.
    """

    def __init__(
        self, version_of: VersionOf | None = None, upcasts: Iterable[Upcast] = (), unversioned: str | None = None
    ) -> None:
        self._version_of = version_of
        self._upcasts = tuple(upcasts)
        self._unversioned = unversioned
        self._lock = threading.Lock()
        self._folds: dict[str, Fold[Any]] = {}
        self._default = self._ready(MergeFold())

    def register(
        self, fold: Fold[Any] | type[Aggregate], aggregate_type: str | None = None, *, replace: bool = False
    ) -> Fold[Any]:
        """Put a fold, or the class of one, in force for a type of aggregate; by default the one that it says it is for.

        The fold as it is in force, with all upcasters. Raises ``FoldConfigError`` if the type has another fold, unless
        ``replace``; the same one again is fine.
        """
        if isinstance(fold, type):
            fold = ClassFold(fold)
        name = aggregate_type or getattr(fold, "aggregate_type", None)
        if not name:
            raise FoldConfigError(f"{fold.name}: expected the type of aggregate that it is for")
        return self._put({name: self._ready(fold)}, replace)[name]

    def load_file(self, path: Path, *, replace: bool = False) -> Mapping[str, Fold[Any]]:
        """Put the folds of a file in force, all or none; by type. Raises ``FoldConfigError``."""
        return self._put({each.aggregate_type: self._ready(each.fold) for each in read_fold_file(path)}, replace)

    def load_class(
        self, name: str, aggregate_type: str | None = None, *, folder: Path | None = None, replace: bool = False
    ) -> Fold[Any]:
        """Put a class in force that is named ``module:Class`` or, with a ``folder``, ``file.py:Class``. Raises
        ``FoldConfigError``; see ``load_aggregate``."""
        return self.register(load_aggregate(name, folder), aggregate_type, replace=replace)

    def fold_of(self, aggregate_type: str) -> Fold[Any]:
        """The fold in force for a type of aggregate."""
        return self._folds.get(aggregate_type, self._default)

    def all(self) -> dict[str, Fold[Any]]:
        """The folds by type of aggregate, without the default."""
        return dict(self._folds)

    def _ready(self, fold: Fold[Any]) -> Fold[Any]:
        return fold.upcasted_by(fold.upcasting.with_steps(self._upcasts, self._version_of, self._unversioned))

    def _put(self, folds: dict[str, Fold[Any]], replace: bool) -> dict[str, Fold[Any]]:
        with self._lock:
            for aggregate_type, fold in folds.items():
                before = self._folds.get(aggregate_type)
                if before is not None and not replace and before.fold_hash != fold.fold_hash:
                    raise FoldConfigError(f"{aggregate_type} has a fold already, {before.name}; pass replace=True for another")
            self._folds = {**self._folds, **folds}
        return folds
