"""Looks after long steps: keeps their leases, ends those that overrun, tells them of a cancel."""

from __future__ import annotations

import os
import threading
from typing import Protocol

from pocoflow.engine.ports import Clock, ControlFlags, Ledger
from pocoflow.engine.records import Limit, Position
from pocoflow.engine.step import describe
from pocoflow.errors import DatabaseError
from pocoflow.logging import WARNING, get_logger, log_event

log = get_logger("runner")

LOOK_EVERY_S = 0.5


class Enforcer(Protocol):
    """What can be done about a step that does not return in time."""

    def arm(self, seconds: float) -> None:
        """Make sure that the step ends some time after this, even if no Python code runs any more."""
        ...

    def disarm(self) -> None: ...

    def stop(self) -> None:
        """End the step, whose failure has been recorded; does nothing where a step cannot be ended."""
        ...


class StepWatch:
    """The engine's eye on one step that is being executed."""

    __slots__ = ("_lock", "_next_look", "_watcher", "armed", "limit", "position", "since", "stop")

    def __init__(self, position: Position, watcher: Heartbeats, since: float) -> None:
        self.position = position
        self.since = since
        self.stop = False
        self.limit: Limit | None = None
        self.armed = since
        self._watcher = watcher
        self._next_look = since
        # Held while a limit is enforced: user code that returns just then has to wait for the outcome.
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Asks at most every half second; once true it stays true."""
        now = self._watcher.clock.monotonic()
        if not self.stop and now >= self._next_look:
            self._next_look = now + LOOK_EVERY_S
            if self._watcher.flags.cancel_asked(self.position.run_id) is not False:
                self._watcher.try_to_beat([self])
        return self.stop

    def arm(self, limit: Limit) -> None:
        self.armed, self.limit = self._watcher.clock.monotonic(), limit
        self._watcher.enforce(limit)

    def disarm(self) -> None:
        self._watcher.relax()
        with self._lock:
            self.limit = None

    def done(self) -> None:
        self._watcher.forget(self)

    def end_if_over(self, now: float) -> None:
        """Record that the try took too long, and end it."""
        with self._lock:
            if self.limit is not None and now >= self.limit.at:
                self._watcher.end(self, self.limit)


class Heartbeats:
    """Extends the leases of all steps of this process that have lasted a third of a lease.

    One thread, begun with the first step and never in a process that only forks workers; a short step
    costs no round trip.

    Args:
        enforcer: Ends steps that overrun; None leaves it to the step, which then fails when it returns.
    """

    def __init__(
        self,
        ledger: Ledger,
        flags: ControlFlags,
        clock: Clock,
        *,
        lease_s: float,
        enforcer: Enforcer | None = None,
    ) -> None:
        self.flags = flags
        self.clock = clock
        self._ledger = ledger
        self._enforcer = enforcer
        self._period_s = lease_s / 3
        self._next_beat = 0.0
        self._watches: set[StepWatch] = set()
        self._changed = threading.Condition()
        self._thread_pid: int | None = None

    def watch(self, position: Position) -> StepWatch:
        watch = StepWatch(position, self, self.clock.monotonic())
        with self._changed:
            self._watches.add(watch)
            if self._thread_pid != os.getpid():
                self._thread_pid = os.getpid()
                threading.Thread(target=self._beat_forever, name="pocoflow-heartbeat", daemon=True).start()
        return watch

    def forget(self, watch: StepWatch) -> None:
        with self._changed:
            self._watches.discard(watch)

    def enforce(self, limit: Limit) -> None:
        if self._enforcer is not None:
            self._enforcer.arm(limit.at - self.clock.monotonic())
            with self._changed:
                self._changed.notify()

    def relax(self) -> None:
        if self._enforcer is not None:
            self._enforcer.disarm()

    def end(self, watch: StepWatch, limit: Limit) -> None:
        """Fail the try in the ledger, then stop it; a try that was fenced meanwhile is only stopped."""
        assert self._enforcer is not None
        position = watch.position
        failure = describe(limit.error, self.clock.monotonic() - watch.armed)
        status = self._ledger.fail(position, failure, retry_in_s=limit.retry_in_s)
        log_event(
            log,
            "step ended, it took too long",
            level=WARNING,
            run_id=position.run_id,
            step=position.step,
            node=position.node,
            error=failure.message,
        )
        if status is not None and status.ended:
            self.flags.announce_end(position.run_id)
        watch.limit, watch.stop = None, True
        self._enforcer.stop()

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
            with self._changed:
                self._changed.wait(self._pause_s())
                watches = list(self._watches)
            now = self.clock.monotonic()
            try:
                self._end_overrunning(watches, now)
            except DatabaseError as exc:
                log_event(log, "overrunning step not ended, database is away", level=WARNING, error=str(exc))
                self.clock.sleep(LOOK_EVERY_S)
            if now >= self._next_beat:
                self._next_beat = now + self._period_s
                old = [watch for watch in watches if watch.since <= now - self._period_s]
                if old:
                    self.try_to_beat(old)

    def _pause_s(self) -> float:
        """Seconds until the next beat, or until the first step overruns."""
        moments = [self._next_beat]
        if self._enforcer is not None:
            moments += [limit.at for watch in self._watches if (limit := watch.limit) is not None]
        return max(0.0, min(moments) - self.clock.monotonic())

    def _end_overrunning(self, watches: list[StepWatch], now: float) -> None:
        if self._enforcer is not None:
            for watch in watches:
                watch.end_if_over(now)
