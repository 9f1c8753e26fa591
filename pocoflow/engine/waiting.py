"""Where those sleep who wait for runs, together: one room for each ledger and process.

However many they are, one thread asks the ledger for all of them in one read, and wakes whom it concerns.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from math import inf
from types import MappingProxyType

from pocoflow.engine.ports import Clock, ControlFlags, Ledger
from pocoflow.engine.rows import Sighting, Standing
from pocoflow.errors import DatabaseError, RunNotFoundError
from pocoflow.logging import WARNING, get_logger, log_event

log = get_logger("runner")

# Powers of two: the looks at all runs fall on one grid in time, and share their reads.
FIRST_PAUSE_S = 1 / 32
LONGEST_PAUSE_S = 1 / 2
# A look at thousands of runs takes a while: so many times longer all other threads have the processor.
REST = 3
LONGEST_REST_S = 1 / 4
FIRST_ANSWER_S = 1.0

NO_CHANGES: Mapping[str, Sighting | None] = MappingProxyType({})

Until = Callable[[Standing, float], bool]


class Waiter:
    """Somebody who sleeps until a run stands as is wanted, or until the deadline."""

    def __init__(self, run_id: str, until: Until, deadline: float, clock: Clock) -> None:
        self.run_id = run_id
        self.entered_at_look = 0
        self._until = until
        self._deadline = deadline
        self._clock = clock
        self._began = clock.monotonic()
        self._woken = threading.Event()
        self._standing: Standing | None = None
        self._error: BaseException | None = None

    def tell(self, standing: Standing | None, error: BaseException | None, now: float) -> None:
        """Note what a look has shown, and wake up if that is a reason to."""
        if self._woken.is_set():
            return
        self._standing, self._error = standing, error
        if error is not None:
            over = not isinstance(error, DatabaseError)
        else:
            over = standing is not None and self._until(standing, now)
        if over or now >= self._deadline:
            self._woken.set()

    def sleep(self) -> Standing | None:
        """Return how the run stood last, as `WaitingRoom.wait` does."""
        self._sleep_until(self._deadline)
        if self._standing is None and self._error is None:
            # Otherwise wait(0) could never succeed.
            self._sleep_until(self._began + FIRST_ANSWER_S)
        if isinstance(self._error, DatabaseError):
            raise DatabaseError(*self._error.args) from self._error
        if self._error is not None:
            raise self._error
        return self._standing

    def _sleep_until(self, moment: float) -> None:
        left_s = moment - self._clock.monotonic()
        self._woken.wait(min(max(left_s, 0.0), threading.TIMEOUT_MAX))


class _Awaited:
    """A run that somebody waits for."""

    __slots__ = ("due", "pause_s", "sighting", "waiters")

    def __init__(self) -> None:
        self.waiters: set[Waiter] = set()
        self.sighting: Sighting | None = None
        self.due = inf
        self.pause_s = LONGEST_PAUSE_S

    @property
    def mark(self) -> str:
        return "" if self.sighting is None else self.sighting["mark"]

    def looked_at(self, rested_at: float) -> float:
        """Set the next look; the longer the wait, the rarer the looks."""
        self.due = (rested_at // self.pause_s + 1) * self.pause_s
        self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
        return self.due


class WaitingRoom:
    """Hands each waiter how its run stands: at once, then when it is announced, and every so often.

    The thread is there as long as somebody waits. A process forked off has an empty room.
    """

    def __init__(self, ledger: Ledger, flags: ControlFlags, clock: Clock) -> None:
        self._ledger = ledger
        self._flags = flags
        self._clock = clock
        self.start_over()
        _rooms.add(self)

    def start_over(self) -> None:
        """Forget everybody, and the lock, which a thread of the parent may have held in a fork."""
        self._changed = threading.Condition()
        self._runs: dict[str, _Awaited] = {}
        self._urgent: set[str] = set()
        self._next_tick = inf
        self._looks = 0
        self._attended = False
        self._away = False

    def wait(
        self,
        run_id: str,
        *,
        until: Until,
        deadline: float = inf,
        pause_s: float = FIRST_PAUSE_S,
    ) -> Standing | None:
        """Sleep until the run stands as is wanted or the deadline is there; return how it stood last.

        A database that goes away only makes it last longer.

        Args:
            until: Asked at each look, in another thread, with the time of the look.
            deadline: On the clock of this room. The first look may take a second all the same.
            pause_s: Seconds until the second look, at most; each further pause is twice the one before.

        Returns:
            None when the deadline came before the first answer.

        Raises:
            RunNotFoundError: There is no such run.
            DatabaseError: The deadline came while the database was away.
        """
        waiter = self.enter(run_id, until=until, deadline=deadline, pause_s=pause_s)
        try:
            return waiter.sleep()
        finally:
            self.leave(waiter)

    def enter(
        self, run_id: str, *, until: Until, deadline: float = inf, pause_s: float = FIRST_PAUSE_S
    ) -> Waiter:
        """Begin to look at this run for a waiter, who is to leave in the end."""
        waiter = Waiter(run_id, until, deadline, self._clock)
        with self._changed:
            if not self._attended:
                threading.Thread(target=self._attend, name="pocoflow-waiting-room", daemon=True).start()
                self._attended = True
            waiter.entered_at_look = self._looks
            awaited = self._runs.setdefault(run_id, _Awaited())
            awaited.waiters.add(waiter)
            awaited.pause_s = min(awaited.pause_s, pause_s)
            self._hurry(run_id)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        with self._changed:
            awaited = self._runs.get(waiter.run_id)
            if awaited is not None:
                awaited.waiters.discard(waiter)
                if not awaited.waiters:
                    del self._runs[waiter.run_id]

    def _hear(self, run_id: str) -> None:
        """The end of a run was announced, perhaps of one that nobody waits for here."""
        with self._changed:
            if run_id in self._runs:
                self._hurry(run_id)

    def _hurry(self, run_id: str) -> None:
        self._urgent.add(run_id)
        self._changed.notify()

    def _attend(self) -> None:
        """Serve all waiters until there are none."""
        try:
            self._flags.hear_ends(self._hear)
            while known := self._next_to_look_at():
                self._look_at(known)
        except BaseException as exc:
            # Nobody may be left asleep for ever: all of them raise it.
            with self._changed:
                self._looks += 1
                self._tell(self._runs, error=exc)
                self._attended = False

    def _next_to_look_at(self) -> dict[str, str]:
        """Sleep until a look is due; returns what is known of these runs, nothing when nobody waits."""
        with self._changed:
            while self._runs:
                now = self._clock.monotonic()
                due = self._urgent & self._runs.keys()
                self._urgent.clear()
                if now >= self._next_tick:
                    due.update(run_id for run_id, awaited in self._runs.items() if awaited.due <= now)
                    later = (awaited.due for run_id, awaited in self._runs.items() if run_id not in due)
                    self._next_tick = min(later, default=inf)
                if due:
                    self._looks += 1
                    return {run_id: self._runs[run_id].mark for run_id in due}
                self._changed.wait(min(self._next_tick - now, threading.TIMEOUT_MAX))
            self._attended = False
            return {}

    def _look_at(self, known: dict[str, str]) -> None:
        began = self._clock.monotonic()
        try:
            changes = self._ledger.get_changes(known)
        except DatabaseError as exc:
            if not self._away:
                self._away = True
                log_event(
                    log,
                    "database is away, still waiting",
                    level=WARNING,
                    runs=len(self._runs),
                    error=str(exc),
                )
            with self._changed:
                self._tell(known, error=exc)
            return
        self._away = False
        took_s = self._clock.monotonic() - began
        with self._changed:
            self._tell(known, changes, rest_s=min(REST * took_s, LONGEST_REST_S))

    def _tell(
        self,
        run_ids: Iterable[str],
        changes: Mapping[str, Sighting | None] = NO_CHANGES,
        *,
        error: BaseException | None = None,
        rest_s: float = 0.0,
    ) -> None:
        """Hand out what a look at these runs has shown, or that it failed."""
        now = self._clock.monotonic()
        for run_id in run_ids:
            awaited = self._runs.get(run_id)
            if awaited is None:
                continue
            self._next_tick = min(self._next_tick, awaited.looked_at(now + rest_s))
            reason = error
            if run_id in changes:
                awaited.sighting = changes[run_id]
                if awaited.sighting is None:
                    reason = RunNotFoundError(f"no run {run_id!r} in this database", run_id)
            for waiter in awaited.waiters:
                # Who came while this look was on its way gets one that began after he came.
                if waiter.entered_at_look < self._looks:
                    waiter.tell(awaited.sighting, reason, now)


_rooms: weakref.WeakSet[WaitingRoom] = weakref.WeakSet()


def _empty_the_rooms() -> None:
    for room in list(_rooms):
        room.start_over()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_the_rooms)
