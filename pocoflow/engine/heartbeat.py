"""Keeps the leases of long steps alive, and lets a step notice that it was cancelled."""

from __future__ import annotations

import os
import threading

from pocoflow.engine.ports import Clock, ControlFlags, Ledger
from pocoflow.engine.records import Position
from pocoflow.errors import DatabaseError
from pocoflow.logging import WARNING, get_logger, log_event

log = get_logger("runner")

LOOK_EVERY_S = 0.5


class StepWatch:
    """The engine's eye on one step that is being executed."""

    __slots__ = ("_next_look", "_watcher", "position", "since", "stop")

    def __init__(self, position: Position, watcher: Heartbeats, since: float) -> None:
        self.position = position
        self.since = since
        self.stop = False
        self._watcher = watcher
        self._next_look = since

    @property
    def cancelled(self) -> bool:
        """Asks at most every half second; once true it stays true."""
        now = self._watcher.clock.monotonic()
        if not self.stop and now >= self._next_look:
            self._next_look = now + LOOK_EVERY_S
            if self._watcher.flags.cancel_asked(self.position.run_id) is not False:
                self._watcher.try_to_beat([self])
        return self.stop

    @property
    def idempotency_key(self) -> str:
        return self.position.idempotency_key

    def done(self) -> None:
        self._watcher.forget(self)


class Heartbeats:
    """Extends the leases of all steps of this process that have lasted a third of a lease.

    One thread, begun with the first step and never in a process that only forks workers; a short step
    costs no round trip.
    """

    def __init__(self, ledger: Ledger, flags: ControlFlags, clock: Clock, *, lease_s: float) -> None:
        self.flags = flags
        self.clock = clock
        self._ledger = ledger
        self._period_s = lease_s / 3
        self._watches: set[StepWatch] = set()
        self._lock = threading.Lock()
        self._thread_pid: int | None = None

    def watch(self, position: Position) -> StepWatch:
        watch = StepWatch(position, self, self.clock.monotonic())
        with self._lock:
            self._watches.add(watch)
            if self._thread_pid != os.getpid():
                self._thread_pid = os.getpid()
                threading.Thread(target=self._beat_forever, name="pocoflow-heartbeat", daemon=True).start()
        return watch

    def forget(self, watch: StepWatch) -> None:
        with self._lock:
            self._watches.discard(watch)

    def try_to_beat(self, watches: list[StepWatch]) -> None:
        """Extend these leases now, and tell steps that were cancelled or lost to stop."""
        try:
            wants = self._ledger.heartbeat([watch.position for watch in watches])
        except DatabaseError as exc:
            # The step goes on: its result counts unless somebody took the step over meanwhile.
            log_event(log, "lease not extended, database is away", level=WARNING, error=str(exc))
            return
        for watch in watches:
            run_id = watch.position.run_id
            if run_id not in wants or wants[run_id] == "cancel":
                watch.stop = True

    def _beat_forever(self) -> None:
        while True:
            self.clock.sleep(self._period_s)
            long_ago = self.clock.monotonic() - self._period_s
            with self._lock:
                old = [watch for watch in self._watches if watch.since <= long_ago]
            if old:
                self.try_to_beat(old)
