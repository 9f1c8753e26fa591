"""Another Postgres takes over that had lagged behind: what it does not know has not happened."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from pocoflow import RunNotFoundError, client
from tests.chaos.arena import Arena
from tests.chaos.conftest import Found, Tier
from tests.chaos.starters import ACCEPTED, start
from tests.chaos.verify import verify

BACK_S = 60.0
# Of one step by one failover: it may be in execution when the copy is made, which forgets the claim because
# Postgres crashes for it; it is executed again while the copy lags, and once more when that has taken over.
EXTRA_EXECUTIONS = 2


@pytest.mark.fault("D4", "failover to a copy of Postgres that has lost the last moments", database="postgres")
def test_runs_go_on_from_what_a_replica_knows_that_had_lagged_behind(
    enter: Callable[..., Arena], tier: Tier, found: Found
) -> None:
    arena = enter(database="postgres")
    runs, failovers, lag = tier((12, 1, 10), (60, 5, 30))
    work, lost = arena.workload(runs, pause_s=0.1), 0
    work.wait_until_started()

    with ThreadPoolExecutor(runs) as pool:
        results = [pool.submit(handle.wait, 10 * BACK_S) for handle in work.handles.values()]
        for _ in work.moments(failovers):
            copy = copied(arena)
            work.wait_for_executions(len(work.executions()) + lag)
            known = committed(arena)
            take_over(arena, copy)
            lost += len(known - committed(arena))
        proof = verify(arena, work, within_s=BACK_S, lost_claims=EXTRA_EXECUTIONS * failovers)
        assert {result.result(BACK_S)["sum"] for result in results} == {work.sum}

    assert lost >= failovers
    found(f"{failovers} failovers, {lost} commits lost; {proof}")


@pytest.mark.fault(
    "D4", "a run is started, and the copy of Postgres does not know it", database="postgres", short=()
)
def test_a_run_that_was_lost_with_the_database_can_be_started_again(
    enter: Callable[..., Arena], found: Found
) -> None:
    arena = enter(database="postgres")
    arena.meet(within_s=BACK_S)
    copy = copied(arena)
    work = arena.workload(4)
    work.wait_for_executions(2)
    work.wait_until_started()
    take_over(arena, copy)

    for run_id in work.run_ids:
        with pytest.raises(RunNotFoundError, match=run_id):
            client.handle(run_id)
        assert start(run_id, work.store) == ACCEPTED

    found(verify(arena, work, within_s=BACK_S, lost_claims=EXTRA_EXECUTIONS))


def copied(arena: Arena) -> Path:
    """Copy all that Postgres knows at this moment; it goes on without its copy."""
    arena.postgres.kill()
    copy = arena.postgres.folder / "copy"
    # Its files belong to a user of their own.
    subprocess.run(["cp", "-a", arena.postgres.folder / "data", copy], check=True)
    arena.postgres.restart()
    return copy


def take_over(arena: Arena, copy: Path) -> None:
    """Kill Postgres, and let the copy take its place."""
    arena.postgres.kill()
    data = arena.postgres.folder / "data"
    shutil.rmtree(data)
    copy.rename(data)
    arena.postgres.restart()


def committed(arena: Arena) -> set[tuple[str, int, int]]:
    """Which steps are committed, and by which claim."""
    with arena.look() as connection:
        rows = connection.execute(text("select run_id, step, epoch from pf_checkpoints"))
        return {(row.run_id, row.step, row.epoch) for row in rows}
