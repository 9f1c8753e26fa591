"""Runs by id, from any process that reaches their database: no Flow object is needed."""

from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path

from pocoflow import wiring
from pocoflow.engine.deliver import send
from pocoflow.engine.owner import worker_of
from pocoflow.engine.ports import RunRow, is_settled
from pocoflow.engine.records import SAME_HOME, STOPPED, Status
from pocoflow.errors import InvalidTransitionError, RunNotFoundError
from pocoflow.runner import RunHandle

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
    ports = reach.ports
    if ports.ledger.get_run(run_id) is None:
        raise RunNotFoundError(
            f"no run {run_id!r} here: set POCOFLOW_DATABASE_URL, or give the db_path, as it was where the "
            "run was started",
            run_id,
        )
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
        f"start it again with run_background(run_id={run_id!r}) and the same input{then}, or set "
        "POCOFLOW_BROKER_URL to let workers go on with it",
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
