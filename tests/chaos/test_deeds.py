"""What steps do to the process that executes them, over and over, and how many processes they use up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from pocoflow import PoisonStepError, StepFailedError
from tests.chaos.arena import USER, Arena
from tests.chaos.conftest import Found, Tier
from tests.chaos.flows import limited
from tests.chaos.verify import verify
from tests.integration import deadly
from tests.support.workers import Trace

MAX_CRASHES = 3
GIVEN_UP = f"'doomed' lost its worker {MAX_CRASHES + 1} times at step 1"
TOO_LONG = r"StepTimeoutError.*step 1 \(node 'two'\) exceeded its timeout of 1 s"
WAIT_S = 90.0
FLOWS = "tests.chaos.flows,tests.integration.flows,tests.integration.deadly"


@pytest.fixture
def arena(enter: Callable[..., Arena], database: str) -> Arena:
    return enter(database=database, settings=(("FLOWS", FLOWS), ("MAX_CRASHES", str(MAX_CRASHES))))


@pytest.mark.fault("W5", "steps that kill their process each time", short=("sqlite",))
def test_a_step_that_kills_each_process_is_given_up_and_disturbs_nobody(
    arena: Arena, trace: Trace, tier: Tier, found: Found
) -> None:
    mains, poisons = main_processes(arena), tier(1, 10)
    work = arena.workload(tier(10, 200), over_s=tier(0, 20), pause_s=0.05)

    handles = [trace.start(deadly.doomed, deed="kill", where="exec") for _ in range(poisons)]
    for handle in handles:
        with pytest.raises(PoisonStepError, match=GIVEN_UP):
            handle.wait(WAIT_S)
    proof = verify(arena, work, within_s=WAIT_S)

    assert {len(trace.of(handle.run_id, "doomed")) for handle in handles} == {MAX_CRASHES + 1}
    assert len(work.executions()) == work.steps
    assert main_processes(arena) == mains
    found(f"{poisons} given up after {MAX_CRASHES + 1} executions each, workers alive; others: {proof}")


@pytest.mark.fault("W5", "steps that take all the memory that their process may have", short=("sqlite",))
def test_a_step_that_runs_out_of_memory_is_tried_again(arena: Arena, tier: Tier, found: Found) -> None:
    mains = main_processes(arena)
    work = arena.workload(tier(4, 40), deeds={"two": "hoard"})
    others = arena.workload(tier(10, 200), over_s=tier(0, 10), pause_s=0.05)

    proof = verify(arena, work, within_s=WAIT_S)
    verify(arena, others, within_s=WAIT_S)

    assert main_processes(arena) == mains
    found(f"MemoryError is one more failed try, workers alive; {proof}")


@pytest.mark.fault("W6", "errors of all kinds and sudden ends, in prep, exec and post", short=())
def test_whatever_a_step_raises_or_does_its_worker_lives_on(
    arena: Arena, trace: Trace, tier: Tier, found: Found
) -> None:
    mains, cases = main_processes(arena), deadly.cases() * tier(1, 4)
    work = arena.workload(tier(10, 100), over_s=tier(0, 20), pause_s=0.05)

    handles = [trace.start(deadly.doomed, deed=deed, where=where) for deed, where in cases]
    for (deed, where), handle in zip(cases, handles, strict=True):
        with pytest.raises(StepFailedError) as caught:
            handle.wait(WAIT_S)
        end = caught.value.error_type, caught.value.error_text
        assert end == deadly.expected_end(deed, max_crashes=MAX_CRASHES), (deed, where)
        tries = len(trace.of(handle.run_id, "doomed"))
        assert tries == deadly.expected_tries(deed, where, max_crashes=MAX_CRASHES), (deed, where)
    proof = verify(arena, work, within_s=WAIT_S)

    assert main_processes(arena) == mains
    found(f"{len(cases)} cases end as they must, workers alive; others: {proof}")


@pytest.mark.fault("W10", "steps that exceed Node.timeout, once or each time", short=("sqlite",))
def test_a_step_that_takes_too_long_is_ended_and_tried_again(arena: Arena, tier: Tier, found: Found) -> None:
    mains = main_processes(arena)
    work = arena.workload(tier(3, 30), flow=limited, deeds={"two": "dawdle"})
    never = arena.workload(1, flow=limited, hold="two")

    never.wait_until_started()
    with pytest.raises(StepFailedError, match=TOO_LONG):
        never.handles[never.run_ids[0]].wait(WAIT_S)
    proof = verify(arena, work, within_s=WAIT_S)

    assert sum(execution.node == "two" for execution in never.executions()) == 3
    assert main_processes(arena) == mains
    found(f"ended, then right; the one that never ends failed after 3 tries; {proof}")


@pytest.mark.fault("W10", "calls into C that exceed Node.timeout and keep the interpreter", short=())
def test_a_step_that_no_python_code_can_end_is_ended_all_the_same(
    arena: Arena, tier: Tier, found: Found
) -> None:
    mains = main_processes(arena)
    work = arena.workload(tier(1, 4), flow=limited, deeds={"two": "hog"})

    proof = verify(arena, work, within_s=WAIT_S)

    assert main_processes(arena) == mains
    found(proof)


@pytest.mark.fault("W11", "--max-tasks-per-child=5", short=("postgres",))
def test_children_that_are_replaced_all_the_time_leave_nothing_behind(
    enter: Callable[..., Arena], database: str, tier: Tier, found: Found
) -> None:
    arena = enter(database=database, options=("--max-tasks-per-child=5",))
    arena.meet(within_s=WAIT_S)
    files, connections = open_files(arena), []
    work = arena.workload(tier(6, 400), over_s=tier(0, 30), pause_s=0.0, fails=("two",))

    for _ in work.moments(4):
        connections.append(database_connections(arena))
    proof = verify(arena, work, within_s=WAIT_S)

    children = {execution.pid for execution in work.executions()}
    assert len(children) >= work.steps / 5
    # One each, two while a step lasts long; those of processes that just end are still seen for a moment.
    assert max(connections) <= 4 * arena.children
    assert max(after - before for before, after in zip(files, open_files(arena), strict=True)) <= 8
    found(f"{len(children)} processes, {max(connections)} connections at most, no file left open; {proof}")


def main_processes(arena: Arena) -> list[int]:
    return [worker.pid for worker in arena.supervisor.workers]


def open_files(arena: Arena) -> list[int]:
    """How many files each main process has open."""
    return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in main_processes(arena)]


def database_connections(arena: Arena) -> int:
    """Of the workers to Postgres, with that of this test; none to an SQLite file."""
    if arena.postgres is None:
        return 0
    query = text("select count(*) from pg_stat_activity where usename = :user")
    with arena.admin() as connection:
        return int(connection.execute(query, {"user": USER}).scalar_one())
