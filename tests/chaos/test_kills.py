"""Death by kill -9: of the process that executes a step, at each point of it, and of whole workers."""

from __future__ import annotations

import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from pocoflow.engine.effects import Effect, read_effects
from pocoflow.engine.fault_rules import POINTS
from tests.chaos.arena import LEASE_S, SWEEP_S, Arena
from tests.chaos.conftest import Found, Tier
from tests.chaos.ear import QUEUE
from tests.chaos.verify import verify, verify_runs
from tests.chaos.workload import Workload
from tests.support.wait import is_running, wait_until
from tests.support.workers import WorkerProcess

NEVER = "3600"
GRACE_S = 2.0
PROMPT_S, NOISE_S = 2.0, 5.0
# A hint of its own has to be lost for that, and a lease to be extended.
ELSEWHERE = ("in_heartbeat", "in_sweep_after_update")
IN_STEP = [point for point in POINTS if point not in ELSEWHERE]
COMMITTED = IN_STEP[IN_STEP.index("after_commit_before_ack") :]


class Deaths:
    """Kills the process that executes step 1 of each run, of each at another point; and the log of it."""

    def __init__(self, points: list[str], folder: Path) -> None:
        self.name, self.points = uuid4().hex[:6], points
        self._log = folder / "effects.jsonl"
        self.settings = (
            ("EFFECT_LOG", str(self._log)),
            ("FAULTS", ", ".join(map(self._rule, range(len(points))))),
        )

    def _rule(self, number: int) -> str:
        point = self.points[number]
        where = ":2" if point == "in_sweep_after_update" else ":1"
        return f"chaos-{self.name}-{number}/{point}@{where}=kill9*1"

    def recoveries(self) -> dict[str, list[float]]:
        """Point to the seconds from each death there to the next execution of a step of that run."""
        found: dict[str, list[float]] = {point: [] for point in self.points}
        effects = read_effects(self._log)
        for death in (effect for effect in effects if effect["kind"] == "fault"):
            found[self._point(death)].append(self._next(effects, death)["monotonic"] - death["monotonic"])
        return found

    def executions(self, point: str) -> list[int]:
        """How often step 1 was executed in each run whose process was killed at that point."""
        count = Counter(
            effect["run_id"]
            for effect in read_effects(self._log)
            if (effect["kind"], effect["step"]) == ("exec", 1)
        )
        runs = [f"chaos-{self.name}-{number}" for number, one in enumerate(self.points) if one == point]
        return [count[run_id] for run_id in runs]

    def _point(self, effect: Effect) -> str:
        return self.points[int(effect["run_id"].rpartition("-")[2])]

    @staticmethod
    def _next(effects: list[Effect], death: Effect) -> Effect:
        later = effects[effects.index(death) :]
        return next(one for one in later if (one["kind"], one["run_id"]) == ("exec", death["run_id"]))


@pytest.mark.fault(
    "W1", f"kill -9 of a child at each of {len(IN_STEP)} points of a step", short=("postgres",)
)
def test_a_step_goes_on_at_once_wherever_its_process_is_killed(
    enter: Callable[..., Arena], database: str, tier: Tier, tmp_path: Path, found: Found
) -> None:
    deaths = Deaths(IN_STEP * tier(1, 20), tmp_path)
    # Neither brings a step back: only the news of a death does.
    patience = (("LEASE_S", NEVER), ("GRACE_S", NEVER))
    arena = enter(database=database, settings=(*deaths.settings, *patience))

    work = arena.workload(len(deaths.points), name=deaths.name, over_s=len(deaths.points) * 0.5)
    proof = verify(arena, work, within_s=60)

    took = deaths.recoveries()
    assert {point: len(seconds) for point, seconds in took.items()} == Counter(deaths.points)
    for point in IN_STEP:
        assert set(deaths.executions(point)) <= ({1} if point in (*COMMITTED, "after_receive") else {1, 2})
    assert arena.supervisor.restarts == 0
    seconds = sorted(second for point in IN_STEP for second in took[point])
    assert statistics.median(seconds) <= PROMPT_S
    assert max(seconds) <= PROMPT_S + NOISE_S
    found(f"{len(seconds)} killed; on after {statistics.median(seconds):.1f} s, {seconds[-1]:.1f} s at most")
    found(proof)


