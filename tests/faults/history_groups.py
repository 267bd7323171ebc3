"""Whether consumer groups kept what they promise in a history: what is committed was delivered before, nothing that is committed
is delivered again, acknowledged commits stay, and within one generation no event goes to two members."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from history_anomalies import Checker
from history_log import LogChecker
from history_operations import ENDLESS, Commit, Committed, Operation, Outcome, Poll


class GroupChecker(Checker):
    """Checks the operations of one consumer group, on streams that ``log`` knows. ``anomalies`` has what was found."""

    def __init__(self, operations: Sequence[Operation], log: LogChecker) -> None:
        super().__init__()
        self._log = log
        self._polls = [each for each in operations if isinstance(each.action, Poll) and each.outcome is Outcome.OK]
        self._commits = [each for each in operations if isinstance(each.action, Commit | Committed)]
        self._check_deliveries()
        self._check_committed()
        self._check_again()

    def _check_deliveries(self) -> None:
        """In one poll a split comes in order, and without leaving anything out; in one generation nobody else gets it."""
        holders: dict[tuple[int, str, int], tuple[str, Operation]] = {}
        for operation in self._polls:
            action = operation.action
            assert isinstance(action, Poll)
            offsets: dict[str, list[int]] = defaultdict(list)
            for found in action.found:
                offsets[found.split].append(found.offset)
                if not action.generation:
                    continue
                place = (action.generation, found.split, found.offset)
                session, other = holders.setdefault(place, (action.session, operation))
                if session != action.session:
                    both = f"{session} and to {action.session}"
                    told = f"{found.split}:{found.offset} went to {both} in generation {action.generation}"
                    self._add("two holders", told, other, operation)
            for split, told_offsets in offsets.items():
                known = self._log.offsets.get(split, [])
                there = known[bisect_left(known, told_offsets[0]) : bisect_left(known, told_offsets[-1] + 1)]
                if told_offsets != there:
                    self._add("delivery order", f"{split} was delivered as {told_offsets[:20]}, and is {there[:20]}", operation)

    def _check_committed(self) -> None:
        """What is committed was delivered; and an acknowledged commit stays."""
        delivered: dict[str, dict[int, int]] = defaultdict(dict)
        for operation in self._polls:
            for found in operation.action.found:  # type: ignore[union-attr]
                of_split = delivered[found.split]
                of_split[found.offset] = min(operation.end_ns, of_split.get(found.offset, ENDLESS))
        covered: dict[str, list[int]] = {}
        for split, offsets in self._log.offsets.items():
            latest, so_far = 0, []
            for offset in offsets:
                latest = max(latest, delivered[split].get(offset, ENDLESS))
                so_far.append(latest)
            covered[split] = so_far
        for operation in self._commits:
            if operation.outcome is not Outcome.OK:
                continue
            for split, offset in operation.action.offsets.items():  # type: ignore[union-attr]
                offsets = self._log.offsets.get(split, [])
                count = bisect_left(offsets, offset)
                if count and covered[split][count - 1] > operation.end_ns:
                    first = next(i for i in range(count) if covered[split][i] > operation.end_ns)
                    told = f"{split} is committed up to {offset}, and {offsets[first]} was delivered to nobody before"
                    self._add("skipped", told, operation)
        self._check_went_back()

    def _check_went_back(self) -> None:
        ended = sorted((each for each in self._commits if each.outcome is Outcome.OK), key=lambda each: each.end_ns)
        reached: dict[str, tuple[int, Operation]] = {}
        at = 0
        for operation in self._commits:
            if not isinstance(operation.action, Committed) or operation.outcome is not Outcome.OK:
                continue
            while at < len(ended) and ended[at].end_ns < operation.start_ns:
                _reach(reached, ended[at])
                at += 1
            for split, (offset, by) in reached.items():
                told = operation.action.offsets.get(split, 0)
                if told < offset:
                    self._add("commit lost", f"{split} was committed up to {offset}, and is now at {told}", by, operation)

    def _check_again(self) -> None:
        """What is committed is not delivered again to anybody who asks afterwards."""
        ended = sorted((each for each in self._commits if each.outcome is Outcome.OK), key=lambda each: each.end_ns)
        reached: dict[str, tuple[int, Operation]] = {}
        at = 0
        for operation in self._polls:
            while at < len(ended) and ended[at].end_ns < operation.start_ns:
                _reach(reached, ended[at])
                at += 1
            for found in operation.action.found:  # type: ignore[union-attr]
                offset, by = reached.get(found.split, (0, operation))
                if found.offset < offset:
                    told = f"{found.split}:{found.offset} was delivered, though the group had committed {offset}"
                    self._add("delivered again", told, by, operation)
                    break


def _reach(reached: dict[str, tuple[int, Operation]], operation: Operation) -> None:
    for split, offset in operation.action.offsets.items():  # type: ignore[union-attr]
        if offset > reached.get(split, (0, operation))[0]:
            reached[split] = offset, operation
