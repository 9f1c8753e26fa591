"""Orders to stop: warm (SIGTERM), soft (SIGTERM taken for SIGQUIT, with a timeout), cold (SIGQUIT)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from pocoflow.engine.effects import read_effects
from tests.chaos.arena import Arena, endure
from tests.chaos.conftest import Found, Tier
from tests.chaos.verify import verify, verify_runs
from tests.chaos.workload import Execution, Workload
from tests.support.wait import wait_until
from tests.support.workers import WorkerProcess

# Leases and grace are too long to help: a step goes on elsewhere because it was given back.
NEVER = {"LEASE_S": "3600", "GRACE_S": "3600"}
PROMPT_S, NOISE_S = 2.0, 5.0
SHORT_S, SOFT_S, LOCKED_S = 1.0, 3.0, 2.0
# What the deployment files leave between the end of the soft shutdown and SIGKILL.
SPARE_S = 20.0
WAIT_S = 60.0


class Leaving(NamedTuple):
    """A worker that is to stop while its two children execute a short step and a long one."""

    worker: WorkerProcess
    short: Workload
    long: Workload

    def stop(self, number: int) -> float:
        """Let the short step begin, and order the worker to stop; returns the time."""
        self.short.open_gate()
        self.worker.send_signal(number)
        return time.time()


@contextmanager
def leaving(arena: Arena, *options: str) -> Iterator[Leaving]:
    """Have such a worker, and another one that is ready to take over."""
    with arena.worker("-c", "2", *options, **NEVER) as worker:
        long, short = arena.workload(1, hold="two"), arena.workload(1, hold="two", pause_s=SHORT_S)
        for work in (long, short):
            work.wait_for_executions(2)
        with arena.worker("-c", "2", **NEVER):
            yield Leaving(worker, short, long)


@pytest.mark.fault(
    "W3",
    "soft shutdown (SIGTERM as deployed), with a short step and a long one",
    short=("sqlite",),
)
def test_a_soft_shutdown_lets_short_steps_finish_and_gives_long_ones_back(
    enter: Callable[..., Arena], database: str, monkeypatch: pytest.MonkeyPatch, found: Found
) -> None:
    arena = enter(database=database, workers=0)
    monkeypatch.setenv("REMAP_SIGTERM", "SIGQUIT")

    with leaving(arena, f"worker.soft_shutdown_timeout={SOFT_S:g}") as scene:
        told_at = scene.stop(signal.SIGTERM)
        scene.worker.wait_until_ended()
        ended_s = time.time() - told_at
        scene.long.wait_for_executions(3)
        scene.long.open_gate()
        proof = verify_runs(arena, scene.long, within_s=WAIT_S, lost_claims=1)
        verify_runs(arena, scene.short, within_s=WAIT_S)

    assert len(scene.short.executions()) == scene.short.steps
    assert setbacks(arena, scene.short, scene.long) == []
    assert SOFT_S <= ended_s < SOFT_S + SPARE_S
    again_s = executions(scene.long, "two")[1].at - told_at - SOFT_S
    assert again_s < PROMPT_S + NOISE_S
    found(f"the long one begun elsewhere {again_s:.1f} s after the timeout, ended after {ended_s:.1f} s")
    found(proof)


@pytest.mark.fault("W3", "cold shutdown: SIGQUIT, with a short step and a long one", short=())
def test_a_cold_shutdown_gives_all_steps_back_at_once(
    enter: Callable[..., Arena], database: str, found: Found
) -> None:
    arena = enter(database=database, workers=0)

    with leaving(arena) as scene:
        told_at = scene.stop(signal.SIGQUIT)
        for work in (scene.short, scene.long):
            wait_until(lambda: len(executions(work, "two")) == 2, timeout_s=WAIT_S)  # noqa: B023
        scene.worker.wait_until_ended()
        ended_s = time.time() - told_at
        scene.long.open_gate()
        proof = verify_runs(arena, scene.long, within_s=WAIT_S, lost_claims=1)
        verify_runs(arena, scene.short, within_s=WAIT_S, lost_claims=1)

    again_s = max(executions(work, "two")[1].at - told_at for work in (scene.short, scene.long))
    assert setbacks(arena, scene.short, scene.long) == []
    assert again_s < PROMPT_S + NOISE_S
    assert ended_s < SPARE_S
    found(f"both begun elsewhere after {again_s:.1f} s, ended after {ended_s:.1f} s; {proof}")


@pytest.mark.fault("W3", "warm shutdown: SIGTERM, with a short step and a long one", short=())
def test_a_warm_shutdown_waits_for_all_steps(
    enter: Callable[..., Arena], database: str, found: Found
) -> None:
    arena = enter(database=database, workers=0)

    with leaving(arena) as scene:
        scene.stop(signal.SIGTERM)
        proof = verify_runs(arena, scene.short, within_s=WAIT_S)
        assert scene.worker.exit_code is None
        scene.long.open_gate()
        verify_runs(arena, scene.long, within_s=WAIT_S)
        assert scene.worker.wait_until_ended() == 0

    assert sum(len(work.executions()) - work.steps for work in (scene.short, scene.long)) == 0
    assert setbacks(arena, scene.short, scene.long) == []
    found(f"nothing executed twice; {proof}")


@pytest.mark.fault("W3", "cold shutdown while a commit waits for a lock", short=("postgres",))
def test_no_signal_interrupts_a_commit(
    enter: Callable[..., Arena], database: str, tmp_path: Path, found: Found
) -> None:
    arena = enter(database=database, workers=0)
    log = tmp_path / "effects.jsonl"

    with arena.worker(FAULTS="before_commit@two=sleep=0", EFFECT_LOG=str(log), **NEVER) as worker:
        work = arena.workload(1, hold="two")
        work.wait_for_executions(2)
        with locked(arena):
            work.open_gate()
            wait_until(lambda: "fault" in {effect["kind"] for effect in read_effects(log)}, timeout_s=WAIT_S)
            worker.send_signal(signal.SIGQUIT)
            endure(LOCKED_S)
        worker.wait_until_ended()
        with arena.worker(**NEVER):
            proof = verify_runs(arena, work, within_s=WAIT_S)

    assert len(work.executions()) == work.steps
    assert setbacks(arena, work) == []
    found(f"committed when the lock was gone, {LOCKED_S:.0f} s after the order; {proof}")


@contextmanager
def locked(arena: Arena) -> Iterator[None]:
    """While nobody else can write to the database."""
    how = "lock table pf_runs in share mode" if arena.postgres else "begin immediate"
    with create_engine(arena.own_url, poolclass=NullPool).connect() as connection:
        connection.exec_driver_sql(how)
        yield
        connection.exec_driver_sql("rollback")


@pytest.mark.fault("W3", "warm and cold shutdowns by turns, while runs go on", short=())
def test_steps_are_given_back_and_no_run_is_lost_while_workers_are_replaced(
    arena: Arena, tier: Tier, found: Found
) -> None:
    runs, stops = tier((60, 2), (400, 10))
    work = arena.workload(runs, over_s=tier(4, 40), pause_s=0.05, fails=("two",))
    before = arena.supervisor.restarts

    for moment in work.moments(stops):
        worker = arena.supervisor.workers[moment // 2 % 2]
        # While it starts, Celery may overhear the order.
        worker.wait_until_ready()
        worker.send_signal(signal.SIGQUIT if moment % 2 else signal.SIGTERM)
        worker.wait_until_ended()
    proof = verify(arena, work, within_s=WAIT_S, lost_claims=1)

    assert arena.supervisor.restarts - before == stops
    assert {event.event for event in setbacks(arena, work)} <= {"node_retry"}
    found(f"{stops} shutdowns, no step counted as lost; {proof}")


def executions(work: Workload, node: str) -> list[Execution]:
    return [execution for execution in work.executions() if execution.node == node]


def setbacks(arena: Arena, *works: Workload) -> list[Any]:
    """What went wrong with steps of these runs, as far as history tells."""
    query = text(
        "select run_id, step, event from pf_events "
        "where run_id like :runs and event in ('step_lost', 'node_retry', 'node_error')"
    )
    with create_engine(arena.own_url, poolclass=NullPool).connect() as connection:
        return [row for work in works for row in connection.execute(query, {"runs": f"chaos-{work.name}-%"})]
