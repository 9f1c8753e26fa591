"""What must be true after every fault, whatever it was."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import Row, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from pocoflow import WorkflowDB
from pocoflow.broker import TIMEOUT_S
from pocoflow.db.fsck import check
from tests.chaos.arena import Arena
from tests.chaos.workload import Execution, Workload
from tests.support.wait import wait_until

_OPEN = """
    select run_id, status, total_steps, attempt, crashes, error_msg from pf_runs
    where run_id like :runs and status not in ('completed', 'failed', 'cancelled')
"""
_ENDS = """
    select run_id, status, error_msg, total_steps from pf_runs where run_id like :runs
"""
_COMMITTED = "select run_id, step, node_name, epoch from pf_checkpoints where run_id like :runs"
_SETBACKS = """
    select run_id, step from pf_events
    where run_id like :runs and event in ('step_lost', 'node_retry', 'node_error')
"""
# How many seconds a worker says that it was busy with a hint.
TOOK = re.compile(r"Task pocoflow\.run_step\[[^]]+\] succeeded in ([\d.]+)s")
Step = tuple[str, int]


def verify(arena: Arena, work: Workload, *, within_s: float, lost_claims: int = 0) -> str:
    """Wait for all runs of the workload to end, and hold the outcome against what was asked for.

    Args:
        within_s: Seconds from now, when the fault is over, in which everything must have settled.
        lost_claims: How often the database itself lost its last commits, or a worker that was told to stop
            gave its steps back; a step may be repeated for each.

    Returns:
        What was found, in a few words.
    """
    proof = verify_runs(arena, work, within_s=within_s, lost_claims=lost_claims)
    arena.meet(within_s=within_s)
    return f"{proof}; {arena.supervisor.restarts} workers restarted"


def verify_runs(arena: Arena, work: Workload, *, within_s: float, lost_claims: int = 0) -> str:
    """The same without a look at the workers."""
    calm_since = time.monotonic()
    work.wait_until_started()
    wait_until_ended(arena, work, within_s)
    settled_s = time.monotonic() - calm_since
    assert_right_answers(arena, work)
    repeated = assert_executions(arena, work, lost_claims=lost_claims)
    assert_no_promise_broken(arena.own_url)
    return (
        f"{len(work.run_ids)} runs x {len(work.trail)} steps right {settled_s:.1f} s later, "
        f"{repeated} executions repeated"
    )


def verify_nobody_waited(arena: Arena, work: Workload, *, within_s: float, since: dict[int, int]) -> str:
    """Verify, and that the broker held up no step and no start for longer than a socket's timeout.

    Args:
        since: The mark of the logs before the workload.
    """
    proof = verify(arena, work, within_s=within_s)
    slowest_step_s = max(map(float, TOOK.findall(arena.logs(since)))) - work.pause_s
    slowest_start_s = max(work.starts_s)
    assert slowest_step_s <= TIMEOUT_S + 1
    assert slowest_start_s <= TIMEOUT_S + 1
    return f"a step held up for {slowest_step_s:.1f} s at most, a start for {slowest_start_s:.1f} s; {proof}"


def assert_right_answers(arena: Arena, work: Workload) -> None:
    """Every run has completed, with the sum and the way to it that its flow must give."""
    expected = {"status": "completed", "error": None, "sum": work.sum, "trail": work.trail}
    history = WorkflowDB(arena.own_url)
    found = {row.run_id: _answer(history, row) for row in _rows(arena, _ENDS, work)}
    wrong = {run_id: found.get(run_id) for run_id in work.run_ids if found.get(run_id) != expected}
    assert not wrong, wrong


def assert_executions(arena: Arena, work: Workload, *, lost_claims: int = 0) -> int:
    """Every committed step was executed by the claim that committed it, and not more often than need be.

    Returns:
        How often steps were executed again that had not failed by themselves.
    """
    executions: dict[Step, list[Execution]] = defaultdict(list)
    for execution in work.executions():
        executions[execution.run_id, execution.step].append(execution)
    setbacks = Counter((row.run_id, row.step) for row in _rows(arena, _SETBACKS, work))
    committed = {(row.run_id, row.step): row for row in _rows(arena, _COMMITTED, work)}
    for step, row in committed.items():
        done = executions[step]
        assert row.epoch in {execution.epoch for execution in done}, (row, done)
        assert {execution.node for execution in done} == {row.node_name}, (row, done)
        assert len(done) <= 1 + setbacks[step] + lost_claims, (row, done)
    assert committed.keys() == executions.keys()
    failed = sum(work.trail.count(name) for name in work.fails) * len(work.run_ids)
    return sum(map(len, executions.values())) - len(committed) - failed


def assert_no_promise_broken(url: str, *, max_crashes: int = 3) -> None:
    """What the invariants say about the history of any run there."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        broken = check(connection, max_crashes=max_crashes)
    assert not broken, broken


def wait_until_ended(arena: Arena, work: Workload, within_s: float) -> None:
    still_open: list[Row[Any]] = []

    def all_ended() -> bool:
        try:
            still_open[:] = _rows(arena, _OPEN, work)
        except SQLAlchemyError:
            return False
        return not still_open

    try:
        wait_until(all_ended, timeout_s=within_s, every_s=0.1, what=f"{len(work.run_ids)} runs to end")
    except AssertionError as exc:
        raise AssertionError(f"{exc}; open are {still_open[:20]}") from exc


def _rows(arena: Arena, query: str, work: Workload) -> list[Row[Any]]:
    with create_engine(arena.own_url, poolclass=NullPool).connect() as connection:
        return list(connection.execute(text(query), {"runs": f"chaos-{work.name}-%"}))


def _answer(history: WorkflowDB, row: Row[Any]) -> dict[str, Any]:
    store = history.load_checkpoint(row.run_id, row.total_steps - 1) if row.total_steps else {}
    return {
        "status": row.status,
        "error": row.error_msg,
        "sum": store.get("sum"),
        "trail": store.get("trail"),
    }
