"""Clocks jump: those of the workers and of the client mean nothing, that of the database costs time only."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from tests.chaos.arena import DEFAULTS, SWEEP_S, Arena
from tests.chaos.conftest import Found, Tier
from tests.chaos.verify import verify
from tests.chaos.wrong_clock import VARIABLE, set_wrong
from tests.contract.subjects import SqlSubject

HOUR_S = 3600.0
BACK_S = 60.0


@pytest.mark.fault(
    "S8", "the clocks of workers and client jump by an hour, back and forth", short=("sqlite",)
)
def test_the_clocks_of_workers_and_client_mean_nothing(
    enter: Callable[..., Arena],
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tier: Tier,
    found: Found,
) -> None:
    clocks, right, wrong_by_s = tmp_path / "clocks", time.time, [0.0]
    flows = f"tests.chaos.wrong_clock,{DEFAULTS['FLOWS']}"
    arena = enter(database=database, settings=(("FLOWS", flows), (VARIABLE, str(clocks))))
    monkeypatch.setattr(time, "time", lambda: right() + wrong_by_s[0])
    runs, jumps = tier((20, 3), (200, 8))
    fails = ("two", "three")
    work = arena.workload(runs, over_s=tier(2, 20), pause_s=0.03, fails=fails)

    for jump in work.moments(jumps):
        # The workers of the same host, and in turn the client, an hour before or after each other.
        for worker, ahead in zip(arena.supervisor.workers, cycle((1, -1)), strict=False):
            set_wrong(clocks, worker.pid, HOUR_S * ahead * (-1) ** jump)
        wrong_by_s[0] = HOUR_S * (-1) ** jump
    proof = verify(arena, work, within_s=BACK_S)

    seen = {round((execution.at - right()) / HOUR_S) for execution in work.executions()}
    assert seen == {-1, 0, 1}
    assert len(work.executions()) == work.steps + runs * sum(work.trail.count(node) for node in fails)
    found(f"{jumps} jumps; {proof}")


@pytest.mark.fault("S8", "the clock of the database jumps forward by an hour", short=("sqlite",))
def test_answers_are_right_although_the_clock_of_the_database_jumps_forward(
    arena: Arena, tier: Tier, found: Found
) -> None:
    runs, jumps = tier((3, 2), (25, 8))
    # Some processes are free at any time, and sweep: they find leases at an end while their steps last.
    work = arena.workload(runs, over_s=tier(0, 50), pause_s=3 * SWEEP_S)
    clock = SqlSubject(arena.own_url)

    for _ in work.moments(jumps):
        # As seen from the rows: all that is waited for is an hour nearer.
        clock.pass_time(HOUR_S)
    proof = verify(arena, work, within_s=BACK_S)
    clock.close()

    assert len(work.executions()) > work.steps
    found(f"{jumps} jumps; {proof}")
