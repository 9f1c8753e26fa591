"""A run from start to end, on every ledger that we ship: start, claim, commit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pocoflow.engine.history import Checkpoint
from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import Failure, Position, Started, Status
from tests.contract.builders import (
    BOOM,
    HELD,
    INPUT,
    LAST,
    RUN,
    WORKER,
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
from tests.contract.subjects import TIMING, PassTime, Subject, near


def test_a_new_run_waits_for_any_worker(ledger: Ledger) -> None:
    answer = ledger.start(new_run(queue="gpu"))

    assert answer == Started(True, Status.QUEUED, "input")
    assert facts(ledger, "status", "total_steps", "current_node", "queue") == ("queued", 0, "A", "gpu")
    assert facts(ledger, "attempt", "crashes", "want", "owner", "error_type") == (0, 0, None, None, None)
    assert history(ledger) == [begun()]


def test_a_new_run_may_be_claimed_at_once_and_is_sent_again_after_the_grace(subject: Subject) -> None:
    subject.ledger.start(new_run())

    counters = subject.counters(RUN)
    assert (counters.due_in_s, counters.wake_in_s) == (near(0), near(TIMING.grace_s))


@pytest.mark.parametrize("input_hash", ["input", "other"])
def test_a_repeated_start_tells_of_the_first_and_changes_nothing(ledger: Ledger, input_hash: str) -> None:
    started(ledger)
    before = ledger.get_run(RUN)

    answer = ledger.start(
        new_run(input_hash=input_hash, input=Checkpoint("{}"), node="B", owner=new_owner(WORKER))
    )

    assert answer == Started(False, Status.RUNNING, "input")
    assert ledger.get_run(RUN) == before
    assert ledger.get_saved(RUN) == whole(INPUT)
    assert history(ledger) == [begun()]


def test_a_repeated_start_tells_why_the_first_has_failed(ledger: Ledger) -> None:
    ledger.fail(started(ledger), BOOM)

    answer = ledger.start(new_run())

    assert answer == Started(False, Status.FAILED, "input", "ValueError")


def test_one_of_sixteen_starts_at_once_creates_the_run(ledger: Ledger) -> None:
    answers = at_once(16, lambda number: ledger.start(new_run(input_hash=f"input {number}")))

    assert [answer.created for answer in answers].count(True) == 1
    assert len({answer.input_hash for answer in answers}) == 1
    assert history(ledger) == [begun()]


def test_a_held_start_leaves_nothing_to_claim(subject: Subject) -> None:
    ledger, owner = subject.ledger, new_owner(WORKER)

    answer = ledger.start(new_run(owner=owner))

    assert answer == Started(True, Status.RUNNING, "input")
    assert ledger.claim(RUN, 0, owner=new_owner("other")) is None
    assert facts(ledger, "status", "owner", "attempt") == ("running", owner, 1)
    assert subject.counters(RUN).wake_in_s == near(TIMING.lease_s)


def test_a_held_start_gives_its_owner_the_first_token(ledger: Ledger) -> None:
    owner = new_owner(WORKER)
    ledger.start(new_run(owner=owner))

    status = ledger.commit(Position(RUN, "flow", 0, "A", 1, owner), LAST)

    assert status is Status.COMPLETED
    assert history(ledger) == [begun(), *done(0, "A"), ended("completed", step=1)]


def test_a_claim_hands_over_the_step_with_its_input_and_schema(ledger: Ledger) -> None:
    ledger.start(new_run(schema="schema"))
    owner = new_owner(WORKER)

    claim = ledger.claim(RUN, 0, owner=owner)

    assert claim is not None
    assert claim.position == Position(RUN, "flow", 0, "A", 1, owner, flow_hash="hash")
    assert claim.saved == whole(INPUT, "schema")
    assert facts(ledger, "status", "owner", "attempt") == ("running", owner, 1)


def test_a_claim_holds_the_step_for_a_lease(subject: Subject) -> None:
    started(subject.ledger)

    assert subject.counters(RUN).wake_in_s == near(TIMING.lease_s)


def test_a_later_step_starts_from_the_last_checkpoint(ledger: Ledger) -> None:
    ledger.commit(started(ledger, schema="schema"), record(state='{"n":7}'))

    claim = ledger.claim(RUN, 1, owner=new_owner(WORKER))

    assert claim is not None
    assert (claim.position.step, claim.position.node, claim.saved) == (1, "B", whole('{"n":7}', "schema"))
    assert (claim.position.epoch, claim.position.attempt) == (2, 1)


def test_one_of_sixteen_claims_at_once_wins(ledger: Ledger) -> None:
    ledger.start(new_run())
    owners = [new_owner(f"host:{number}") for number in range(16)]

    claims = at_once(16, lambda number: ledger.claim(RUN, 0, owner=owners[number]))

    won = [claim.position.owner for claim in claims if claim is not None]
    assert facts(ledger, "attempt", "owner") == (1, *won)


@pytest.mark.parametrize("step", [-1, 0, 2])
def test_only_the_next_step_can_be_claimed(ledger: Ledger, step: int) -> None:
    ledger.commit(started(ledger), record())

    assert ledger.claim(RUN, step, owner=new_owner(WORKER)) is None
    assert facts(ledger, "status", "attempt") == ("queued", 0)


def test_an_unknown_run_cannot_be_claimed(ledger: Ledger) -> None:
    assert ledger.claim("nobody", 0, owner=new_owner(WORKER)) is None


def test_a_step_cannot_be_claimed_before_it_is_due(ledger: Ledger, pass_time: PassTime) -> None:
    ledger.fail(started(ledger), BOOM, retry_in_s=500.0)

    early = ledger.claim(RUN, 0, owner=new_owner(WORKER))
    pass_time(501.0)

    assert early is None
    assert take(ledger).attempt == 2


def test_the_first_claim_is_the_start_of_the_run(ledger: Ledger, pass_time: PassTime) -> None:
    position = started(ledger)
    first = facts(ledger, "started_at")

    ledger.release(position)
    pass_time(500.0)
    take(ledger)

    assert first != (None,)
    assert facts(ledger, "started_at") == first


def test_a_step_with_a_successor_queues_it(subject: Subject) -> None:
    ledger = subject.ledger

    status = ledger.commit(started(ledger), record("B", next_queue="gpu", state='{"n":1}'))

    assert status is Status.QUEUED
    assert facts(ledger, "status", "total_steps", "current_node", "queue") == ("queued", 1, "B", "gpu")
    assert facts(ledger, "owner", "attempt", "completed_at") == (None, 0, None)
    assert ledger.get_saved(RUN) == whole('{"n":1}')
    assert subject.counters(RUN).wake_in_s == near(TIMING.grace_s)
    assert history(ledger) == [begun(), *done(0, "A")]


def test_a_step_without_a_successor_completes_the_run(ledger: Ledger) -> None:
    status = ledger.commit(started(ledger), record(None, action="stop"))

    assert status is Status.COMPLETED
    assert facts(ledger, "status", "total_steps", "current_node", "owner") == ("completed", 1, "A", None)
    assert facts(ledger, "completed_at") != (None,)
    assert history(ledger) == [begun(), *done(0, "A", action="stop"), ended("completed", step=1)]


def test_a_held_run_goes_on_with_the_same_token(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)

    first = ledger.commit(position, HELD)
    second = ledger.commit(replace(position, step=1, node="B", attempt=1), LAST)

    assert (first, second) == (Status.RUNNING, Status.COMPLETED)
    assert history(ledger) == [begun(), *done(0, "A"), *done(1, "B"), ended("completed", step=2)]


def test_a_held_run_keeps_its_owner_for_a_lease(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)

    ledger.commit(position, HELD)

    assert facts(ledger, "status", "owner", "attempt") == ("running", position.owner, 1)
    assert subject.counters(RUN).wake_in_s == near(TIMING.lease_s)
    assert ledger.claim(RUN, 1, owner=new_owner("other")) is None


def test_a_step_may_end_its_run_as_failed_and_still_count(ledger: Ledger) -> None:
    too_many = Failure("MaxStepsError", "too many steps")

    status = ledger.commit(started(ledger), record("B", failure=too_many))

    assert status is Status.FAILED
    assert facts(ledger, "total_steps", "error_type", "error_msg") == (1, "MaxStepsError", "too many steps")
    assert history(ledger) == [begun(), *done(0, "A"), ended("failed", step=1)]


@pytest.mark.parametrize("hold", [False, True], ids=["left", "held"])
def test_a_cancel_takes_effect_when_the_step_is_done(ledger: Ledger, hold: bool) -> None:
    position = started(ledger)
    ledger.cancel(RUN)

    status = ledger.commit(position, record(hold=hold))

    assert status is Status.CANCELLED
    assert facts(ledger, "status", "total_steps", "want", "owner") == ("cancelled", 1, None, None)
    assert history(ledger) == [begun(), *done(0, "A"), ended("cancelled", step=1)]


@pytest.mark.parametrize("last", [LAST, record(failure=BOOM)])
def test_a_run_cancelled_in_its_last_step_ends_as_cancelled(ledger: Ledger, last: object) -> None:
    position = started(ledger)
    ledger.cancel(RUN)

    status = ledger.commit(position, last)  # type: ignore[arg-type]

    assert status is Status.CANCELLED
    assert facts(ledger, "status", "want") == ("cancelled", None)
    assert history(ledger) == [begun(), *done(0, "A"), ended("cancelled", step=1)]


def test_a_commit_forgets_the_troubles_of_its_step(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.fail(started(ledger), BOOM, retry_in_s=0.0)
    subject.pass_time(1.0)
    ledger.release(take(ledger), delay_s=10.0, unroutable=True)
    subject.pass_time(11.0)
    take(ledger)
    subject.pass_time(TIMING.lease_s + 1)
    ledger.sweep()

    ledger.commit(take(ledger), record())

    assert facts(ledger, "attempt", "crashes", "error_type", "error_msg") == (0, 0, None, None)
    assert subject.counters(RUN).dispatches == 1
    assert take(ledger, 1).unroutable_s is None
