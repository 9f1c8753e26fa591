"""A pause, by all the ways that it can come, on every ledger that we ship."""

from __future__ import annotations

import pytest

from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import ENDED, Failure, Status
from pocoflow.errors import InvalidTransitionError, RunNotFoundError
from tests.contract.builders import (
    BOOM,
    HELD,
    LAST,
    RUN,
    WORKER,
    Entry,
    at_once,
    begun,
    done,
    ended,
    facts,
    failed,
    history,
    lost,
    new_run,
    record,
    started,
    take,
)
from tests.contract.subjects import TIMING, Subject, near
from tests.contract.test_ledger_steering import ENDS, HOME, MAKE

LATE = 1.5 * TIMING.lease_s
DELAY_S = 400.0


def paused(step: int = 0) -> Entry:
    return Entry("run_paused", step)


def test_a_waiting_run_is_paused_at_once(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.start(new_run())

    assert ledger.pause(RUN) is Status.PAUSED
    assert facts(ledger, "status", "want", "owner", "error_type") == ("paused", None, None, None)
    assert subject.counters(RUN).epoch == 1
    assert subject.counters(RUN).wake_in_s is None
    assert ledger.claim(RUN, 0, owner=new_owner(WORKER)) is None
    assert history(ledger) == [begun(), paused()]


def test_the_owner_of_a_running_run_keeps_it_until_its_step_is_over(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    before = subject.counters(RUN)

    assert ledger.pause(RUN) is Status.RUNNING
    assert facts(ledger, "status", "want", "owner") == ("running", "pause", position.owner)
    assert subject.counters(RUN).epoch == before.epoch
    assert subject.counters(RUN).wake_in_s == near(TIMING.lease_s)
    assert dict(ledger.heartbeat([position])) == {RUN: "pause"}
    assert history(ledger) == [begun()]


@pytest.mark.parametrize("result", [record(), HELD], ids=["left", "held"])
def test_a_wanted_pause_comes_with_the_commit(subject: Subject, result: object) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    ledger.pause(RUN)

    assert ledger.commit(position, result) is Status.PAUSED
    assert facts(ledger, "status", "want", "owner", "total_steps") == ("paused", None, None, 1)
    assert subject.counters(RUN).wake_in_s is None
    assert ledger.heartbeat([position]) == {}
    assert history(ledger) == [begun(), *done(0, "A"), paused(1)]


@pytest.mark.parametrize("result", [LAST, record(failure=BOOM)], ids=["completed", "failed"])
def test_a_step_that_ends_the_run_ends_it_although_a_pause_was_wanted(ledger: Ledger, result: object) -> None:
    position = started(ledger)
    ledger.pause(RUN)

    status = ledger.commit(position, result)

    assert status in ENDED
    assert facts(ledger, "status", "want") == (status, None)
    assert history(ledger)[-1] == ended(str(status), step=1)


@pytest.mark.parametrize("hold", [False, True])
def test_a_wanted_pause_comes_with_a_failed_try_and_the_delay_is_not_forgotten(
    subject: Subject, hold: bool
) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    ledger.pause(RUN)

    assert ledger.fail(position, BOOM, retry_in_s=DELAY_S, hold=hold) is Status.PAUSED
    assert facts(ledger, "status", "owner", "error_type", "error_msg") == ("paused", None, None, None)
    assert subject.counters(RUN).due_in_s == near(DELAY_S)
    assert history(ledger) == [begun(), failed("node_retry", 0, "A"), paused()]


def test_a_step_that_fails_for_good_fails_the_run_although_a_pause_was_wanted(ledger: Ledger) -> None:
    position = started(ledger)
    ledger.pause(RUN)

    assert ledger.fail(position, BOOM) is Status.FAILED
    assert facts(ledger, "status", "want", "error_type") == ("failed", None, "ValueError")


def test_a_wanted_pause_comes_when_the_step_is_given_back(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    ledger.pause(RUN)

    assert ledger.release(position) is Status.PAUSED
    assert facts(ledger, "status", "want", "owner", "attempt") == ("paused", None, None, 0)
    assert subject.counters(RUN).wake_in_s is None
    assert history(ledger) == [begun(), paused()]


def test_a_wanted_pause_comes_when_the_lease_is_swept_and_the_crash_counts(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    ledger.pause(RUN)
    subject.pass_time(LATE)

    assert ledger.sweep() == []
    assert facts(ledger, "status", "want", "owner", "crashes") == ("paused", None, None, 1)
    assert facts(ledger, "error_type", "error_msg") == (None, None)
    assert ledger.commit(position, record()) is None
    assert history(ledger) == [begun(), lost(0, "A"), paused()]


def test_a_pause_is_kept_when_the_home_of_the_run_turns_out_to_be_gone(subject: Subject) -> None:
    ledger = subject.ledger
    started(ledger, home=HOME)
    ledger.pause(RUN)
    subject.pass_time(3 * TIMING.lease_s)

    ledger.sweep()

    assert facts(ledger, "status", "error_type") == ("paused", None)
    assert history(ledger) == [begun(), lost(0, "A"), paused()]


def test_a_poisoned_step_fails_although_a_pause_was_wanted(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.start(new_run())
    for _ in range(TIMING.max_crashes):
        take(ledger)
        subject.pass_time(LATE)
        ledger.sweep()
    take(ledger)
    ledger.pause(RUN)
    subject.pass_time(LATE)

    ledger.sweep()

    assert facts(ledger, "status", "error_type") == ("failed", "PoisonStepError")


def test_an_interrupt_completes_a_pause_that_was_asked_for(ledger: Ledger) -> None:
    started(ledger, home=HOME)
    ledger.pause(RUN)

    assert ledger.interrupt(HOME) == [RUN]
    assert facts(ledger, "status", "want", "error_type", "error_msg") == ("paused", None, None, None)
    assert history(ledger) == [begun(), paused()]


def test_a_paused_run_survives_the_end_of_its_home_as_it_is(ledger: Ledger) -> None:
    ledger.start(new_run(home=HOME))
    ledger.pause(RUN)
    before = ledger.get_run(RUN)

    assert ledger.interrupt(HOME) == []
    assert ledger.get_run(RUN) == before


def test_a_pause_while_a_retry_is_waited_for_forgets_its_error_and_keeps_its_delay(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.fail(started(ledger), Failure("RunInterruptedError", "by a node"), retry_in_s=DELAY_S)

    ledger.pause(RUN)

    assert facts(ledger, "status", "error_type", "error_msg") == ("paused", None, None)
    assert subject.counters(RUN).due_in_s == near(DELAY_S)


def test_a_pause_fences_off_an_owner_whose_lease_had_run_out(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    subject.pass_time(LATE)
    ledger.sweep()

    assert ledger.pause(RUN) is Status.PAUSED
    assert ledger.commit(position, record()) is None
    assert facts(ledger, "status", "total_steps") == ("paused", 0)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.PAUSED])
def test_a_second_pause_says_the_same_and_changes_nothing(ledger: Ledger, status: Status) -> None:
    MAKE[status](ledger)
    first = ledger.pause(RUN)
    before, told = ledger.get_run(RUN), history(ledger)

    assert ledger.pause(RUN) is first
    assert ledger.get_run(RUN) == before
    assert history(ledger) == told


@pytest.mark.parametrize("status", ENDS)
def test_a_run_that_has_ended_cannot_be_paused(ledger: Ledger, status: Status) -> None:
    MAKE[status](ledger)
    before, told = ledger.get_run(RUN), history(ledger)

    with pytest.raises(InvalidTransitionError, match=f"'run' is {status} and cannot be paused: ") as caught:
        ledger.pause(RUN)

    assert caught.value.run_id == RUN
    assert ledger.get_run(RUN) == before
    assert history(ledger) == told


def test_a_cancel_overrides_a_wanted_pause(ledger: Ledger) -> None:
    position = started(ledger)
    ledger.pause(RUN)

    assert ledger.cancel(RUN) is Status.RUNNING
    assert facts(ledger, "want") == ("cancel",)
    assert ledger.commit(position, record()) is Status.CANCELLED


def test_a_wanted_cancel_is_not_downgraded_to_a_pause(ledger: Ledger) -> None:
    position = started(ledger)
    ledger.cancel(RUN)

    assert ledger.pause(RUN) is Status.RUNNING
    assert facts(ledger, "want") == ("cancel",)
    assert ledger.commit(position, record()) is Status.CANCELLED


def test_after_a_pause_no_step_is_committed_but_the_one_in_progress(ledger: Ledger) -> None:
    ledger.start(new_run())

    def work(number: int) -> object:
        if number == 0:
            return ledger.pause(RUN), facts(ledger, "total_steps")[0]
        for step in range(50):
            claim = ledger.claim(RUN, step, owner=new_owner(f"host:{number}"))
            if claim is not None:
                ledger.commit(claim.position, record("A"))
        return None

    status, steps = at_once(4, work)[0]

    assert status in (Status.RUNNING, Status.PAUSED)
    assert facts(ledger, "status") == ("paused",)
    assert facts(ledger, "total_steps")[0] <= steps + (status is Status.RUNNING)


def test_an_unknown_run_cannot_be_paused(ledger: Ledger) -> None:
    with pytest.raises(RunNotFoundError, match="'nobody'"):
        ledger.pause("nobody")
