"""The supervisor of one host of a cluster: it runs this host's workers while all hosts run theirs, and never otherwise.

Bytewax knows a fixed set of workers. When one dies, the others panic or wait for it for ever, and none can come back alone. So
the workers of all hosts start and end together, in *generations*:

- The first host starts a generation once every host is connected with every other, and says that none of its workers is alive.
- A host ends its workers at once when it loses the connection to another host, when its own workers fail, or when another host
  says that its workers of the same generation have ended. It tells the others, and waits for the next start.

A host that is cut off ends its workers by itself, within ``lost_after_s``, and the next generation waits until it has come back
and said so: no two generations run at the same time, whatever the clocks say. Which host leads is fixed, since without it the
flow cannot run anyway. docs/decisions/0015-clusters.md has what was weighed.
"""

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from event_streaming_bus.flows.cluster import Cluster
from event_streaming_bus.flows.cluster_duties import Duties, Outcome, Timing, Workers
from event_streaming_bus.flows.cluster_leading import Leading, Standing
from event_streaming_bus.flows.cluster_links import Heard, Link, Linked, LinkEvent, Links, Lost, Unreachable
from event_streaming_bus.flows.cluster_messages import Beat, Finish, Hello, Message, Phase, Prepare, Recovery, Start
from event_streaming_bus.flows.cluster_recovery import make_partitions, note_begun, read_recovery
from event_streaming_bus.flows.supervisor import Patience

_POLL_S: Final = 0.05
_REMIND_S: Final = 15.0
_FAREWELL_S: Final = 2.0
LIVE_S: Final = 10.0
"""A supervisor that has not looked after its workers for so long is stuck."""