@pytest.mark.fault("W1", "kill -9 of a child while it extends the lease of a long step", short=())
def test_a_long_step_goes_on_at_once_when_its_process_is_killed_at_a_heartbeat(
    enter: Callable[..., Arena], database: str, tier: Tier, tmp_path: Path, found: Found
) -> None:
    lease_s = 15.0
    deaths = Deaths(["in_heartbeat"] * tier(1, 4), tmp_path)
    arena = enter(database=database, settings=(*deaths.settings, ("LEASE_S", str(lease_s))))
    runs = len(deaths.points)

    work = arena.workload(runs, name=deaths.name, hold="two")
    work.wait_for_executions(3 * runs)
    work.open_gate()
    proof = verify(arena, work, within_s=60)

    # The second beat comes after two thirds of a lease at the latest.
    took = deaths.recoveries()["in_heartbeat"]
    assert len(took) == runs
    assert max(took) < lease_s / 3
    found(f"{runs} killed; on after {max(took):.1f} s at most, lease {lease_s:.0f} s; {proof}")


@pytest.mark.fault("W1", "kill -9 of a child that has swept, before it sends the hints", short=())
def test_hints_that_died_with_a_sweep_are_sent_by_a_later_one(
    enter: Callable[..., Arena], database: str, tier: Tier, tmp_path: Path, found: Found
) -> None:
    deaths = Deaths(["in_sweep_after_update"] * tier(1, 10), tmp_path)
    settings = (*deaths.settings, ("LEASE_S", NEVER), ("GRACE_S", str(GRACE_S)))
    arena = enter(database=database, settings=settings)
    runs = len(deaths.points)

    work = arena.workload(
        runs, name=deaths.name, rounds=1, over_s=(runs - 1) * (GRACE_S + 1), fails=("three",)
    )
    proof = verify(arena, work, within_s=60)

    took = deaths.recoveries()["in_sweep_after_update"]
    assert len(took) == runs
    assert statistics.median(took) <= GRACE_S + SWEEP_S + NOISE_S
    found(f"{runs} killed; on after {max(took):.1f} s at most, grace {GRACE_S:.0f} s; {proof}")


@pytest.mark.fault("W2", "kill -9 of a main process alone, and with all its children", short=("sqlite",))
def test_what_a_killed_worker_held_is_done_when_its_leases_are_over(
    arena: Arena, tier: Tier, found: Found
) -> None:
    rounds, orphans_s, proof = tier(1, 6), [0.0], ""

    for number in range(rounds):
        work = arena.workload(30, over_s=2, pause_s=0.05)
        for moment in work.moments(2):
            worker = arena.supervisor.workers[(number + moment) % 2]
            if moment == 1:
                orphans_s.append(kill_main(worker))
            else:
                worker.kill()
        proof = verify_runs(arena, work, within_s=LEASE_S + SWEEP_S + NOISE_S)
    arena.meet(within_s=60)

    found(f"{2 * rounds} killed; children ended {max(orphans_s):.1f} s after their main process; {proof}")


def kill_main(worker: WorkerProcess) -> float:
    """Kill -9 the main process alone; returns the seconds until its children have ended by themselves."""
    with worker.unguarded():
        children = worker.children
        assert children
        worker.send_signal(signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: not any(map(is_running, children)), what="the children to end with their worker")
        return time.monotonic() - began


@pytest.mark.fault("W4", "a main process takes a message, and dies before it looks at it", short=("sqlite",))
def test_a_message_that_died_with_a_worker_is_sent_again(
    enter: Callable[..., Arena], database: str, found: Found
) -> None:
    arena = enter(database=database, workers=0)
    grace = {"GRACE_S": str(GRACE_S), "LEASE_S": NEVER}

    with arena.worker(**grace) as busy:
        waiting = arena.workload(1, hold="one")
        waiting.wait_for_executions(1)
        # Without sweeps, which it would take from the broker too.
        with arena.worker(SWEEP_S=NEVER, **grace) as doomed:
            lost = lose_message(arena, doomed)
        waiting.open_gate()
        began = time.time()
        proof = verify_runs(arena, lost, within_s=30)
        verify_runs(arena, waiting, within_s=30)
        assert busy.exit_code is None

    took_s = lost.executions()[0].at - began
    assert took_s <= GRACE_S + SWEEP_S + NOISE_S
    assert len(lost.executions()) == lost.steps
    found(f"sent again {took_s:.1f} s later, grace {GRACE_S:.0f} s; {proof}")


def lose_message(arena: Arena, worker: WorkerProcess) -> Workload:
    """Start a run whose first message is in the hands of a main process that does not move."""
    for _ in range(10):
        worker.send_signal(signal.SIGSTOP)
        work = arena.workload(1)
        work.wait_until_started()
        with arena.redis() as broker:
            if not broker.llen(QUEUE):
                return work
        # It was not waiting for a message just then.
        worker.send_signal(signal.SIGCONT)
        verify_runs(arena, work, within_s=30)
    raise AssertionError("no message was taken by the stopped worker")
