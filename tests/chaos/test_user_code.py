"""What the user's own code does to a run: it fails and is tried again, goes round for ever, has bad hooks."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from sqlalchemy import text

from pocoflow import MaxStepsError
from tests.chaos.arena import SWEEP_S, Arena
from tests.chaos.conftest import Found, Tier
from tests.chaos.odd_flows import MAX_STEPS, circle, circle_of_one, hooked, lost, retrying
from tests.chaos.verify import assert_no_promise_broken, verify, wait_until_ended
from tests.chaos.workload import Workload
from tests.support.wait import wait_until

BACK_S = 60.0
# What was promised is a sweep and a second; a busy machine may need more.
LATE_S = SWEEP_S + 1.0 + 5.0
# Of the clocks of database and worker, which are one here.
EXACT_S = 0.05
_WAITING = text(
    "select run_id, due_at from pf_runs where run_id like :runs and status = 'queued' and attempt = :tries"
)


@pytest.mark.fault(
    "S6", "a worker is killed and Redis flushed while steps wait for their next try", short=("sqlite",)
)
def test_a_try_comes_when_it_is_due_although_its_worker_and_its_message_are_gone(
    arena: Arena, tier: Tier, found: Found
) -> None:
    runs, failures, kills = tier((6, 2, 1), (20, 4, 4))
    late_s = 0.0

    for _ in range(kills):
        work = arena.workload(runs, flow=retrying, failures=failures)
        work.wait_until_started()
        for tries in range(1, failures + 1):
            due = when_due(arena, work, tries)
            if tries == 1:
                kill_worker_of(arena, work)
            with arena.redis() as broker:
                broker.flushall()
            began = when_tried(work, tries + 1)
            late_s = max(late_s, *(began[run_id] - at for run_id, at in due.items()))
            assert all(began[run_id] > at - EXACT_S for run_id, at in due.items())
        wait_until_ended(arena, work, BACK_S)
        assert_tries(work, failures)
        arena.meet(within_s=BACK_S)

    assert late_s < LATE_S
    assert_no_promise_broken(arena.own_url)
    found(
        f"{kills * runs} runs x {failures} tries that failed; the next one never before its time, "
        f"{late_s:.1f} s late at most"
    )


def when_due(arena: Arena, work: Workload, tries: int) -> dict[str, float]:
    """Wait until so many tries of each run have failed, and return when the next one is due."""

    def waiting() -> dict[str, float] | None:
        with arena.look() as connection:
            rows = connection.execute(_WAITING, {"runs": f"chaos-{work.name}-%", "tries": tries}).all()
        return {row.run_id: row.due_at for row in rows} if len(rows) == len(work.run_ids) else None

    return wait_until(waiting, timeout_s=BACK_S, what=f"try {tries} of all runs to fail")


def when_tried(work: Workload, attempt: int) -> dict[str, float]:
    """Wait until this try of each run has begun, and return when."""

    def begun() -> dict[str, float] | None:
        moments = {one.run_id: one.at for one in work.executions() if one.attempt == attempt}
        return moments if len(moments) == len(work.run_ids) else None

    return wait_until(begun, timeout_s=BACK_S, what=f"try {attempt} of all runs")


def kill_worker_of(arena: Arena, work: Workload) -> None:
    """Kill -9 the whole worker that executed a step last."""
    session = os.getsid(work.executions()[-1].pid)
    next(worker for worker in arena.supervisor.workers if worker.pid == session).kill()


def assert_tries(work: Workload, failures: int) -> None:
    """Each try has its number, whichever worker it was; the step after it needed one."""
    tries = [(one.step, one.attempt) for one in work.executions()]
    expected = [(0, number) for number in range(1, failures + 2)] + [(1, 1)]
    assert Counter(tries) == dict.fromkeys(expected, len(work.run_ids))


@pytest.mark.fault("S10", "hooks raise, end the process, change the store, and block", short=("sqlite",))
def test_hooks_do_not_change_what_becomes_of_a_step(arena: Arena, tier: Tier, found: Found) -> None:
    runs, blocked_s = tier((4, 1.5), (8, 30.0))
    restarts = arena.supervisor.restarts
    work = arena.workload(runs, flow=hooked, hook_s=blocked_s)

    proof = verify(arena, work, within_s=BACK_S + runs * 2 * blocked_s)

    assert len(work.executions()) == work.steps
    assert arena.supervisor.restarts == restarts
    found(f"before and after a step for {blocked_s:g} s; {proof}")


@pytest.mark.fault("S12", "a flow goes round without end, or has no edge for an action", short=("sqlite",))
def test_a_run_without_end_fails_and_one_without_an_edge_completes(
    arena: Arena, tier: Tier, found: Found
) -> None:
    runs = tier(2, 20)
    endless = [arena.workload(runs, flow=flow) for flow in (circle, circle_of_one)]
    astray = arena.workload(runs, flow=lost)
    for work in (*endless, astray):
        work.wait_until_started()

    for work in endless:
        for handle in work.handles.values():
            with pytest.raises(MaxStepsError, match=f"exceeded max_steps={MAX_STEPS}: look for a loop"):
                handle.wait(BACK_S)
            assert handle.status == "failed"
        assert len(work.executions()) == MAX_STEPS * runs
    for handle in astray.handles.values():
        handle.wait(BACK_S)
        assert handle.status == "completed"
    assert len(astray.executions()) == runs
    assert_no_promise_broken(arena.own_url)
    found(f"{2 * runs} runs failed after {MAX_STEPS} steps, {runs} completed with the step that led nowhere")
