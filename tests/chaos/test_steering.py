"""Runs are cancelled, paused and resumed at the worst moments, and by many at once."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from pocoflow import InvalidTransitionError, RunCancelledError, RunHandle
from pocoflow.engine.effects import FAULT, Effect, read_effects
from pocoflow.engine.fault_rules import POINTS
from pocoflow.engine.rows import RunRow
from tests.chaos.arena import Arena
from tests.chaos.conftest import Found, Tier
from tests.chaos.odd_flows import retrying, stuck
from tests.chaos.verify import assert_no_promise_broken, verify, wait_until_ended
from tests.chaos.workload import Workload
from tests.contract.builders import at_once
from tests.support.wait import process_state, wait_until
from tests.support.workers import events_of

THREADS = 10
BACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """A cancel, by force or not, while the process that executes the run stands still at a point."""

    point: str
    force: bool

    @property
    def name(self) -> str:
        return f"{'force' if self.force else 'cancel'}.{self.point}"

    @property
    def run_id(self) -> str:
        return f"chaos-{self.name}-0"

    @property
    def hold(self) -> str:
        """Only a step that lasts has a heartbeat; else there must be a later one to begin by mistake."""
        return "one" if self.point == "in_heartbeat" else "two"

    def rules(self) -> Iterator[str]:
        step = 0
        if self.point == "in_sweep_after_update":
            step = 1
            yield f"{self.run_id}/after_commit_before_publish@one:0=drop"
        yield f"{self.run_id}/{self.point}@:{step}=stop*1"


@pytest.mark.fault("S2", "a cancel while a process stands still at each point", short=("sqlite",))
def test_no_step_is_claimed_after_a_cancel_wherever_the_run_stood(
    enter: Callable[..., Arena], database: str, tmp_path: Path, tier: Tier, found: Found
) -> None:
    log = tmp_path / "effects.jsonl"
    cases = [Case(point, force) for point in POINTS for force in tier((False,), (False, True))]
    rules = ",".join(rule for case in cases for rule in case.rules())
    arena = enter(database=database, settings=(("FAULTS", rules), ("EFFECT_LOG", str(log))))

    answers = Counter(cancel_at(arena, case, log) for case in cases)

    assert_no_promise_broken(arena.own_url)
    arena.meet(within_s=BACK_S)
    found(f"{len(cases)} runs at {len(POINTS)} points: {told(answers)}; no claim afterwards")


def cancel_at(arena: Arena, case: Case, log: Path) -> str:
    """Cancel one run while its process is stopped there, let the process go on, and look what it does."""
    work = arena.workload(1, name=case.name, rounds=1, pause_s=0.0, hold=case.hold)
    strike = wait_until(lambda: struck(log, case.run_id), timeout_s=BACK_S, what=f"the stop of {case}")
    wait_until(lambda: process_state(strike["pid"]) == "T")
    work.wait_until_started()
    handle = work.handles[case.run_id]

    answer = handle.cancel(force=case.force)
    row, cancelled_at = row_of(arena, handle), time.time()
    again = handle.cancel()
    os.kill(strike["pid"], signal.SIGCONT)
    work.open_gate()
    with pytest.raises(RunCancelledError):
        handle.wait(BACK_S)
    end = row_of(arena, handle)

    assert answer == again == row["status"]
    assert answer == "cancelled" or not case.force
    assert end["total_steps"] <= row["total_steps"] + (answer == "running")
    late = [execution for execution in work.executions() if execution.at > cancelled_at]
    # What is executed now was claimed before.
    assert {execution.step for execution in late} <= {row["total_steps"]}, (case, row, late)
    assert all(execution.epoch <= row["epoch"] for execution in late), (case, row, late)
    return answer


def struck(log: Path, run_id: str) -> Effect | None:
    """The stop of this run, if it has come."""
    stops = (effect for effect in read_effects(log) if effect["kind"] == FAULT and "=stop" in effect["rule"])
    return next((stop for stop in stops if stop["run_id"] == run_id), None)


def row_of(arena: Arena, handle: RunHandle) -> RunRow:
    row = arena.cluster.database.get_run(handle.run_id)
    assert row is not None
    return row


def told(answers: Counter[str]) -> str:
    return ", ".join(f"{count} x {answer}" for answer, count in sorted(answers.items()))


@pytest.mark.fault("S2", "cancels by ten threads, twice, in every status", short=("sqlite",))
def test_all_who_cancel_get_one_answer_whatever_the_status(arena: Arena, found: Found) -> None:
    works = in_every_status(arena)

    answers = {
        status: {*at_once(THREADS, lambda _, work=work: only(work).cancel()), only(work).cancel()}
        for status, work in works.items()
    }
    works["running"].open_gate()
    wait_until_ended(arena, works["running"], BACK_S)

    ends = {
        status: [event["action"] for event in events_of(only(work), "flow_end")]
        for status, work in works.items()
    }
    expected = {"queued": "cancelled", "paused": "cancelled", "completed": "completed", "failed": "failed"}
    assert answers == {status: {answer} for status, answer in {**expected, "running": "running"}.items()}
    assert ends == {status: [end] for status, end in {**expected, "running": "cancelled"}.items()}
    executions = {status: len(work.executions()) for status, work in works.items()}
    assert executions == {"queued": 1, "running": 2, "paused": 2, "completed": 5, "failed": 1}
    assert_no_promise_broken(arena.own_url)
    found(f"one answer to {THREADS + 1} calls in each of {len(works)} statuses, one end, no step more")


def in_every_status(arena: Arena) -> dict[str, Workload]:
    """A run in each status, named by it; the one that is queued waits for its next try."""
    works = {
        "queued": arena.workload(1, flow=retrying, failures=1),
        "running": arena.workload(1, hold="two"),
        "paused": arena.workload(1, hold="two"),
        "completed": arena.workload(1),
        "failed": arena.workload(1, flow=stuck),
    }
    works["paused"].wait_for_executions(2)
    only(works["paused"]).pause()
    works["paused"].open_gate()
    works["running"].wait_for_executions(2)
    wait_until(lambda: events_of(only(works["queued"]), "node_retry"), timeout_s=BACK_S)
    for status, work in works.items():
        handle = only(work)
        wait_until(
            lambda h=handle, s=status: h.status == s, timeout_s=BACK_S, what=f"{handle} to be {status}"
        )
    return works


def only(work: Workload) -> RunHandle:
    """The handle of a workload's only run."""
    work.wait_until_started()
    (handle,) = work.handles.values()
    return handle


