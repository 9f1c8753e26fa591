"""Runs are started, and steps claimed, by many at the same moment; a starter does not live to tell of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import Any

import pytest

from tests.chaos.actors import PROCESSES
from tests.chaos.arena import GRACE_S, SWEEP_S, Arena
from tests.chaos.conftest import Found, Tier
from tests.chaos.starters import ACCEPTED, CONFLICT, claim_together, start, start_and_die, start_together
from tests.chaos.verify import assert_no_promise_broken, verify
from tests.chaos.workload import Workload
from tests.contract.builders import at_once, new_run
from tests.contract.subjects import SqlSubject

AT_ONCE = 10
BACK_S = 60.0
# What a busy machine may need beyond what was promised.
NOISE_S = 5.0


@pytest.mark.fault("S1", "2, then 16 processes claim each step at the same moment", short=("postgres",))
def test_a_step_has_one_owner_however_many_claim_it(
    database: str, request: pytest.FixtureRequest, tier: Tier, found: Found
) -> None:
    url, steps = str(request.getfixturevalue(f"{database}_url")), tier(20, 500)

    winners = {claimers: claim_all_steps(url, claimers, steps) for claimers in (2, 16)}

    assert_no_promise_broken(url)
    found(f"{steps} steps, each with one owner; of 2 claimers {winners[2]} won at times, of 16 {winners[16]}")


def claim_all_steps(url: str, claimers: int, steps: int) -> int:
    """Let so many processes claim one step of a run after the other; return how many ever got one."""
    subject, run_id = SqlSubject(url), f"for {claimers}"
    subject.ledger.start(new_run(run_id))

    won = together([(url, run_id, steps)] * claimers, claim_together)
    run = subject.ledger.get_run(run_id)
    subject.close()

    assert Counter(step for step, _, _ in won) == dict.fromkeys(range(steps), 1)
    assert [epoch for _, _, epoch in sorted(won)] == list(range(1, steps + 1))
    assert run is not None
    assert run["status"] == "completed"
    return len({pid for _, pid, _ in won})


@pytest.mark.fault("S4", "ten threads and ten processes start each run at once", short=("postgres",))
def test_a_run_that_many_start_at_once_is_one_run(arena: Arena, tier: Tier, found: Found) -> None:
    work = to_be_started(arena, tier(10, 200))
    half = len(work.run_ids) // 2

    by_threads = [at_once(AT_ONCE, starter(run_id, work.store)) for run_id in work.run_ids[:half]]
    job = (arena.cluster.settings, work.run_ids[half:], work.store)
    by_processes = together([job] * AT_ONCE, start_together)

    assert {answer for answers in by_threads for answer in answers} == {ACCEPTED}
    assert {answer for _, answer in by_processes} == {ACCEPTED}
    proof = verify(arena, work, within_s=BACK_S)
    assert len(work.executions()) == work.steps
    found(f"{len(work.run_ids) * AT_ONCE} starts; {proof}")


@pytest.mark.fault("S4", "ten processes start each run at once, with two inputs", short=("postgres",))
def test_of_two_inputs_for_one_run_the_second_is_refused(arena: Arena, tier: Tier, found: Found) -> None:
    work = to_be_started(arena, tier(6, 100))
    stores = [{**work.store, "by": number % 2} for number in range(AT_ONCE)]

    said = together([(arena.cluster.settings, work.run_ids, store) for store in stores], start_together)

    answers = Counter(said)
    for run_id in work.run_ids:
        assert answers[run_id, ACCEPTED] == answers[run_id, CONFLICT] == AT_ONCE // 2
    proof = verify(arena, work, within_s=BACK_S)
    assert len(work.executions()) == work.steps
    found(f"{len(said)} starts, {len(said) // 2} refused; {proof}")


@pytest.mark.fault("S5", "the starter is killed between the insert and the message", short=("postgres",))
def test_a_run_whose_starter_did_not_live_to_tell_is_executed(arena: Arena, tier: Tier, found: Found) -> None:
    work = to_be_started(arena, tier(4, 40))
    began, died = {}, {}

    for run_id in work.run_ids:
        began[run_id] = time.time()
        starter = PROCESSES.Process(target=start_and_die, args=(arena.cluster.settings, run_id, work.store))
        starter.start()
        starter.join(BACK_S)
        died[run_id] = time.time()
        assert starter.exitcode == -9
    proof = verify(arena, work, within_s=BACK_S)

    first = {execution.run_id: execution.at for execution in reversed(work.executions())}
    latest_s = max(first[run_id] - died[run_id] for run_id in work.run_ids)
    # Not before: nobody was told but by a sweep.
    assert all(first[run_id] > began[run_id] + GRACE_S for run_id in work.run_ids)
    assert latest_s < GRACE_S + SWEEP_S + NOISE_S
    found(f"{len(died)} killed, {latest_s:.1f} s later at most the run began; {proof}")


def starter(run_id: str, store: dict[str, Any]) -> Callable[[int], str]:
    return lambda number: start(run_id, store)


def to_be_started(arena: Arena, count: int) -> Workload:
    """A workload of which somebody else starts the runs."""
    work = arena.workload(0)
    work.wait_until_started()
    work.run_ids += [f"chaos-{work.name}-{number}" for number in range(count)]
    return work


def together(jobs: list[tuple[Any, ...]], action: Callable[..., None]) -> list[Any]:
    """Do each job in a process of its own, with a barrier for all of them and a queue for what they say."""
    barrier, said = PROCESSES.Barrier(len(jobs)), PROCESSES.Queue()
    processes = [PROCESSES.Process(target=action, args=(*job, barrier, said)) for job in jobs]
    for process in processes:
        process.start()
    heard = []
    # Meanwhile, not afterwards: who has much to say does not end until somebody listens.
    while any(process.is_alive() for process in processes) or not said.empty():
        with suppress(Empty):
            heard.append(said.get(timeout=0.1))
    assert [process.exitcode for process in processes] == [0] * len(jobs)
    return heard
