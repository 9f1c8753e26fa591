"""Drive a run to its end in the calling thread."""

from __future__ import annotations

from math import inf

from pocoflow.engine import signals
from pocoflow.engine.advance import advance
from pocoflow.engine.graph import Definition
from pocoflow.engine.ports import Ports
from pocoflow.engine.records import Continue, Fenced, Finish, Outcome, Position, Status
from pocoflow.errors import RunCancelledError, RunInterruptedError
from pocoflow.store import Store


def run_inline(position: Position, store: Store, *, flow: Definition, ports: Ports, home: str) -> None:
    """Execute step after step until the run has completed.

    Raises:
        Exception: What the failing node raised.
        MaxStepsError: The run took too many steps.
        StepTimeoutError: A node took longer than its timeout.
        RunTimeoutError: The run took longer than its flow's timeout.
        RunCancelledError: Another thread or process cancelled it.
        RunInterruptedError: Another process took the run over.
    """
    try:
        with signals.installed():
            outcome = _drive(position, store, flow, ports)
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
    reason = "was taken over by another process" if isinstance(outcome, Fenced) else "was paused"
    raise RunInterruptedError(f"run {position.run_id!r} {reason}", position.run_id)


def _drive(position: Position, store: Store, flow: Definition, ports: Ports) -> Outcome:
    while True:
        outcome = advance(position, store, flow=flow, ports=ports, keep=_always, sleep_up_to_s=inf)
        if not isinstance(outcome, Continue) or outcome.position is None:
            return outcome


def _always(queue: str | None) -> bool:
    return True