@pytest.mark.fault("S2", "cancels by ten threads against the last commit", short=("sqlite",))
def test_a_cancel_against_the_last_commit_is_told_who_won(arena: Arena, tier: Tier, found: Found) -> None:
    runs, pause_s, ends = tier(20, 80), 0.01, Counter[str]()

    for _ in range(runs):
        ended = cancel_the_last_step(arena, pause_s)
        ends[ended] += 1
        # Whoever has won gets it a little harder: so most of them come very close.
        pause_s *= 1.5 if ended == "completed" else 1 / 1.5

    assert set(ends) == {"cancelled", "completed"}
    assert_no_promise_broken(arena.own_url)
    arena.meet(within_s=BACK_S)
    found(f"of {runs} runs {told(ends)}, as each of {THREADS} answers had said")


def cancel_the_last_step(arena: Arena, pause_s: float) -> str:
    """Cancel one run in ten threads as soon as its last step begins; return how it ended."""
    work = arena.workload(1, rounds=1, pause_s=pause_s)
    handle = only(work)
    wait_until(lambda: len(work.executions()) == work.steps, timeout_s=BACK_S, every_s=0.001)

    answers = at_once(THREADS, lambda _: handle.cancel())
    wait_until_ended(arena, work, BACK_S)

    assert_as_answered(handle, set(answers))
    return handle.status


