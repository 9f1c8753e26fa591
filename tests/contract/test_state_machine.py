"""Whatever several actors do to a few runs, in any order: each ledger does what the model says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pocoflow.engine.owner import new_owner
from pocoflow.engine.records import SAME_HOME, Position, Status
from pocoflow.errors import InvalidTransitionError
from tests.contract.builders import BOOM, INPUT, WORKER, history, new_run, record, whole
from tests.contract.model import LIVE, Model
from tests.contract.subjects import MemorySubject, Subject
from tests.support.soundness import assert_sound

HOMES = st.sampled_from([None, None, "here", "there"])
# All deadlines are multiples of ten seconds apart, so no sum of these comes near one.
PAST_LEASE_S = 1010.01
LEAPS = st.sampled_from([60.01, 160.01, PAST_LEASE_S, 2500.01])
SLACK_S = 9.0
MOST_RUNS = 6
RETRIES = st.sampled_from([(None, False), (50.0, False), (50.0, False), (0.0, True), (50.0, True)])
THENS = [Status.QUEUED, Status.RUNNING, Status.COMPLETED, Status.FAILED]


def when(condition: Callable[[Model], object]) -> Any:
    return precondition(lambda machine: condition(machine.model))


class LedgerMachine(RuleBasedStateMachine):
    """Does the same to a ledger and to the model, and compares what they answer and what they hold."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        subject.wipe()
        self.subject = subject
        self.ledger = subject.ledger
        self.model = Model()
        self.tokens: list[Position] = []
        self.touched: set[str] = set()

    @when(lambda model: len(model.runs) < MOST_RUNS)
    @rule(home=HOMES, held=st.sampled_from([False, False, True]))
    def start(self, home: str | None, held: bool) -> None:
        self._start(f"run {len(self.model.runs)}", home, new_owner(WORKER) if held else None)

    @when(lambda model: model.runs)
    @rule(data=st.data())
    def start_again(self, data: st.DataObject) -> None:
        self._start(self._draw(data, self.model.runs), None, new_owner(WORKER))

    @when(lambda model: model.claimable())
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        run_id = self._draw(data, self.model.claimable())
        run, owner = self.model.runs[run_id], new_owner(WORKER)
        claim = self.ledger.claim(run_id, run.step, owner=owner)
        assert self.model.claim(run_id, run.step, owner)
        assert claim is not None
        where = (run_id, "flow", run.step, f"node {run.step}", run.epoch, owner, run.attempt, run.crashes)
        assert replace(claim.position, unroutable_s=None) == Position(*where, flow_hash="hash")
        assert claim.position.unroutable_s == _near(run.unroutable, lambda since: self.model.now - since)
        assert claim.saved == whole(INPUT if run.step == 0 else f'{{"step":{run.step - 1}}}')
        self.tokens.append(claim.position)

    @when(lambda model: model.runs)
    @rule(data=st.data(), ahead=st.sampled_from([-1, 0, 1]))
    def claim_out_of_turn(self, data: st.DataObject, ahead: int) -> None:
        run_id = self._draw(data, self.model.runs)
        if ahead or run_id not in self.model.claimable():
            step = self.model.runs[run_id].step + ahead
            assert self.ledger.claim(run_id, step, owner=new_owner(WORKER)) is None

    @precondition(lambda machine: machine.tokens)
    @rule(data=st.data(), then=st.sampled_from(THENS))
    def commit(self, data: st.DataObject, then: Status) -> None:
        token = self._token(data)
        following = None if then is Status.COMPLETED else f"node {token.step + 1}"
        result = record(
            following,
            state=f'{{"step":{token.step}}}',
            hold=then is Status.RUNNING,
            failure=BOOM if then is Status.FAILED else None,
        )
        expected = self.model.commit(token, then)
        assert self.ledger.commit(token, result) is expected
        if expected is Status.RUNNING and following is not None:
            held = (token.run_id, "flow", token.step + 1, following, token.epoch, token.owner)
            self.tokens.append(Position(*held))

    @precondition(lambda machine: machine.tokens)
    @rule(data=st.data(), retry=RETRIES)
    def fail(self, data: st.DataObject, retry: tuple[float | None, bool]) -> None:
        token, (retry_in_s, hold) = self._token(data), retry
        expected = self.model.fail(token, retry_in_s, hold)
        assert self.ledger.fail(token, BOOM, retry_in_s=retry_in_s, hold=hold) is expected
        if expected is Status.RUNNING:
            self.tokens.append(replace(token, attempt=token.attempt + 1))

    @precondition(lambda machine: machine.tokens)
    @rule(data=st.data(), delay_s=st.sampled_from([0.0, 50.0]), unroutable=st.booleans())
    def release(self, data: st.DataObject, delay_s: float, unroutable: bool) -> None:
        token = self._token(data)
        expected = self.model.release(token, delay_s, unroutable)
        assert self.ledger.release(token, delay_s=delay_s, unroutable=unroutable) is expected

    @precondition(lambda machine: machine.tokens)
    @rule(count=st.integers(0, 4))
    def heartbeat(self, count: int) -> None:
        tokens = self.tokens[len(self.tokens) - count :]
        assert dict(self.ledger.heartbeat(tokens)) == self.model.heartbeat(tokens)
        self.touched.update(token.run_id for token in tokens)

    # One run is always left to go on: a cancelled one is no use for the rest of the example.
    @when(lambda model: len(model.live()) > 1)
    @rule(data=st.data(), force=st.sampled_from([False, False, True]))
    def cancel(self, data: st.DataObject, force: bool) -> None:
        run_id = self._draw(data, self.model.runs)
        assert self.ledger.cancel(run_id, force=force) is self.model.cancel(run_id, force)

    @when(lambda model: any(not run.status.ended for run in model.runs.values()))
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        run_id = self._draw(data, (one for one, run in self.model.runs.items() if not run.status.ended))
        assert self.ledger.pause(run_id) is self.model.pause(run_id)

    @when(lambda model: any(run.status.ended for run in model.runs.values()))
    @rule(data=st.data())
    def pause_in_vain(self, data: st.DataObject) -> None:
        run_id = self._draw(data, (one for one, run in self.model.runs.items() if run.status.ended))
        with pytest.raises(InvalidTransitionError):
            self.ledger.pause(run_id)

    @when(lambda model: model.stopped())
    @rule(data=st.data(), home=st.one_of(HOMES, st.just(SAME_HOME)))
    def resume(self, data: st.DataObject, home: str | None) -> None:
        run_id = self._draw(data, self.model.stopped())
        hint = self.ledger.resume(run_id, home=home)
        dispatch = self.model.resume(run_id, home)
        assert (hint and (hint.run_id, hint.step)) == (
            (run_id, self.model.runs[run_id].step) if dispatch else None
        )
        # It may be due for a sweep at once, and for a clock that stands still "at once" never comes.
        self.time_passes(0.01)

    @when(lambda model: len(model.stopped()) < len(model.runs))
    @rule(data=st.data(), home=HOMES)
    def resume_in_vain(self, data: st.DataObject, home: str | None) -> None:
        run_id = self._draw(data, set(self.model.runs) - set(self.model.stopped()))
        with pytest.raises(InvalidTransitionError):
            self.ledger.resume(run_id, home=home)

    @when(lambda model: any(model.runs[run_id].home for run_id in model.live()))
    @rule(home=st.sampled_from(["here", "there"]))
    def interrupt(self, home: str) -> None:
        assert sorted(self.ledger.interrupt(home)) == sorted(self.model.interrupt(home))
        self.touched.update(self.model.runs)

    @when(lambda model: model.overdue())
    @rule(home=HOMES)
    def sweep(self, home: str | None) -> None:
        hints = [(hint.run_id, hint.step) for hint in self.ledger.sweep(home=home)]
        assert sorted(hints) == sorted(self.model.sweep(home))
        self.touched.update(self.model.runs)

    @when(lambda model: model.running())
    @rule(data=st.data())
    def lose_a_worker(self, data: st.DataObject) -> None:
        run_id = self._draw(data, self.model.running())
        self.time_passes(PAST_LEASE_S)
        self.sweep(self.model.runs[run_id].home)

    @when(lambda model: model.runs)
    @rule(
        data=st.data(),
        ahead=st.sampled_from([-1, 0, 0, 1]),
        worker=st.sampled_from([WORKER, WORKER, "host:2"]),
    )
    def expire(self, data: st.DataObject, ahead: int, worker: str) -> None:
        run_id = self._draw(data, self.model.running() or self.model.runs)
        step = self.model.runs[run_id].step + ahead
        expected = self.model.expire(run_id, step, worker)
        assert self.ledger.expire(run_id, step, worker=worker) is expected

    @when(lambda model: model.live())
    @rule(seconds=LEAPS)
    def time_passes(self, seconds: float) -> None:
        self.model.now += seconds
        self.subject.pass_time(seconds)

    @invariant()
    def the_rows_that_were_touched_agree(self) -> None:
        for run_id in self.touched:
            assert self._seen(run_id) == self._expected(run_id)
        self.touched.clear()

    def teardown(self) -> None:
        for run_id, run in self.model.runs.items():
            assert self._seen(run_id) == self._expected(run_id)
            assert [(entry.event, entry.step) for entry in history(self.ledger, run_id)] == run.log
        assert_sound(self.ledger)

    def _start(self, run_id: str, home: str | None, owner: str | None) -> None:
        expected = self.model.start(run_id, home, owner)
        answer = self.ledger.start(new_run(run_id, node="node 0", home=home, owner=owner))
        assert (answer.created, answer.status) == (expected, self.model.runs[run_id].status)
        if expected and owner is not None:
            self.tokens.append(Position(run_id, "flow", 0, "node 0", 1, owner))
        self.touched.add(run_id)

    def _token(self, data: st.DataObject) -> Position:
        """A position that was handed out once, mostly one that still holds."""
        held = [token for token in self.tokens if self.model.holds(token)]
        stale = data.draw(st.integers(0, 4)) == 4
        token = data.draw(st.sampled_from(self.tokens if stale or not held else held))
        self.touched.add(token.run_id)
        return token

    def _draw(self, data: st.DataObject, run_ids: Iterable[str]) -> str:
        run_id = data.draw(st.sampled_from(sorted(run_ids)))
        self.touched.add(run_id)
        return run_id

    def _seen(self, run_id: str) -> dict[str, Any]:
        row: Any = self.ledger.get_run(run_id)
        counters = self.subject.counters(run_id)
        return {
            "status": row["status"],
            "step": row["total_steps"],
            "want": row["want"],
            "crashes": row["crashes"],
            "attempt": row["attempt"] if row["status"] != Status.CANCELLED else None,
            "owner": row["owner"],
            "error": row["error_type"],
            "epoch": counters.epoch,
            "home": counters.home,
            "dispatches": counters.dispatches if row["status"] in LIVE else None,
            "due_in_s": counters.due_in_s if row["status"] == Status.QUEUED else None,
            "wake_in_s": counters.wake_in_s,
        }

    def _expected(self, run_id: str) -> dict[str, Any]:
        run = self.model.runs[run_id]
        live, queued = run.status in LIVE, run.status is Status.QUEUED
        return {
            "status": run.status.value,
            "step": run.step,
            "want": run.want,
            "crashes": run.crashes,
            "attempt": run.attempt if run.status is not Status.CANCELLED else None,
            "owner": run.owner,
            "error": run.error,
            "epoch": run.epoch,
            "home": run.home,
            "dispatches": run.dispatches if live else None,
            "due_in_s": _near(run.due if queued else None, lambda due: due - self.model.now),
            "wake_in_s": _near(run.wake, lambda wake: wake - self.model.now),
        }


def _near(moment: float | None, seconds: Callable[[float], float]) -> object:
    return None if moment is None else pytest.approx(seconds(moment), abs=SLACK_S)


def test_the_ledger_does_what_the_model_says(subject: Subject) -> None:
    run_state_machine_as_test(
        lambda: LedgerMachine(subject),
        settings=settings(
            max_examples=200 if isinstance(subject, MemorySubject) else 100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
