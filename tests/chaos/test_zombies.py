"""Processes that were taken for dead, and are not: they stood still, or could not give a sign of life."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.chaos.arena import Arena
from tests.chaos.conftest import Found, Tier
from tests.chaos.ear import Ear
from tests.chaos.verify import verify, verify_runs
from tests.chaos.workload import Workload
from tests.support.wait import wait_until
from tests.support.workers import events_of

DISCARDED = "its result is discarded"
WAIT_S = 60.0
_STOLEN = "a child stands still for longer than its lease, another worker "


@pytest.mark.parametrize(
    "held_next",
    [
        pytest.param("three", marks=pytest.mark.fault("W7", f"{_STOLEN}does its step", short=())),
        pytest.param(
            "four", marks=pytest.mark.fault("W7", f"{_STOLEN}does its step and two more", short=("postgres",))
        ),
    ],
)
def test_what_a_zombie_brings_is_discarded_and_it_sends_nothing(
    enter: Callable[..., Arena], database: str, found: Found, held_next: str
) -> None:
    arena = enter(database=database, workers=0)
    with arena.worker() as slow:
        work = arena.workload(1, hold=("two", held_next))
        work.wait_for_executions(2)
        zombie = work.executions()[1]
        with arena.worker():
            os.kill(zombie.pid, signal.SIGSTOP)
            wait_until(lambda: claims(work, "two") == 2, timeout_s=WAIT_S, what="another to take the step")
            work.open_gate("two")
            wait_until(lambda: claims(work, held_next) == 1, timeout_s=WAIT_S, what="it to go on from there")
            with Ear(arena.broker.url) as ear:
                os.kill(zombie.pid, signal.SIGCONT)
                wait_until(lambda: DISCARDED in slow.log, timeout_s=WAIT_S, what="it to be turned away")
                # The other one is held: by then this one has finished with the step, and taken others.
                verify_runs(arena, arena.workload(1), within_s=WAIT_S)
            work.open_gate()
            proof = verify_runs(arena, work, within_s=WAIT_S)

    assert [hint for hint in ear.hints if hint[0] == zombie.run_id] == []
    assert slow.log.count(DISCARDED) == 1
    assert zombie.epoch not in epochs(arena, zombie.run_id)
    found(f"fenced once, nothing sent by it; {proof}")


@pytest.mark.fault(
    "W8", "a child stands still for longer than its lease, nobody does its step", short=("sqlite",)
)
def test_a_late_result_counts_when_nobody_has_taken_the_step(
    enter: Callable[..., Arena], database: str, found: Found
) -> None:
    arena = enter(database=database, workers=0)
    # The second one sweeps, and so takes the step back, but it takes no hints.
    with arena.worker() as slow, arena.worker("-Q", "another"):
        work = arena.workload(1, hold="two")
        work.wait_for_executions(2)
        child = work.executions()[1].pid
        (handle,) = work.handles.values()
        os.kill(child, signal.SIGSTOP)
        wait_until(lambda: events_of(handle, "step_lost"), timeout_s=WAIT_S, what="the lease to end")
        work.open_gate()
        os.kill(child, signal.SIGCONT)
        proof = verify_runs(arena, work, within_s=WAIT_S)

    assert len(work.executions()) == work.steps
    assert DISCARDED not in slow.log
    found(f"committed after a sweep had taken it back; {proof}")


@pytest.mark.fault("W9", "calls into C that keep the interpreter for longer than a lease", short=())
def test_a_step_that_can_give_no_sign_of_life_may_run_twice_and_is_committed_once(
    arena: Arena, tier: Tier, found: Found
) -> None:
    others = arena.workload(tier(10, 100), over_s=tier(2, 10))
    work = arena.workload(tier(1, 6), deeds={"two": "hog"})

    proof = verify(arena, work, within_s=WAIT_S)
    verify(arena, others, within_s=WAIT_S)

    twice = claims(work, "two") - len(work.run_ids)
    assert twice >= 1
    assert arena.supervisor.restarts == 0
    found(f"{twice} executed again; {proof}")


@pytest.mark.fault("W9", "steps that need a processor each for longer than a lease", short=())
def test_a_step_that_only_works_hard_keeps_its_lease(arena: Arena, found: Found) -> None:
    work = arena.workload(2 * arena.children, deeds={"two": "burn"})

    found(verify(arena, work, within_s=2 * WAIT_S))


def claims(work: Workload, node: str) -> int:
    return sum(execution.node == node for execution in work.executions())


def epochs(arena: Arena, run_id: str) -> set[int]:
    """Of the claims that have committed something of that run."""
    with create_engine(arena.own_url, poolclass=NullPool).connect() as connection:
        rows = connection.execute(
            text("select epoch from pf_checkpoints where run_id = :run"), {"run": run_id}
        )
        return {row.epoch for row in rows}
