"""RunHandle: one run, seen and steered from outside, wherever it executes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from math import inf

from pocoflow.engine.history import Trail
from pocoflow.engine.ports import Clock, ControlFlags, Ledger
from pocoflow.engine.records import FLOW_CHANGED, OVERDUE, POISON, Status
from pocoflow.engine.rows import EventRow, RunRow, Standing, is_settled
from pocoflow.engine.waiting import FIRST_PAUSE_S, LONGEST_PAUSE_S, WaitingRoom
from pocoflow.errors import (
    DatabaseError,
    FlowChangedError,
    MaxStepsError,
    PoisonStepError,
    RunCancelledError,
    RunInterruptedError,
    RunNotFoundError,
    RunTimeoutError,
    StepFailedError,
    UnknownFlowError,
    WaitTimeoutError,
)
from pocoflow.store import Store

UNCLAIMED_AFTER_S = 10.0


class RunHandle:
    """A run, from `Flow.run_background` or, by its id, from `pocoflow.client.handle`.

    Any number of handles may look at one run, from any process that reaches its database.
    """

    def __init__(
        self,
        run_id: str,
        *,
        ledger: Ledger,
        flags: ControlFlags,
        clock: Clock,
        room: WaitingRoom,
        advice: str | None,
        resume: Callable[[str], Status],
    ) -> None:
        self.run_id = run_id
        self._ledger = ledger
        self._flags = flags
        self._clock = clock
        self._room = room
        self._advice = advice
        self._resume = resume

    def __repr__(self) -> str:
        return f"RunHandle({self.run_id!r})"

    @property
    def status(self) -> str:
        """queued, running, paused, completed, failed or cancelled; read from the ledger each time."""
        return self._row()["status"]

    @property
    def is_done(self) -> bool:
        """True when the run has completed, failed or was cancelled."""
        return Status(self.status).ended

    @property
    def store(self) -> Store:
        """The data as of the last finished step: a copy, later steps do not change it."""
        saved = self._ledger.get_saved(self.run_id)
        if saved is None:
            raise self._not_found()
        return Trail.load(saved).store(self.run_id, lenient=True)

    def wait(self, timeout: float | None = None) -> Store:
        """Block until the run has ended and return its final store.

        Args:
            timeout: Seconds; None waits for as long as it takes.

        Raises:
            WaitTimeoutError: It did not end in time; it goes on.
            StepFailedError: A node failed for good; carries node, step, attempts and the remote error.
            PoisonStepError: A step cost too many workers.
            MaxStepsError: It took too many steps.
            RunTimeoutError: It took longer than its flow's timeout.
            UnknownFlowError: No worker knew the flow.
            RunCancelledError: It was cancelled.
            RunInterruptedError: The process that ran it has ended; the run can go on.
            FlowChangedError: It is paused, because no worker has a graph that it can go on with.
            DatabaseError: The time was up while the database was away.
        """
        now = self._clock.monotonic
        patience = _Patience(now())
        deadline = inf if timeout is None else now() + timeout
        while (row := self._look(deadline, patience.is_lost)) is None or not is_settled(row):
            if now() >= deadline:
                raise self._too_late(row, timeout)
            if row is not None and patience.is_lost(row, now()):
                patience.end()
                self._advise(row)
        if row["status"] != Status.COMPLETED:
            raise _error(row)
        return self._result(deadline)

    def pause(self) -> str:
        """Let the run rest before its next step, until `resume`; safe to repeat.

        A step that is being executed ends first. If that ends the run, or the run was to be cancelled, it
        has ended. `wait` goes on waiting for a paused run.

        Returns:
            The status now: "paused", or "running" while a step is being executed.

        Raises:
            InvalidTransitionError: It has ended.
        """
        return self._ledger.pause(self.run_id).value

    def resume(self) -> str:
        """Let a paused or failed run go on after its last checkpoint, with all the tries of a new step.

        What is left of a retry delay is still waited for. A pause that has not come yet is taken back.

        Returns:
            The status now: "queued", or "running" when it had not been paused yet.

        Raises:
            InvalidTransitionError: It is neither, or nobody is there who could go on with it.
        """
        return self._resume(self.run_id).value

    def cancel(self, force: bool = False) -> str:
        """Ask the run to stop; no further step starts once this has returned.

        A step that is being executed ends first; it can see the wish as `self.cancelled`. A run that has
        ended stays as it is.

        Args:
            force: Do not wait for that step: the run ends now, and the step's result is discarded.

        Returns:
            The status now: "cancelled", or "running" while a step is being executed.
        """
        status = self._ledger.cancel(self.run_id, force=force)
        self._flags.ask_cancel(self.run_id)
        if status.ended:
            self._flags.announce_end(self.run_id)
        return status.value

    def events(self, follow: bool = False) -> Iterator[EventRow]:
        """Yield the event log from its beginning; with `follow`, until the run has ended or is stranded."""
        after, pause_s = 0, 0.0
        while True:
            settled = not follow or self._settles_within(pause_s)
            entries = self._ledger.get_events(self.run_id, after=after)
            for entry in entries:
                after = entry["id"]
                yield entry
            if settled:
                return
            pause_s = FIRST_PAUSE_S if entries else min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)

    def _look(
        self, deadline: float, until: Callable[[Standing, float], bool], pause_s: float = FIRST_PAUSE_S
    ) -> Standing | None:
        """Wait until the run has settled, or stands as `until` wants it; see `WaitingRoom.wait`."""
        row = self._room.wait(
            self.run_id,
            until=lambda row, now: is_settled(row) or until(row, now),
            deadline=deadline,
            pause_s=pause_s,
        )
        if row is not None and row["status"] == Status.PAUSED and is_settled(row):
            # Perhaps this process is just taking it over: look again before it counts as interrupted.
            self._clock.sleep(LONGEST_PAUSE_S)
            row = self._room.wait(self.run_id, until=lambda row, now: True, deadline=deadline)
        return row

    def _settles_within(self, seconds: float) -> bool:
        """Whether the run settles in this time; a database that is away does not count as time."""
        while True:
            try:
                row = self._look(self._clock.monotonic() + seconds, _never, LONGEST_PAUSE_S)
            except DatabaseError:
                self._clock.sleep(LONGEST_PAUSE_S)
            else:
                return row is not None and is_settled(row)

    def _result(self, deadline: float) -> Store:
        try:
            return self.store
        except DatabaseError:
            # It went away after it had told of the end: once more when it is back.
            self._look(deadline, _never)
            return self.store

    def _row(self) -> RunRow:
        row = self._ledger.get_run(self.run_id)
        if row is None:
            raise self._not_found()
        return row

    def _not_found(self) -> RunNotFoundError:
        return RunNotFoundError(f"no run {self.run_id!r} in this database", self.run_id)

    def _too_late(self, row: Standing | None, timeout: float | None) -> WaitTimeoutError:
        if row is None:
            return WaitTimeoutError(
                f"run {self.run_id!r} has not ended after {timeout:g} s as far as is known: "
                "the database has not answered in this time, wait again"
            )
        return WaitTimeoutError(
            f"run {self.run_id!r} is still {row['status']} at step {row['total_steps']} "
            f"({row['current_node']}) after {timeout:g} s: it goes on, wait again or cancel it"
        )

    def _advise(self, row: Standing) -> None:
        """Say why nothing happens."""
        text, queue = self._flags.complaint(self.run_id) or self._advice, row["queue"]
        if text is None:
            return
        where = f" (it waits in the queue {queue!r}, for a worker with -Q {queue})" if queue else ""
        step = f"step {row['total_steps']} of run {self.run_id!r}"
        warnings.warn(f"{step} was not taken by any worker so far{where}: {text}", stacklevel=3)


class _Patience:
    """Notices, once for each step, that a step has been waiting for a worker for too long."""

    def __init__(self, now: float) -> None:
        self._step = -1
        self._since = now
        self._told = False

    def is_lost(self, row: Standing, now: float) -> bool:
        if row["total_steps"] != self._step or row["status"] != Status.QUEUED:
            self._step, self._since, self._told = row["total_steps"], now, False
        return not self._told and now - self._since > UNCLAIMED_AFTER_S and row["attempt"] == 0

    def end(self) -> None:
        self._told = True


def _never(row: Standing, now: float) -> bool:
    return False


def _error(row: Standing) -> Exception:
    run_id, text, kind = row["run_id"], row["error_msg"] or "", row["error_type"] or ""
    if row["status"] == Status.CANCELLED:
        return RunCancelledError(f"run {run_id!r} was cancelled at step {row['total_steps']}", run_id)
    if row["status"] == Status.PAUSED and kind == FLOW_CHANGED:
        return FlowChangedError(f"run {run_id!r} was paused: {text}")
    if row["status"] == Status.PAUSED:
        return RunInterruptedError(f"run {run_id!r} was interrupted: {text}", run_id)
    if kind == MaxStepsError.__name__:
        return MaxStepsError(text, run_id)
    if kind == OVERDUE:
        return RunTimeoutError(f"run {run_id!r} failed at step {row['total_steps']}: {text}", run_id)
    if kind == UnknownFlowError.__name__:
        return UnknownFlowError(f"run {run_id!r} failed: {text}")
    node, step, attempts = row["current_node"] or "", row["total_steps"], row["attempt"]
    if kind == POISON:
        return PoisonStepError(f"run {run_id!r} failed: {text}", run_id, node, step, attempts, kind, text)
    return StepFailedError(
        f"run {run_id!r} failed at step {step} in node {node!r} after {attempts} "
        f"{'try' if attempts == 1 else 'tries'}: {kind}: {text}",
        run_id,
        node,
        step,
        attempts,
        kind,
        text,
    )
