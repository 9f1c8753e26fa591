"""RunHandle: one run, seen and steered from outside, wherever it executes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from pocoflow import codec
from pocoflow.engine.ports import Clock, ControlFlags, EventRow, Ledger, RunRow, is_settled
from pocoflow.engine.records import POISON, Status
from pocoflow.errors import (
    MaxStepsError,
    PoisonStepError,
    RunCancelledError,
    RunInterruptedError,
    RunNotFoundError,
    StepFailedError,
    UnknownFlowError,
    WaitTimeoutError,
)
from pocoflow.store import Store

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
UNCLAIMED_AFTER_S = 10.0


class RunHandle:
    """A run that was started with `Flow.run_background`.

    Any number of handles may look at one run, from any process that reaches its database.
    """

    def __init__(
        self, run_id: str, *, ledger: Ledger, flags: ControlFlags, clock: Clock, advice: str | None
    ) -> None:
        self.run_id = run_id
        self._ledger = ledger
        self._flags = flags
        self._clock = clock
        self._advice = advice

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
        state = self._ledger.get_state(self.run_id)
        if state is None:
            raise self._not_found()
        return Store(codec.loads(state), name=self.run_id)

    def wait(self, timeout: float | None = None) -> Store:
        """Block until the run has ended and return its final store.

        Args:
            timeout: Seconds; None waits for as long as it takes.

        Raises:
            WaitTimeoutError: It did not end in time; it goes on.
            StepFailedError: A node failed for good; carries node, step, attempts and the remote error.
            PoisonStepError: A step cost too many workers.
            MaxStepsError: It took too many steps.
            UnknownFlowError: No worker knew the flow.
            RunCancelledError: It was cancelled.
            RunInterruptedError: The process that ran it has ended; the run can go on.
        """
        began = self._clock.monotonic()
        deadline = None if timeout is None else began + timeout
        pause_s, advised = FIRST_PAUSE_S, False
        while not is_settled(row := self._look()):
            now = self._clock.monotonic()
            if deadline is not None and now >= deadline:
                raise WaitTimeoutError(
                    f"run {self.run_id!r} is still {row['status']} at step {row['total_steps']} "
                    f"({row['current_node']}) after {timeout:g} s: it goes on, wait again or cancel it"
                )
            if not advised and row["started_at"] is None and now - began > UNCLAIMED_AFTER_S:
                advised = self._advise()
            left_s = pause_s if deadline is None else min(pause_s, deadline - now)
            self._flags.wait_for_end((self.run_id,), left_s)
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
        if row["status"] != Status.COMPLETED:
            raise _error(row)
        return self.store

    def cancel(self) -> str:
        """Ask the run to stop; no further step starts once this has returned.

        A step that is being executed ends first; it can see the wish as `self.cancelled`. A run that has
        ended stays as it is.

        Returns:
            The status now: "cancelled", or "running" while a step is being executed.
        """
        status = self._ledger.cancel(self.run_id)
        self._flags.ask_cancel(self.run_id)
        if status.ended:
            self._flags.announce_end(self.run_id)
        return status.value

    def events(self, follow: bool = False) -> Iterator[EventRow]:
        """Yield the event log from its beginning; with `follow`, until the run has ended or is paused."""
        after, pause_s = 0, FIRST_PAUSE_S
        while True:
            settled = not follow or is_settled(self._look())
            entries = self._ledger.get_events(self.run_id, after=after)
            for entry in entries:
                after = entry["id"]
                yield entry
            if settled:
                return
            pause_s = FIRST_PAUSE_S if entries else min(pause_s * 1.5, LONGEST_PAUSE_S)
            self._flags.wait_for_end((self.run_id,), pause_s)

    def _look(self) -> RunRow:
        row = self._row()
        if row["status"] == Status.PAUSED:
            # Perhaps it is just being taken over by this process: look again before it counts as interrupted.
            self._clock.sleep(LONGEST_PAUSE_S)
            row = self._row()
        return row

    def _row(self) -> RunRow:
        row = self._ledger.get_run(self.run_id)
        if row is None:
            raise self._not_found()
        return row

    def _not_found(self) -> RunNotFoundError:
        return RunNotFoundError(f"no run {self.run_id!r} in this database", self.run_id)

    def _advise(self) -> bool:
        """Say once why nothing happens."""
        complaint = self._flags.complaint(self.run_id)
        text = complaint or self._advice
        if text is not None:
            warnings.warn(f"run {self.run_id!r} was not taken by any worker so far: {text}", stacklevel=3)
        return True


def _error(row: RunRow) -> Exception:
    run_id, text, kind = row["run_id"], row["error_msg"] or "", row["error_type"] or ""
    if row["status"] == Status.CANCELLED:
        return RunCancelledError(f"run {run_id!r} was cancelled at step {row['total_steps']}", run_id)
    if row["status"] == Status.PAUSED:
        return RunInterruptedError(f"run {run_id!r} was interrupted: {text}", run_id)
    if kind == MaxStepsError.__name__:
        return MaxStepsError(text, run_id)
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
