"""Drive a run to its end in the calling thread."""

from __future__ import annotations

from math import inf

from pocoflow.engine import signals
from pocoflow.engine.advance import advance
from pocoflow.engine.graph import Definition
from pocoflow.engine.history import Trail
from pocoflow.engine.ports import Ports
from pocoflow.engine.records import OVERDUE, Continue, Finish, Outcome, Position, Status, Suspend
from pocoflow.errors import RunCancelledError, RunInterruptedError, RunTimeoutError
from pocoflow.store import Store


def run_inline(
    position: Position, store: Store, trail: Trail, *, flow: Definition, ports: Ports, home: str
) -> None:
    """Execute step after step until the run has completed.

    Raises:
        Exception: What the failing node raised.
        MaxStepsError: The run took too many steps.
        StepTimeoutError: A node took longer than its timeout.
        RunTimeoutError: The run took longer than its flow's timeout.
        RunCancelledError: Another thread or process cancelled it.
        RunInterruptedError: Another thread or process paused it, or took it over.
    """
    try:
        with signals.installed():
            outcome = _drive(position, store, trail, flow, ports)
    except BaseException:
        # Not an error of the flow's (those are outcomes): Ctrl-C, exit, or the ledger is gone.
        ports.ledger.interrupt(home)
        raise
    if isinstance(outcome, Finish):
        if outcome.status is Status.CANCELLED:
            raise RunCancelledError(
                f"run {outcome.run_id!r} was cancelled", outcome.run_id
            ) from outcome.error
        if outcome.error is not None:
            raise outcome.error
        return
    run_id = position.run_id
    if isinstance(outcome, Suspend):
        raise RunInterruptedError(
            f"run {run_id!r} was paused: to go on, call run_background with run_id={run_id!r} and the same "
            "input, and resume() of the handle that it returns",
            run_id,
        )
    row = ports.ledger.get_run(run_id)
    if row is not None and row["status"] == Status.CANCELLED:
        raise RunCancelledError(f"run {run_id!r} was cancelled, its last step does not count", run_id)
    if row is not None and row["error_type"] == OVERDUE:
        raise RunTimeoutError(row["error_msg"] or "", run_id)
    raise RunInterruptedError(f"run {run_id!r} was taken over by another process", run_id)


def _drive(position: Position, store: Store, trail: Trail, flow: Definition, ports: Ports) -> Outcome:
    while True:
        outcome = advance(position, store, trail, flow=flow, ports=ports, keep=_always, sleep_up_to_s=inf)
        if not isinstance(outcome, Continue) or outcome.position is None:
            return outcome


def _always(queue: str | None) -> bool:
    return True
