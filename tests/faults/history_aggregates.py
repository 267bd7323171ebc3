"""Whether a history of aggregates is strictly serialisable: whether there is one order of all appends and reads that explains
what each of them was told, and in which nothing comes before what had ended when it was invoked.

An aggregate is a list that is appended to, on the condition of its length, and read whole: the model *list-append* of Kingsbury
and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations" (VLDB 2020). Elements are unique, so a read tells
who wrote what in which order; versions and positions, which the bus hands out, say it once more, and must agree. What can be
named without a graph is named first, after Adya ("Weak Consistency", MIT 1999) where he has a name for it; the cycles come last.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from history_anomalies import Checker
from history_cycles import Edge, Graph
from history_operations import ENDLESS, Append, Kept, Operation, Outcome, Page, Read


class _View(NamedTuple):
    """What an operation was told of an aggregate: that it was at this version."""

    start_ns: int
    end_ns: int
    version: int
    operation: Operation


_NOTHING: Final = Kept("", "", 0, 0)


class AggregateChecker(Checker):
    """Checks the operations on aggregates of one history. ``anomalies`` has what was found, ``kept`` every element that is known
    to be in its aggregate."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        super().__init__()
        self._operations = [each for each in operations if isinstance(each.action, Append | Read | Page)]
        self.kept: dict[str, Kept] = {}
        self._writers: dict[str, Operation] = {}
        self._last_of_part: dict[str, str] = {}
        self._versions: dict[str, dict[int, str]] = defaultdict(dict)
        self._positions: dict[int, str] = {}
        self._views: dict[str, list[_View]] = defaultdict(list)
        self._shown_by: dict[str, Operation] = {}
        self._collect()
        self._check_elements()
        self._check_appends()
        visible = self._visible_since()
        self._check_views(visible)
        self._check_pages(visible)
        self._check_cycles()

    # --- what was told ------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        reads: dict[str, list[Operation]] = defaultdict(list)
        for operation in self._operations:
            action, is_ok = operation.action, operation.outcome is Outcome.OK
            if isinstance(action, Append):
                for part in action.parts:
                    for element in part.elements:
                        self._writers[element] = operation
                        self._last_of_part[element] = part.elements[-1]
                if is_ok:
                    self._observe(action.kept, operation)
            elif isinstance(action, Read) and is_ok:
                reads[action.key].append(operation)
        for key, of_key in reads.items():
            self._collect_reads(key, of_key)
        for operation in self._operations:
            action = operation.action
            if isinstance(action, Page) and operation.outcome is Outcome.OK:
                self._observe(action.kept, operation, shows=True)
            elif isinstance(action, Append) and action.refused_by is not None:
                self._collect_refusal(action.refused_by, action, operation)

    def _collect_reads(self, key: str, of_key: list[Operation]) -> None:
        """All reads of an aggregate. Those that are a beginning of the longest one, as they should be, tell nothing new."""
        of_key.sort(key=lambda operation: -len(operation.action.kept))  # type: ignore[union-attr]
        longest: tuple[Kept, ...] = ()
        for operation in of_key:
            kept = operation.action.kept  # type: ignore[union-attr]
            self._views[key].append(_View(operation.start_ns, operation.end_ns, kept[-1].version if kept else 0, operation))
            if longest and kept == longest[: len(kept)]:
                continue
            longest = longest or kept
            self._check_read(key, kept, operation)
            self._observe(kept, operation, shows=True)

    def _check_read(self, key: str, kept: Sequence[Kept], operation: Operation) -> None:
        versions = [each.version for each in kept]
        if versions != list(range(1, len(kept) + 1)):
            self._add("gap", f"{key} was read with the versions {_short(versions)}", operation)
        positions = [each.position for each in kept]
        if positions != sorted(set(positions)):
            self._add("position order", f"{key} was read with the positions {_short(positions)}", operation)
        if len({each.element for each in kept}) < len(kept):
            self._add("duplicate", f"{key} was read with an element twice: {_short([each.element for each in kept])}", operation)

    def _collect_refusal(self, key: str, action: Append, operation: Operation) -> None:
        """A refusal tells which version the aggregate is at, as a read does."""
        self._views[key].append(_View(operation.start_ns, operation.end_ns, action.version, operation))
        expected = next(part.expected for part in action.parts if part.key == key)
        if expected == action.version:
            self._add("refused for nothing", f"{key} is at {expected}, as the append expected", operation)
        self._observe(action.between, operation, shows=True)

    def _observe(self, kept: Iterable[Kept], operation: Operation, *, shows: bool = False) -> None:
        """Note where elements are. Whatever tells it, it is one place, and nobody else's."""
        for each in kept:
            if shows:
                self._shown_by.setdefault(each.element, operation)
            known = self.kept.get(each.element)
            if known is None:
                self.kept[each.element] = known = each
            elif known.position == 0 or known.split is None:  # some tell less than others
                split, offset = (each.split, each.offset) if known.split is None else (known.split, known.offset)
                position = known.position or each.position
                known = Kept(known.key, known.element, known.version, position, split, offset)
                self.kept[each.element] = known
            is_elsewhere = (each.key, each.version) != (known.key, known.version)
            if is_elsewhere or (each.position and each.position != known.position):
                self._add("moved", f"{each.element} is told to be at {_place(known)}, and at {_place(each)}", operation)
            there = self._versions[each.key].setdefault(each.version, each.element)
            if there != each.element:
                self._add("version twice", f"{each.key} has {there} and {each.element} at the version {each.version}", operation)
            if each.position:
                there = self._positions.setdefault(each.position, each.element)
                if there != each.element:
                    self._add("position twice", f"{there} and {each.element} are at the position {each.position}", operation)

    # --- what was written ---------------------------------------------------------------------------------------------

    def _check_elements(self) -> None:
        for element, operation in self._shown_by.items():
            self._check_writer(element, operation, self._writers.get(element), "written", "an append that was refused")

    def _check_appends(self) -> None:
        for operation in self._operations:
            action = operation.action
            if not isinstance(action, Append):
                continue
            if operation.outcome is Outcome.OK:
                self._check_receipts(action, operation)
            for part in action.parts:
                known = [self.kept[element].version for element in part.elements if element in self.kept]
                if known and known != list(range(known[0], known[0] + len(known))):
                    self._add("reordered", f"the elements {part.elements} of one append have the versions {known}", operation)

    def _check_receipts(self, action: Append, operation: Operation) -> None:
        asked = [(part.key, element) for part in action.parts for element in part.elements]
        if asked != [(each.key, each.element) for each in action.kept]:
            self._add("receipts", f"asked to append {asked}, told of {[each.element for each in action.kept]}", operation)
            return
        first = {}
        for each in action.kept:
            first.setdefault(each.key, each.version)
        for part in action.parts:
            if part.expected is not None and first[part.key] != part.expected + 1:
                told = f"{part.key} was to be at {part.expected}, and {part.elements[0]} became {first[part.key]}"
                self._add("expected version", told, operation)

    # --- what was seen when -------------------------------------------------------------------------------------------

    def _visible_since(self) -> dict[int, tuple[int, Operation]]:
        """Since when each append must be seen, by its number, and who says so: it was acknowledged, or one of its elements was
        read."""
        since: dict[int, tuple[int, Operation]] = {}

        def seen(element: str, operation: Operation) -> None:
            writer = self._writers.get(element)
            if writer is not None and (writer.number not in since or operation.end_ns < since[writer.number][0]):
                since[writer.number] = (operation.end_ns, operation)

        for operation in self._operations:
            if isinstance(operation.action, Append) and operation.outcome is Outcome.OK:
                since[operation.number] = (operation.end_ns, operation)
            elif isinstance(operation.action, Page) and operation.outcome is Outcome.OK:
                for each in operation.action.kept:
                    seen(each.element, operation)
        for key, views in self._views.items():
            versions, reached = self._versions[key], 0
            for view in sorted(views, key=lambda view: view.end_ns):
                for version in range(reached + 1, view.version + 1):
                    if version in versions:
                        seen(versions[version], view.operation)
                reached = max(reached, view.version)
        return since

    def _check_views(self, visible: Mapping[int, tuple[int, Operation]]) -> None:
        """A read must show whatever was visible before it was invoked, and an append whole."""
        promised: dict[str, list[tuple[int, int, str, Operation]]] = defaultdict(list)
        for number, (since_ns, by) in visible.items():
            writer = self._by_number(number)
            assert isinstance(writer.action, Append)
            for part in writer.action.parts:
                for element in part.elements:
                    known = self.kept.get(element)
                    promised[part.key].append((since_ns, ENDLESS if known is None else known.version, element, by))
        for key, views in self._views.items():
            due = sorted(promised[key], key=lambda each: each[0])
            shown = max(view.version for view in views)
            at = 0
            most: tuple[int, str, Operation | None] = (0, "", None)
            for view in sorted(views, key=lambda view: view.start_ns):
                while at < len(due) and due[at][0] < view.start_ns:
                    if due[at][1] > most[0]:
                        most = due[at][1:]
                    at += 1
                version, element, by = most
                if view.version < version:
                    is_lost = shown < version or element not in self._shown_by
                    kind = "torn append" if version == ENDLESS else "lost append" if is_lost else "stale read"
                    told = f"{key} was told to be at {view.version}, without {element}, which was there before"
                    self._add(kind, told, view.operation, by)
                    most = (view.version, "", None)  # told once is enough
                self._check_end(key, view)

    def _check_end(self, key: str, view: _View) -> None:
        """No append is seen in part."""
        element = self._versions[key].get(view.version)
        last = None if element is None else self._last_of_part.get(element)
        if last is not None and element != last:
            told = f"intermediate read: {key} was seen to end with {element}, within an append that ends with {last}"
            self._add("G1b", told, view.operation)

    def _by_number(self, number: int) -> Operation:
        return self._operations[bisect_left(self._operations, number, key=lambda operation: operation.number)]

    def _check_pages(self, visible: Mapping[int, tuple[int, Operation]]) -> None:
        """A page has all that there is between two positions, and at its end all that was visible before it was invoked."""
        positions = sorted(self._positions)
        due = sorted(
            (visible[self._writers[element].number][0], position)
            for position, element in self._positions.items()
            if element in self._writers and self._writers[element].number in visible
        )
        pages = [each for each in self._operations if isinstance(each.action, Page) and each.outcome is Outcome.OK]
        at, most = 0, 0
        for operation in pages:  # they are in the order of their beginnings
            action = operation.action
            assert isinstance(action, Page)
            while at < len(due) and due[at][0] < operation.start_ns:
                most = max(most, due[at][1])
                at += 1
            told = [each.position for each in action.kept]
            last = told[-1] if told else action.after
            there = positions[bisect_right(positions, action.after) : bisect_right(positions, last)]
            if told != there:
                missing = sorted(set(there).difference(told))
                what = f"without {missing[:5]}" if missing else f"as {_short(told)}"
                self._add("skipped", f"the positions {action.after} to {last} were read {what}", operation)
            if action.is_end and last < most:
                self._add("stale read", f"the end was told to be {last}, and {most} was there before", operation)

    # --- whether an order explains it ---------------------------------------------------------------------------------

    def _check_cycles(self) -> None:
        happened = [each for each in self._operations if self._has_happened(each)]
        graph = Graph()
        for versions in self._versions.values():
            self._chain(graph, (versions[version] for version in sorted(versions)))
        self._chain(graph, (self._positions[position] for position in sorted(self._positions)))
        for key, views in self._views.items():
            versions = self._versions[key]
            for view in views:
                self._saw(graph, view.operation, versions.get(view.version), versions.get(view.version + 1))
        positions = sorted(self._positions)
        for operation in happened:
            action = operation.action
            if isinstance(action, Page):
                last = action.kept[-1].position if action.kept else action.after
                following = bisect_right(positions, last)
                is_bounded = action.is_end and following < len(positions)
                after = self._positions[positions[following]] if is_bounded else None
                self._saw(graph, operation, self._positions.get(last), after)
        spans = [(each.start_ns, each.end_ns, each.number) for each in happened]
        graph.add_real_time(spans, 1 + max((each.number for each in happened), default=0))
        numbers = {each.number: each for each in happened}
        for cycle in graph.cycles():
            path = [f"{'#' + str(node) if node in numbers else '...'} {edge.name}" for node, edge in zip(*cycle[1:], strict=True)]
            shown = [numbers[node] for node in cycle.nodes if node in numbers]
            self._add(cycle.name, f"a cycle of {len(shown)}: {' '.join(path[:40])}", *shown[:10])

    def _has_happened(self, operation: Operation) -> bool:
        if operation.outcome is Outcome.OK:
            return True
        action = operation.action
        if not isinstance(action, Append):
            return False
        return action.refused_by is not None or any(element in self.kept for part in action.parts for element in part.elements)

    def _chain(self, graph: Graph, elements: Iterator[str]) -> None:
        before: Operation | None = None
        for element in elements:
            writer = self._writers.get(element)
            if writer is not None and before is not None:
                graph.add(before.number, writer.number, Edge.WW)
            before = writer or before

    def _saw(self, graph: Graph, operation: Operation, last: str | None, following: str | None) -> None:
        """It saw this element, and not the one that comes next."""
        if last is not None and last in self._writers:
            graph.add(self._writers[last].number, operation.number, Edge.WR)
        if following is not None and following in self._writers:
            graph.add(operation.number, self._writers[following].number, Edge.RW)


def _short(values: Sequence[object]) -> str:
    return str(list(values)) if len(values) <= 12 else f"{list(values[:6])} ... {list(values[-6:])}"


def _place(kept: Kept) -> str:
    return f"{kept.key}@{kept.version}, position {kept.position}"