def assert_as_answered(handle: RunHandle, answers: set[str]) -> None:
    """A run that ended by itself was told so to all who cancelled it, and to nobody else; it ended once."""
    ended = handle.status
    assert answers == {"completed"} if ended == "completed" else answers <= {"running", "cancelled"}
    assert [event["action"] for event in events_of(handle, "flow_end")] == [ended]


@pytest.mark.fault("S3", "ten threads pause and resume all runs at random", short=("sqlite",))
def test_runs_complete_although_ten_threads_pause_and_resume_them(
    arena: Arena, tier: Tier, found: Found
) -> None:
    runs, turns = tier((6, 20), (60, 300))
    work = arena.workload(runs, rounds=tier(12, 60), pause_s=0.01)
    work.wait_until_started()

    def storm(seed: int) -> int:
        pick, taken = Random(seed), 0
        for _ in range(turns):
            handle = work.handles[pick.choice(work.run_ids)]
            with suppress(InvalidTransitionError):
                pick.choice([handle.pause, handle.resume])()
                taken += 1
        return taken

    changes = sum(at_once(THREADS, storm))
    for handle in work.handles.values():
        with suppress(InvalidTransitionError):
            handle.resume()
    proof = verify(arena, work, within_s=BACK_S)

    paused = sum(len(events_of(handle, "run_paused")) for handle in work.handles.values())
    resumed = sum(len(events_of(handle, "run_resumed")) for handle in work.handles.values())
    assert paused == resumed > 0
    assert len(work.executions()) == work.steps
    found(f"{changes} pauses and resumes, {paused} runs rested; {proof}")


@pytest.mark.fault("S3", "pauses, resumes and a cancel at the same time", short=("sqlite",))
def test_a_pause_never_undoes_a_cancel(arena: Arena, tier: Tier, found: Found) -> None:
    runs = tier(12, 150)
    work = arena.workload(runs, pause_s=0.01)
    work.wait_until_started()

    answers = {handle: steer_at_once(handle) for handle in work.handles.values()}
    wait_until_ended(arena, work, BACK_S)

    for handle, answer in answers.items():
        assert_as_answered(handle, {answer})
    assert all(count == 1 for count in Counter((one.run_id, one.step) for one in work.executions()).values())
    assert_no_promise_broken(arena.own_url)
    arena.meet(within_s=BACK_S)
    ends = Counter(handle.status for handle in answers)
    found(f"of {runs} runs {told(ends)}, none rests; each step executed once")


def steer_at_once(handle: RunHandle) -> str:
    """Pause, resume and cancel a run in threads that begin together; returns what the cancel returned."""

    def steer(number: int) -> str:
        verb = handle.cancel if number == 0 else handle.pause if number % 2 else handle.resume
        with suppress(InvalidTransitionError):
            return verb()
        return ""

    return at_once(5, steer)[0]


@pytest.mark.fault("S3", "ten threads resume a failed run", short=("sqlite",))
def test_a_failed_run_goes_on_once_however_many_resume_it(arena: Arena, tier: Tier, found: Found) -> None:
    runs = tier(6, 100)
    work = arena.workload(runs, flow=stuck)
    work.wait_until_started()
    wait_until_ended(arena, work, BACK_S)
    work.open_gate("stuck")

    def resume(handle: RunHandle) -> str:
        try:
            return handle.resume()
        except InvalidTransitionError:
            return "refused"

    for handle in work.handles.values():
        answers = at_once(THREADS, lambda _, handle=handle: resume(handle))
        assert answers.count("queued") == 1, answers
    wait_until_ended(arena, work, BACK_S)

    for handle in work.handles.values():
        assert handle.status == "completed"
        assert len(events_of(handle, "run_resumed")) == 1
    # The stuck one twice, and the one after it.
    assert len(work.executions()) == 3 * runs
    assert_no_promise_broken(arena.own_url)
    found(f"{runs} failed runs completed, each resumed by one of {THREADS}")
