"""Runs the projections of a data folder: one process at a time does, and others wait until it is their turn.

A thread looks after the builds: it starts and stops a follower for each as the catalog says, puts a build in the place of another
when it has caught up, and removes what is left of those that are gone.
"""

import contextlib
import logging
import shutil
import threading
from collections.abc import MutableMapping
from typing import Final

from event_streaming_bus.errors import BusError, InUseError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.sourcing.projections.builds import (
    Builds,
    apply,
    builds_of,
    definition_of_class,
    kept_definition,
    promote,
)
from event_streaming_bus.sourcing.projections.classes import Projection, load_class
from event_streaming_bus.sourcing.projections.follower import Events, Follower
from event_streaming_bus.store.projections import BuildRecord, Ownership, ProjectionRecord, ProjectionStore

_LOOK_EVERY_S: Final = 0.2
_WATCH_S: Final = 0.05
_log: Final = logging.getLogger(__name__)


class ProjectionRunner:
    """Runs projections while it is started. ``classes`` are those that this process has been given, by ``module:Class``.

    All methods may be called from any thread.
    """

    def __init__(self, store: ProjectionStore, events: Events, classes: MutableMapping[str, type[Projection]]) -> None:
        self._store = store
        self._events = events
        self._classes = classes
        self._ownership = Ownership(store.folder)
        self._followers: dict[int, Follower] = {}
        self._only: str | None = None
        self._building: set[int] = set()
        self._change_no = -1
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._followed = threading.Event()  # there is one follower more
        self._thread: threading.Thread | None = None
        self._watcher: threading.Thread | None = None

    def start(self, *, must: bool = False, only: str | None = None) -> None:
        """Run projections from now on, or as soon as no other process does. ``must``: raise ``InUseError`` if one does.

        ``only``: those of this name, and no others.
        """
        self._only = only
        if not self._ownership.take() and must:
            pid = self._ownership.owner()
            raise InUseError(f"Another process runs the projections (pid {pid or 'unknown'}); stop that one.", pid=pid)
        if self._thread is None:
            self._closing.clear()
            self._thread = threading.Thread(target=self._run, name="esb-projections", daemon=True)
            self._thread.start()
            self._watcher = threading.Thread(target=self._watch, name="esb-projections-watch", daemon=True)
            self._watcher.start()

    def stop(self) -> None:
        """Stop all projections after their present batches, and let another process run them."""
        self._closing.set()
        self._wake.set()
        self._followed.set()
        for thread in (self._thread, self._watcher):
            if thread is not None:
                thread.join()
        self._thread = self._watcher = None
        for follower in list(self._followers.values()):
            follower.request_stop()
        for follower in list(self._followers.values()):
            follower.close()
        self._followers.clear()
        self._change_no = -1
        self._ownership.release()

    def notice(self) -> None:
        """Something has changed in the catalog: look at once."""
        self._wake.set()

    @property
    def owner(self) -> int | None:
        """The process that runs projections; ``None`` if none does."""
        return self._ownership.owner()

    @property
    def is_owner(self) -> bool:
        """Whether this process does."""
        return self._ownership.is_held and self._thread is not None

    @property
    def is_started(self) -> bool:
        """Whether this process runs projections, or will when its turn comes."""
        return self._thread is not None

    def follower(self, build: BuildRecord) -> Follower | None:
        """The follower of a build, if it is run here, and as it was last told to be."""
        follower = self._followers.get(build.build_no)
        return follower if follower is not None and follower.build.retries == build.retries else None

    # --- the thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        has_begun = False
        while not self._closing.is_set():
            try:
                if self._ownership.take():
                    if not has_begun:
                        self._renew_classes()
                        has_begun = True
                    self._look()
            except BusError as error:
                _log.warning("projections: %s", error.message)
            except Exception:  # whatever it is, the others must go on
                _log.exception("looking after projections failed; trying again")
            self._wake.wait(_LOOK_EVERY_S)
            self._wake.clear()

    def _watch(self) -> None:
        """Tell the followers of new events: one thread looks for them, not each of the followers."""
        seen = 0
        while not self._closing.is_set():
            try:
                self._followed.clear()
                if not self._followers:
                    self._followed.wait(_LOOK_EVERY_S)
                    continue
                if not self._events.wait(DEFAULT_TENANT, seen, _WATCH_S):
                    continue
                seen = self._events.head(DEFAULT_TENANT)
                for follower in list(self._followers.values()):
                    follower.notice()
            except BusError as error:
                _log.warning("projections: %s", error.message)
                self._closing.wait(_LOOK_EVERY_S)

    def _renew_classes(self) -> None:
        """Declare again the projections whose class has changed since it was last declared."""
        for record in self._store.projections():
            declared = kept_definition(record.definition)
            if declared.class_name is None:
                continue
            try:
                cls = self._classes.get(declared.class_name) or load_class(declared.class_name)
                apply(self._store, record.tenant_id, definition_of_class(cls, declared))
            except BusError as error:  # its follower fails for the same reason, and says so
                _log.warning("projection %s: %s", record.name, error.message)

    def _look(self) -> None:
        change_no = self._store.change_no()
        if change_no != self._change_no:
            self._reconcile()
            self._change_no = change_no
        for follower in [each for each in self._followers.values() if each.build.build_no in self._building]:
            self._replace(follower)

    def _reconcile(self) -> None:
        """Have a follower for each build that is to be run, and no others."""
        wanted: dict[int, BuildRecord] = {}
        self._building.clear()
        for record in self._store.projections():
            if not record.is_paused and self._only in (None, record.name):
                builds = builds_of(record, self._store.builds(record.tenant_id, record.name))
                wanted |= {build.build_no: build for build in builds if build is not None}
                self._building |= {builds.building.build_no} if builds.building is not None else set()
        for number, follower in list(self._followers.items()):
            build = wanted.get(number)
            if build is None or build.retries != follower.build.retries:
                del self._followers[number]
                follower.close()
        for number, build in wanted.items():
            if number not in self._followers:
                self._follow(build)
        for path in self._store.stray_files():
            with contextlib.suppress(OSError):  # it is tried again with the next change
                if path.is_dir():
                    shutil.rmtree(path)  # where DuckDB puts what does not fit into memory
                else:
                    path.unlink(missing_ok=True)

    def _follow(self, build: BuildRecord) -> None:
        definition = kept_definition(build.definition)
        cls = self._classes.get(definition.class_name or "")
        follower = Follower(self._store, self._events, build, definition, cls, on_change=self.notice)
        self._followers[build.build_no] = follower
        self._followed.set()
        follower.start()

    def _replace(self, follower: Follower) -> None:
        """Put the build in the place of the one that answers, if it has caught up with it.

        The one that answers is stopped first, so that it does not run away: whoever has seen an event in it will see it in the
        new one.
        """
        found = self._builds(follower.build)
        if found is None or found[1].building is None or found[1].building.build_no != follower.build.build_no:
            return
        record, builds = found
        active = builds.active
        old = self._followers.get(active.build_no) if active is not None else None
        if follower.failure is not None:
            if old is not None and old.was_asked_to_stop and active is not None:
                old.close()
                self._follow(active)
            return
        if not follower.has_been_live:
            return
        if old is not None:
            old.stop()
        reached = old.position if old is not None else active.progress.position if active is not None else 0
        # An event store that was put back to an earlier state ends before what the old rows are of.
        if follower.position < min(reached, self._events.head(record.tenant_id)):
            self._wake.set()
            return
        if promote(self._store, record.tenant_id, record.name, follower.build.build_no):
            if old is not None:
                self._followers.pop(old.build.build_no).close()
            self._change_no = -1

    def _builds(self, build: BuildRecord) -> tuple[ProjectionRecord, Builds] | None:
        record, builds = self._store.find_with_builds(build.tenant_id, build.name)
        if record is None or record.active_build == build.build_no:
            return None
        return record, builds_of(record, builds)