class ClusterSupervisor:
    """Runs this host's part of a flow. ``folder`` has its recovery partitions; ``default_partitions`` as Bytewax is given them on
    one machine. Construct it, let ``Links`` use ``probe``, then call ``run`` in one thread."""

    def __init__(
        self,
        cluster: Cluster,
        index: int,
        duties: Duties,
        folder: Path,
        *,
        default_partitions: int,
        timing: Timing | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._cluster = cluster
        self._index = index
        self._duties = duties
        self._folder = folder
        self._timing = timing or Timing()
        self._others = [i for i in range(len(cluster.hosts)) if i != index]
        self._links: dict[int, Link] = {}
        self._beats: dict[int, Beat] = {}
        self._told: dict[int, int] = {}
        """The last generation that a host was told of on its present connection."""
        self._reasons: dict[int, str] = {}
        self._phase = Phase.IDLE
        self._generation = 0
        self._workers: Workers | None = None
        self._asked_until_s: float | None = None
        self._error: str | None = None
        self._lost = False
        self._recovery = Recovery()
        self._recovery_at_s = 0.0
        self._outcome: Outcome | None = None
        self._leading = Leading(cluster, patience or Patience(), default_partitions) if index == 0 else None
        self._ends: Future[str | None] | None = None
        self._next_ends: Future[str | None] | None = None
        """What was asked when a generation had come to its end. It is asked again when that has to be run once more."""
        self._said: Beat | None = None
        self._said_at_s = 0.0
        self._started_at_s = self._looked_at_s = self._reminded_at_s = time.monotonic()

    def probe(self, path: str) -> tuple[int, dict[str, object]]:
        """``/live``: this supervisor does its work. ``/ready``: the workers of all hosts run."""
        running = self._phase in (Phase.RUNNING, Phase.DONE)
        live = time.monotonic() - self._looked_at_s < LIVE_S
        if path not in ("/live", "/ready"):
            return 404, {"paths": ["/live", "/ready"]}
        state = {"phase": self._phase.value, "generation": self._generation, "live": live, "error": self._error}
        waits = {str(self._cluster.hosts[i]): self._reasons.get(i, "no answer yet") for i in self._others if i not in self._links}
        return 200 if live and (running or path == "/live") else 503, {**state, "waiting_for": waits}

    def run(self, links: Links, stopping: Callable[[], bool]) -> Outcome:
        """Run until the flow is done or cannot run, or ``stopping``: then this host's workers, and with them those of the others,
        end in good order, and the others wait for this host to come back."""
        try:
            while self._outcome is None:
                self._take(links.events)
                self._looked_at_s = time.monotonic()
                if stopping():
                    self._stop()
                self._watch()
                self._keep_step()
                if self._leading is not None and self._outcome is None:
                    self._lead(self._leading)
                self._mind_the_time()
                self._beat()
            return self._outcome
        finally:
            self._end_workers()
            links.close()
            self._part(links.events)

    # --- what is heard

    def _take(self, events: "queue.Queue[LinkEvent]") -> None:
        """Take what has come, and wait a moment if nothing has."""
        try:
            event = events.get(timeout=_POLL_S)
            while True:
                self._hear(event)
                event = events.get_nowait()
        except queue.Empty:
            return

    def _hear(self, event: LinkEvent) -> None:
        match event:
            case Unreachable(index, reason, refused):
                if index not in self._links and self._reasons.get(index) != reason:
                    self._reasons[index] = reason
                    if refused:
                        self._duties.tell(f"{self._cluster.hosts[index]} does not fit: {reason}")
            case Linked(link):
                if link.index in self._links:
                    self._lose(link.index, "it has connected anew")
                self._links[link.index] = link
                self._said_at_s = 0.0
            case Lost(link, reason):
                if self._links.get(link.index) is link:
                    self._lose(link.index, reason)
            case Heard(link, message):
                if self._links.get(link.index) is link:
                    self._obey(link, message)

    def _obey(self, link: Link, message: Message) -> None:
        match message:
            case Beat():
                self._beats[link.index] = message
            case Hello():
                pass
            case _ if link.index != 0:
                link.close()  # only the first host leads
            case Prepare(count):
                self._prepare(count)
            case Start():
                self._start(message)
            case Finish(error):
                self._outcome = Outcome(error=error)

    def _lose(self, index: int, reason: str) -> None:
        """A host is lost. What follows is done here, not later, since it may connect anew at once; then it is told."""
        self._links.pop(index).close()
        self._beats.pop(index, None)
        self._told.pop(index, None)
        self._reasons[index] = reason
        if self._generation:
            self._lost = True
        phase, had_workers = self._phase, self._workers is not None
        if self._asked_until_s is not None:  # they have little left to do, if the host that is lost had ended its own
            self._asked_until_s = min(self._asked_until_s, time.monotonic() + self._timing.lost_after_s)
        elif phase is not Phase.IDLE:
            self._end_workers()
            self._end_generation(None)
        if phase not in (Phase.STOPPING, Phase.DONE):  # then it goes since this one does, or since all is done
            ending = "; this host's workers end until it is back" if had_workers else ""
            self._duties.tell(f"{self._cluster.hosts[index]} is lost: {reason}{ending}")

    # --- what is done

    def _prepare(self, count: int) -> None:
        if not read_recovery(self._folder).begun:
            make_partitions(self._folder, count, self._index, len(self._cluster.hosts))
        self._recovery_at_s = 0.0

    def _start(self, start: Start) -> None:
        self._end_workers()
        self._generation = start.generation
        self._error, self._lost, self._asked_until_s = None, False, None
        self._phase = Phase.IDLE
        if len(self._links) < len(self._others):
            self._lost = True  # that this generation has ended here is told with the next beat
            return
        note_begun(self._folder)
        try:
            self._workers = self._duties.launch(start)
        except Exception as error:
            self._error = f"the workers cannot be started: {error}"
            return
        self._enter(Phase.RUNNING)

    def _watch(self) -> None:
        """See what has become of this host's workers."""
        if self._workers is None:
            return
        code = self._workers.exit_code()
        asked = self._asked_until_s is not None
        if code is None:
            if self._asked_until_s is not None and time.monotonic() > self._asked_until_s:
                self._end_workers()
                self._end_generation(None)
            return
        error = self._workers.last_error() if code and not asked else None
        self._workers = None
        if code == 0 and not asked:
            self._enter(Phase.DONE)
        else:
            self._end_generation(error)

    def _keep_step(self) -> None:
        """End the workers if those of another host have ended, or are to end."""
        if self._phase not in (Phase.RUNNING, Phase.DONE):
            return
        same = [beat for beat in self._beats.values() if beat.generation == self._generation]
        if self._asked_until_s is not None:
            return
        if any(beat.phase is Phase.IDLE for beat in same):
            self._end_workers()
            self._end_generation(None)
        elif any(beat.phase is Phase.STOPPING for beat in same):
            if self._workers is None:
                self._end_generation(None)
            else:
                self._ask()

    def _stop(self) -> None:
        if self._workers is None:
            self._outcome = Outcome(stopped=True)
        elif self._phase is not Phase.STOPPING:
            self._enter(Phase.STOPPING)
            self._ask()

    def _ask(self) -> None:
        assert self._workers is not None  # noqa: S101 - both callers have looked
        self._workers.ask_to_end()
        self._asked_until_s = time.monotonic() + self._timing.stop_s

    def _end_workers(self) -> None:
        if self._workers is not None:
            self._workers.kill()
            self._workers = None

    def _end_generation(self, error: str | None) -> None:
        """None of this host's workers is alive any more."""
        if self._phase is Phase.STOPPING:  # the last that the others hear: this host is not one to start with
            self._outcome = Outcome(stopped=True)
            return
        self._error = error
        self._lost = self._lost or self._asked_until_s is not None
        self._asked_until_s = None
        self._enter(Phase.IDLE)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._duties.changed(phase, self._error)

    # --- leading

    def _lead(self, leading: Leading) -> None:
        """Have all hosts do what is next, if they are ready for it."""
        if self._phase is Phase.IDLE and self._ends is None:
            self._ends = _in_thread(lambda: self._duties.ends(None))
        own = self._own_beat()
        # A beat that was sent before the host heard of the last start says nothing of what has become of that.
        heard = {i: beat for i, beat in self._beats.items() if beat.generation >= self._told.get(i, 0)}
        step = leading.next_step({self._index: own, **heard})
        if step is Standing.ALL_DONE:
            step = self._conclude(leading)
        elif isinstance(step, Start):
            step = self._with_ends(step)
        if not isinstance(step, Standing):
            leading.told(step)
            for link in list(self._links.values()):
                link.send(step)
            match step:
                case Prepare(count):
                    self._prepare(count)
                case Start(generation):
                    self._told = dict.fromkeys(self._others, generation)
                    self._next_ends = None
                    self._start(step)
                case Finish(error):
                    self._outcome = Outcome(error=error)

    def _with_ends(self, start: Start) -> Start | Standing:
        if self._ends is None or not self._ends.done():
            return Standing.WAITING
        told = {"processor_ids": self._duties.processor_ids, "partitions": dict(self._duties.partitions)}
        return msgspec.structs.replace(start, until=self._ends.result() or None, **told)

    def _conclude(self, leading: Leading) -> Start | Finish | Standing:
        """All workers have come to the end: run on to the new one, if there is one."""
        assert self._ends is not None  # noqa: S101 - they were started with them
        last = self._ends.result()
        if self._next_ends is None:
            self._next_ends = _in_thread(lambda: self._duties.ends(last))
        if not self._next_ends.done():
            return Standing.WAITING
        if self._next_ends.result() is None:
            return Finish()
        self._ends = self._next_ends
        return self._with_ends(leading.next_start())

    # --- what is told

    def _own_beat(self) -> Beat:
        now_s = time.monotonic()
        if self._phase is Phase.IDLE and now_s - self._recovery_at_s > 1.0:
            self._recovery, self._recovery_at_s = read_recovery(self._folder), now_s
        sees = tuple(sorted(self._links))
        return Beat(self._generation, self._phase, sees, self._recovery, self._error, self._lost)

    def _beat(self) -> None:
        """Tell the others how this host stands: now and then, and at once when that has changed."""
        beat, now_s = self._own_beat(), time.monotonic()
        if beat != self._said or now_s - self._said_at_s > self._timing.lost_after_s / 5:
            self._said, self._said_at_s = beat, now_s
            for link in list(self._links.values()):
                link.send(beat)

    def _mind_the_time(self) -> None:
        """Give up if the others have not come at first; later, say now and then who is waited for."""
        if self._phase is not Phase.IDLE or self._outcome is not None or not (missing := self._missing()):
            return
        now_s = time.monotonic()
        if not self._generation and now_s - self._started_at_s > self._timing.wait_s:
            self._outcome = Outcome(error=f"after {self._timing.wait_s:g} s the cluster is not complete: {missing}")
        elif now_s - self._reminded_at_s > _REMIND_S:
            self._reminded_at_s = now_s
            self._duties.tell(f"waiting: {missing}")

    def _missing(self) -> str:
        """Who is not here, and who does not see whom; empty if all hosts are connected."""
        names = self._cluster.hosts
        found = [f"{names[i]}: {self._reasons.get(i, 'no answer yet')}" for i in self._others if i not in self._links]
        for i, beat in sorted(self._beats.items()):
            blind = [j for j in range(len(names)) if j not in (i, *beat.sees)]
            found += [f"{names[i]} does not reach {names[j]}" for j in blind if j != self._index]
        return "; ".join(found)

    def _part(self, events: "queue.Queue[LinkEvent]") -> None:
        """Close the connections; where there was a ``Finish`` to tell, once the others have heard it."""
        deadline = time.monotonic() + _FAREWELL_S
        if self._leading is not None and self._outcome is not None and not self._outcome.stopped:
            while self._links and time.monotonic() < deadline:
                self._take(events)
        for link in list(self._links.values()):
            link.close()


def _in_thread(ask: Callable[[], str | None]) -> "Future[str | None]":
    """Ask in a thread of its own: the log may be slow to answer, and the others are to be told that this host lives."""
    executor = ThreadPoolExecutor(1, "esb-cluster-ends")
    future = executor.submit(ask)
    executor.shutdown(wait=False)
    return future
