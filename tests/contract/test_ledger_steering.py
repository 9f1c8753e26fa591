"""How a run is steered and seen from outside, on every ledger that we ship."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import INTERRUPTED, Hint, Status
from pocoflow.engine.wording import INTERRUPTED_TEXT
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
    history,
    new_run,
    record,
    started,
    take,
    whole,
)
from tests.contract.subjects import TIMING, Subject, near

HOME = "embedded:host:1"
WHY = INTERRUPTED_TEXT.format(run_id=RUN)
INTERRUPTION = Entry("run_interrupted", 0, error=WHY)


def make_paused(ledger: Ledger) -> None:
    ledger.start(new_run(home=HOME))
    ledger.interrupt(HOME)


def make_cancelled(ledger: Ledger) -> None:
    ledger.start(new_run())
    ledger.cancel(RUN)


MAKE: Mapping[Status, Callable[[Ledger], object]] = {
    Status.QUEUED: lambda ledger: ledger.start(new_run()),
    Status.RUNNING: started,
    Status.PAUSED: make_paused,
    Status.COMPLETED: lambda ledger: ledger.commit(started(ledger), LAST),
    Status.FAILED: lambda ledger: ledger.fail(started(ledger), BOOM),
    Status.CANCELLED: make_cancelled,
}
ENDS = [Status.COMPLETED, Status.FAILED, Status.CANCELLED]


@pytest.mark.parametrize("status", [Status.RUNNING, Status.PAUSED, *ENDS])
def test_only_a_queued_run_can_be_claimed(ledger: Ledger, status: Status) -> None:
    MAKE[status](ledger)
    before, told = ledger.get_run(RUN), history(ledger)

    claims = [ledger.claim(RUN, step, owner=new_owner(WORKER)) for step in (0, 1)]

    assert claims == [None, None]
    assert ledger.get_run(RUN) == before
    assert history(ledger) == told


@pytest.mark.parametrize("status", [Status.QUEUED, Status.PAUSED])
def test_a_waiting_run_is_cancelled_at_once(ledger: Ledger, status: Status) -> None:
    MAKE[status](ledger)
    told = history(ledger)

    assert ledger.cancel(RUN) is Status.CANCELLED
    assert facts(ledger, "status", "want", "owner") == ("cancelled", None, None)
    assert ledger.claim(RUN, 0, owner=new_owner(WORKER)) is None
    assert history(ledger) == [*told, ended("cancelled", step=0)]


def test_the_owner_of_a_running_run_is_asked_to_cancel_it(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    before = subject.counters(RUN)

    assert ledger.cancel(RUN) is Status.RUNNING
    assert facts(ledger, "status", "want", "owner") == ("running", "cancel", position.owner)
    assert subject.counters(RUN).epoch == before.epoch
    assert subject.counters(RUN).wake_in_s == near(TIMING.lease_s)
    assert history(ledger) == [begun()]


@pytest.mark.parametrize("status", ENDS)
def test_a_cancel_of_a_run_that_has_ended_changes_nothing(ledger: Ledger, status: Status) -> None:
    MAKE[status](ledger)
    before, told = ledger.get_run(RUN), history(ledger)

    assert ledger.cancel(RUN) is status
    assert ledger.get_run(RUN) == before
    assert history(ledger) == told


@pytest.mark.parametrize("status", list(Status))
def test_a_second_cancel_says_the_same_and_changes_nothing(ledger: Ledger, status: Status) -> None:
    MAKE[status](ledger)
    first = ledger.cancel(RUN)
    before, told = ledger.get_run(RUN), history(ledger)

    assert ledger.cancel(RUN) is first
    assert ledger.get_run(RUN) == before
    assert history(ledger) == told


def test_a_cancel_of_an_unknown_run_names_it(ledger: Ledger) -> None:
    with pytest.raises(RunNotFoundError, match="'nobody'") as caught:
        ledger.cancel("nobody")

    assert caught.value.run_id == "nobody"


def test_after_a_cancel_no_claim_succeeds_whoever_was_quicker(ledger: Ledger) -> None:
    ledger.start(new_run())

    def race(number: int) -> object:
        if number == 0:
            return ledger.cancel(RUN)
        claim = ledger.claim(RUN, 0, owner=new_owner(f"host:{number}"))
        return claim and ledger.commit(claim.position, record())

    outcomes = at_once(8, race)

    assert outcomes[0] in (Status.RUNNING, Status.CANCELLED)
    assert facts(ledger, "status") == ("cancelled",)
    assert [ledger.claim(RUN, step, owner=new_owner(WORKER)) for step in (0, 1)] == [None, None]


def test_a_paused_run_goes_on_where_it_was(subject: Subject) -> None:
    ledger = subject.ledger
    make_paused(ledger)
    epoch = subject.counters(RUN).epoch

    hint = ledger.resume(RUN, home=None)

    assert hint == Hint(RUN, 0)
    assert facts(ledger, "status", "error_type", "error_msg") == ("queued", None, None)
    assert subject.counters(RUN).epoch == epoch + 1
    assert subject.counters(RUN).wake_in_s == near(TIMING.grace_s)
    assert take(ledger).attempt == 1
    assert history(ledger) == [begun(), INTERRUPTION, Entry("run_resumed", 0)]


def test_a_failed_run_goes_on_from_its_last_checkpoint_with_all_its_tries(ledger: Ledger) -> None:
    ledger.commit(started(ledger), record(next_queue="gpu", state='{"n":1}'))
    position = take(ledger, 1)
    ledger.fail(position, BOOM, retry_in_s=0.0, hold=True)
    ledger.fail(replace(position, attempt=2), BOOM)

    hint = ledger.resume(RUN, home=None)

    assert hint == Hint(RUN, 1, "gpu")
    assert facts(ledger, "status", "attempt", "crashes", "completed_at") == ("queued", 0, 0, None)
    claim = ledger.claim(RUN, 1, owner=new_owner(WORKER))
    assert claim is not None
    assert (claim.saved, claim.position.attempt) == (whole('{"n":1}'), 1)
    assert history(ledger)[-2:] == [ended("failed", step=1), Entry("run_resumed", 1)]


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.COMPLETED, Status.CANCELLED])
def test_a_run_that_is_neither_paused_nor_failed_cannot_be_resumed(ledger: Ledger, status: Status) -> None:
    MAKE[status](ledger)
    before, told = ledger.get_run(RUN), history(ledger)

    with pytest.raises(InvalidTransitionError, match=f"'run' is {status}") as caught:
        ledger.resume(RUN, home=None)

    assert caught.value.run_id == RUN
    assert ledger.get_run(RUN) == before
    assert history(ledger) == told


def test_an_unknown_run_cannot_be_resumed(ledger: Ledger) -> None:
    with pytest.raises(RunNotFoundError, match="'nobody'"):
        ledger.resume("nobody", home=None)


def test_one_of_eight_resumes_at_once_succeeds(ledger: Ledger) -> None:
    make_paused(ledger)

    def resume(number: int) -> bool:
        try:
            return ledger.resume(RUN, home=None) == Hint(RUN, 0)
        except InvalidTransitionError:
            return False

    assert at_once(8, resume).count(True) == 1
    assert history(ledger) == [begun(), INTERRUPTION, Entry("run_resumed", 0)]


@pytest.mark.parametrize("home", [None, "embedded:host:2"])
def test_a_resumed_run_lives_in_the_home_that_resumed_it(subject: Subject, home: str | None) -> None:
    ledger = subject.ledger
    make_paused(ledger)

    ledger.resume(RUN, home=home)

    assert subject.counters(RUN).home == home
    assert ledger.interrupt(HOME) == []
    assert facts(ledger, "status") == ("queued",)


def test_a_resumed_run_refuses_the_token_from_before(ledger: Ledger) -> None:
    position = started(ledger, home=HOME)
    ledger.interrupt(HOME)
    ledger.resume(RUN, home=HOME)

    assert ledger.commit(position, record()) is None
    assert facts(ledger, "status", "total_steps") == ("queued", 0)


def test_an_interrupt_pauses_what_lives_in_its_home(ledger: Ledger) -> None:
    ledger.start(new_run(home=HOME))

    assert ledger.interrupt(HOME) == [RUN]
    assert facts(ledger, "status", "error_type", "error_msg") == ("paused", INTERRUPTED, WHY)
    assert history(ledger) == [begun(), INTERRUPTION]


def test_an_interrupted_step_is_fenced_off(ledger: Ledger) -> None:
    position = started(ledger, home=HOME)

    ledger.interrupt(HOME)

    assert facts(ledger, "status", "owner") == ("paused", None)
    assert ledger.commit(position, record()) is None
    assert ledger.heartbeat([position]) == {}
    assert history(ledger) == [begun(), INTERRUPTION]


def test_a_held_run_is_interrupted_at_the_step_where_it_is(ledger: Ledger) -> None:
    position = started(ledger, home=HOME)
    ledger.commit(position, HELD)

    assert ledger.interrupt(HOME) == [RUN]
    assert facts(ledger, "status", "total_steps", "current_node") == ("paused", 1, "B")
    assert history(ledger) == [begun(), *done(0, "A"), Entry("run_interrupted", 1, error=WHY)]


def test_an_interrupt_leaves_other_homes_and_shared_runs_alone(ledger: Ledger) -> None:
    ledger.start(new_run("shared"))
    ledger.start(new_run("elsewhere", home="embedded:host:2"))

    assert ledger.interrupt(HOME) == []
    assert facts(ledger, "status", run_id="shared") == ("queued",)
    assert facts(ledger, "status", run_id="elsewhere") == ("queued",)


@pytest.mark.parametrize("status", ENDS)
def test_an_interrupt_leaves_a_run_that_has_ended_alone(ledger: Ledger, status: Status) -> None:
    position = started(ledger, home=HOME)
    if status is Status.CANCELLED:
        ledger.cancel(RUN)
    ledger.commit(position, record(failure=BOOM) if status is Status.FAILED else LAST)
    before = ledger.get_run(RUN)

    assert ledger.interrupt(HOME) == []
    assert ledger.get_run(RUN) == before


def test_a_second_interrupt_changes_nothing(ledger: Ledger) -> None:
    make_paused(ledger)
    before = ledger.get_run(RUN)

    assert ledger.interrupt(HOME) == []
    assert ledger.get_run(RUN) == before
    assert history(ledger) == [begun(), INTERRUPTION]


def test_an_interrupt_completes_a_cancel_that_was_asked_for(ledger: Ledger) -> None:
    started(ledger, home=HOME)
    ledger.cancel(RUN)

    assert ledger.interrupt(HOME) == [RUN]
    assert facts(ledger, "status", "want") == ("cancelled", None)
    assert history(ledger) == [begun(), ended("cancelled", step=0)]


def test_a_cancelled_run_that_is_interrupted_has_no_error(ledger: Ledger) -> None:
    started(ledger, home=HOME)
    ledger.cancel(RUN)

    ledger.interrupt(HOME)

    assert facts(ledger, "error_type", "error_msg") == (None, None)
