"""A resume and a cancel by force, and storms of all that steers, on every ledger that we ship."""

from __future__ import annotations

import pytest

from pocoflow.engine.local import Untracked
from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import SAME_HOME, Hint, Status
from pocoflow.errors import InvalidTransitionError, RunNotFoundError
from tests.contract.builders import (
    BOOM,
    LAST,
    RUN,
    WORKER,
    Entry,
    at_once,
    begun,
    done,
    ended,
    facts,
    history,
    new_run,
    record,
    started,
    take,
)
from tests.contract.subjects import TIMING, Subject, near
from tests.contract.test_ledger_pause import DELAY_S, paused
from tests.contract.test_ledger_steering import ENDS, HOME, MAKE


def resumed(step: int = 0) -> Entry:
    return Entry("run_resumed", step)


@pytest.mark.parametrize("act", ["cancel", "pause", "resume"])
def test_the_ledger_that_keeps_nothing_finds_nothing_to_steer(act: str) -> None:
    ledger = Untracked()
    verbs = {
        "cancel": lambda: ledger.cancel(RUN, force=True),
        "pause": lambda: ledger.pause(RUN),
        "resume": lambda: ledger.resume(RUN, home=None),
    }

    with pytest.raises(RunNotFoundError, match="'run'"):
        verbs[act]()


def test_a_wanted_cancel_cannot_be_taken_back_by_a_resume(ledger: Ledger) -> None:
    started(ledger)
    ledger.cancel(RUN)

    with pytest.raises(InvalidTransitionError, match="is running"):
        ledger.resume(RUN, home=None)

    assert facts(ledger, "want") == ("cancel",)


def test_a_wish_that_is_withdrawn_in_time_leaves_no_trace(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger, home=HOME)
    before, counted = ledger.get_run(RUN), subject.counters(RUN)
    ledger.pause(RUN)

    assert ledger.resume(RUN, home=None) is None
    assert ledger.get_run(RUN) == before
    assert subject.counters(RUN).epoch == counted.epoch
    assert ledger.commit(position, record()) is Status.QUEUED
    assert history(ledger) == [begun(), *done(0, "A")]


def test_a_resumed_run_begins_its_step_anew(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    ledger.pause(RUN)
    ledger.commit(position, record(state='{"n":1}'))
    epoch = subject.counters(RUN).epoch

    assert ledger.resume(RUN, home=None) == Hint(RUN, 1)
    assert subject.counters(RUN).epoch == epoch + 1
    assert subject.counters(RUN).wake_in_s == near(TIMING.grace_s)
    assert ledger.commit(take(ledger, 1), LAST) is Status.COMPLETED
    assert history(ledger) == [
        begun(),
        *done(0, "A"),
        paused(1),
        resumed(1),
        *done(1, "B"),
        ended("completed", step=2),
    ]


def test_a_run_that_is_resumed_early_waits_for_the_rest_of_its_delay(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.fail(started(ledger), BOOM, retry_in_s=DELAY_S)
    ledger.pause(RUN)
    subject.pass_time(DELAY_S / 4)

    ledger.resume(RUN, home=None)

    left_s = near(0.75 * DELAY_S)
    assert (subject.counters(RUN).due_in_s, subject.counters(RUN).wake_in_s) == (left_s, left_s)
    assert ledger.claim(RUN, 0, owner=new_owner(WORKER)) is None
    subject.pass_time(DELAY_S)
    assert ledger.sweep() == [Hint(RUN, 0)]
    assert take(ledger).attempt == 1


def test_a_run_that_is_resumed_late_can_be_claimed_at_once(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.fail(started(ledger), BOOM, retry_in_s=DELAY_S)
    ledger.pause(RUN)
    subject.pass_time(2 * DELAY_S)

    ledger.resume(RUN, home=None)

    assert subject.counters(RUN).due_in_s == near(0.0)
    assert take(ledger).step == 0


def test_a_run_that_stays_at_home_is_found_by_the_sweep_there(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.start(new_run(home=HOME))
    ledger.pause(RUN)

    ledger.resume(RUN, home=SAME_HOME)
    subject.pass_time(1.0)

    assert subject.counters(RUN).home == HOME
    assert ledger.sweep() == []
    assert ledger.sweep(home=HOME) == [Hint(RUN, 0)]


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.PAUSED])
def test_a_cancel_by_force_ends_a_run_at_once(subject: Subject, status: Status) -> None:
    ledger = subject.ledger
    MAKE[status](ledger)
    epoch, told = subject.counters(RUN).epoch, history(ledger)

    assert ledger.cancel(RUN, force=True) is Status.CANCELLED
    assert facts(ledger, "status", "want", "owner") == ("cancelled", None, None)
    assert facts(ledger, "completed_at") != (None,)
    assert subject.counters(RUN).epoch == epoch + 1
    assert history(ledger) == [*told, ended("cancelled", step=0)]


@pytest.mark.parametrize("wish", ["cancel", "pause"])
def test_a_cancel_by_force_does_not_wait_for_what_was_wanted_before(ledger: Ledger, wish: str) -> None:
    started(ledger)
    getattr(ledger, wish)(RUN)

    assert ledger.cancel(RUN, force=True) is Status.CANCELLED
    assert facts(ledger, "status", "want") == ("cancelled", None)


def test_the_owner_of_a_step_that_was_cancelled_by_force_is_fenced_off(ledger: Ledger) -> None:
    position = started(ledger)

    ledger.cancel(RUN, force=True)

    assert ledger.heartbeat([position]) == {}
    assert ledger.commit(position, record()) is None
    assert ledger.fail(position, BOOM) is None
    assert ledger.release(position) is None
    assert history(ledger) == [begun(), ended("cancelled", step=0)]


@pytest.mark.parametrize("status", ENDS)
def test_a_cancel_by_force_of_a_run_that_has_ended_changes_nothing(ledger: Ledger, status: Status) -> None:
    MAKE[status](ledger)
    before, told = ledger.get_run(RUN), history(ledger)

    assert ledger.cancel(RUN, force=True) is status
    assert ledger.get_run(RUN) == before
    assert history(ledger) == told


def test_pauses_and_resumes_from_ten_threads_leave_a_run_that_can_end(ledger: Ledger) -> None:
    ledger.start(new_run())

    def steer(number: int) -> None:
        for turn in range(15):
            if (number + turn) % 2:
                ledger.pause(RUN)
                continue
            try:
                ledger.resume(RUN, home=None)
            except InvalidTransitionError:
                claim = ledger.claim(RUN, 0, owner=new_owner(f"host:{number}"))
                if claim is not None:
                    ledger.release(claim.position)

    at_once(10, steer)

    ledger.pause(RUN)
    ledger.resume(RUN, home=None)
    assert ledger.commit(take(ledger), LAST) is Status.COMPLETED
    events = [entry.event for entry in history(ledger)]
    assert events.count("run_paused") == events.count("run_resumed")


def test_a_run_that_was_over_its_time_gets_it_once_more(subject: Subject) -> None:
    ledger = subject.ledger
    started(ledger, timeout_s=500.0)
    subject.pass_time(501.0)
    ledger.sweep()
    first = facts(ledger, "status", "error_type")

    ledger.resume(RUN, home=None)
    take(ledger)
    subject.pass_time(400.0)
    ledger.sweep()
    meanwhile = facts(ledger, "status")
    subject.pass_time(101.0)
    ledger.sweep()

    assert first == ("failed", "RunTimeoutError")
    assert meanwhile == ("running",)
    assert facts(ledger, "status", "error_type") == ("failed", "RunTimeoutError")
