"""Runs by id, from any process that reaches their database: no Flow object is needed."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pocoflow import wiring
from pocoflow.engine.deliver import send
from pocoflow.engine.fork import REMOVE, checked_step, fork_of
from pocoflow.engine.identity import require_same
from pocoflow.engine.owner import worker_of
from pocoflow.engine.records import SAME_HOME, STOPPED, Hint, Status
from pocoflow.engine.rows import RunRow, is_settled
from pocoflow.errors import InvalidTransitionError, RunNotFoundError, UnknownFlowError
from pocoflow.logging import get_logger, log_event
from pocoflow.runner import RunHandle

__all__ = ["REMOVE", "fork", "handle", "resume", "retry"]

log = get_logger("runner")

# The home of a run that is to go on although nobody is there to execute it.
_NOWHERE = "nowhere"


def handle(run_id: str, db_path: str | Path | None = None) -> RunHandle:
    """Return a handle on a run, whichever process has started it.

    A run that it resumes goes on in the process that it lives in, if it lives in one, and else on the workers
    behind the broker that is configured here.

    Args:
        db_path: Where the run is kept; left out, where `run_background` would keep it.

    Raises:
        RunNotFoundError: It is not there.
        DatabaseError: The database cannot be reached.
    """
    reach = wiring.reach(db_path)
    _row(reach, run_id)
    return _handle(reach, run_id)


def resume(run_id: str, db_path: str | Path | None = None) -> RunHandle:
    """Let a paused or failed run go on after its last checkpoint, and return a handle on it.

    The same run goes on: no code has to say at which node, the run knows. See `RunHandle.resume`.

    Raises:
        RunNotFoundError: It is not there.
        InvalidTransitionError: It is neither, or nobody is there who could go on with it.
    """
    found = handle(run_id, db_path)
    found.resume()
    return found


def retry(run_id: str, *, new_run_id: str | None = None, db_path: str | Path | None = None) -> RunHandle:
    """Start a run that has ended once more from its input: a new run, which notes it as its parent.

    To go on with a failed run where it stands, `resume` it: what it has done is not done again.

    Raises:
        InvalidTransitionError: It has not ended.
        RunNotFoundError: It is not there.
        RunConflictError: There is another run with the new id.
        UnknownFlowError: Nobody could execute it; see `fork`.
    """
    status = Status(_row(wiring.reach(db_path), run_id)["status"])
    if not status.ended:
        raise InvalidTransitionError(
            f"run {run_id!r} is {status} and cannot be retried before it has ended: cancel it first, or fork "
            "it at step -1 to have a second one beside it",
            run_id,
        )
    return fork(run_id, -1, new_run_id=new_run_id, db_path=db_path)


def fork(
    run_id: str,
    step: int,
    *,
    store_updates: Mapping[str, Any] | None = None,
    node: str | None = None,
    new_run_id: str | None = None,
    db_path: str | Path | None = None,
) -> RunHandle:
    """Start a new run where another one has been; that one stays as it is, and may still be going on.

    Workers execute it, as they do a run that is resumed. Where none are configured, the code of the flow is
    needed: `Flow.fork` does the same in a process that has it.

    Args:
        run_id: Any run, whatever its status.
        step: The checkpoint to go on from; -1 is the input.
        store_updates: Values by key to go on with; REMOVE for a key that is to go.
        node: Id of the first node; left out, the one that follows the checkpoint.
        new_run_id: Id of the new run; made up when left out. A second fork with this id and the same
            arguments returns the same run.
        db_path: Where the run is kept; left out, where `run_background` would keep it.

    Raises:
        RunNotFoundError: There is no such run.
        CheckpointNotFoundError: It has no checkpoint of this step.
        InvalidTransitionError: No node follows the checkpoint, and none was given.
        RunConflictError: There is another run with the new id.
        StoreTypeError: The schema of the store forbids an update.
        StoreSerializationError: An update holds something that a checkpoint cannot carry.
        UnknownFlowError: No workers are configured here, and the run is not one of theirs.
    """
    reach = wiring.reach(db_path)
    ledger = reach.ports.ledger
    home = _row(reach, run_id)["home"]
    point = ledger.get_fork_point(run_id, checked_step(step), node=node)
    if reach.dispatcher is None and home is not None:
        raise UnknownFlowError(
            f"nobody here could execute a fork of run {run_id!r}: call fork({run_id!r}, {step}) of its flow "
            f"{point.flow_name!r} in a process that has it, or set POCOFLOW_BROKER_URL to let workers do it"
        )
    new = fork_of(point, ledger, updates=store_updates, run_id=new_run_id, home=None)
    started = ledger.start(new)
    if not started.created:
        require_same(new, started)
    elif reach.dispatcher is not None:
        # Without one, the sweep of the workers finds it.
        send(Hint(new.run_id, 0, new.queue), reach.dispatcher)
    log_event(log, "run forked", run_id=new.run_id, parent=run_id, step=step, created=started.created)
    return _handle(reach, new.run_id)


def _row(reach: wiring.Reach, run_id: str) -> RunRow:
    row = reach.ports.ledger.get_run(run_id)
    if row is None:
        raise RunNotFoundError(
            f"no run {run_id!r} here: set POCOFLOW_DATABASE_URL, or give the db_path, as it was where the "
            "run was started",
            run_id,
        )
    return row


def _handle(reach: wiring.Reach, run_id: str) -> RunHandle:
    ports = reach.ports
    return RunHandle(
        run_id,
        ledger=ports.ledger,
        flags=ports.flags,
        clock=ports.clock,
        room=wiring.waiting_room(ports),
        advice=reach.advice,
        resume=partial(_resume, reach),
    )


def _resume(reach: wiring.Reach, run_id: str) -> Status:
    ledger = reach.ports.ledger
    row = ledger.get_run(run_id)
    home = None if row is None else _home_of(row, reach)
    hint = ledger.resume(run_id, home=home)
    if hint is None:
        return Status.RUNNING
    if home == _NOWHERE:
        # It is no longer its user who holds it up: whoever starts it again goes on with it.
        ledger.interrupt(_NOWHERE)
        raise _nobody_there(run_id, Status.PAUSED)
    if home is None and reach.dispatcher is not None:
        send(hint, reach.dispatcher)
    elif row is not None and (worker := wiring.worker_at(row["home"])) is not None:
        worker.remind(hint)
    return Status.QUEUED


def _home_of(row: RunRow, reach: wiring.Reach) -> str | None:
    """Where the run goes on; a process looks after its paused runs, but not after those that have failed."""
    home, status, settled = row["home"], Status(row["status"]), is_settled(row)
    if home is not None and not settled and _may_live(home):
        return SAME_HOME
    if reach.dispatcher is not None:
        return None
    if home is None:
        return SAME_HOME  # The sweep of its workers finds it.
    if settled and status in STOPPED:
        raise _nobody_there(row["run_id"], status)
    return _NOWHERE


def _nobody_there(run_id: str, status: Status) -> InvalidTransitionError:
    then = ", and resume() the handle that it returns" if status is Status.FAILED else ""
    return InvalidTransitionError(
        f"run {run_id!r} is {status}, and the process that it lived in does not look after it any more: "
        f"start it again with run_background(run_id={run_id!r}) and the same input (a fork: fork again, with "
        f"that as its new_run_id){then}, or set POCOFLOW_BROKER_URL to let workers go on with it",
        run_id,
    )


def _may_live(home: str) -> bool:
    """Whether its process may execute something; of a process on another host nothing is known."""
    kind, _, token = home.partition(":")
    host, _, pid = worker_of(token).rpartition(":")
    if kind != "embedded":
        return False
    if host != socket.gethostname():
        return True
    return wiring.worker_at(home) is not None if int(pid) == os.getpid() else _exists(int(pid))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
