"""A step that does not succeed, on every ledger that we ship: fail, release."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import Failure, Hint, Status
from tests.contract.builders import (
    BOOM,
    INPUT,
    LAST,
    RUN,
    WORKER,
    Entry,
    begun,
    done,
    ended,
    facts,
    failed,
    history,
    started,
    take,
    whole,
)
from tests.contract.subjects import TIMING, PassTime, Subject, near


def test_a_step_that_fails_for_good_ends_its_run(ledger: Ledger) -> None:
    status = ledger.fail(started(ledger), BOOM)

    assert status is Status.FAILED
    assert facts(ledger, "status", "total_steps", "current_node", "owner") == ("failed", 0, "A", None)
    assert facts(ledger, "error_type", "error_msg", "attempt") == ("ValueError", "boom", 1)
    assert facts(ledger, "completed_at") != (None,)
    assert history(ledger) == [begun(), failed("node_error", 0, "A"), ended("failed", step=0)]


def test_a_failed_try_leaves_its_error_and_no_checkpoint(ledger: Ledger) -> None:
    status = ledger.fail(started(ledger), BOOM, retry_in_s=50.0)

    assert status is Status.QUEUED
    assert facts(ledger, "status", "owner", "error_type", "error_msg") == (
        "queued",
        None,
        "ValueError",
        "boom",
    )
    assert ledger.get_saved(RUN) == whole(INPUT)
    assert history(ledger) == [begun(), failed("node_retry", 0, "A")]


@pytest.mark.parametrize("retry_in_s", [0.0, 500.0])
def test_a_retry_is_swept_up_as_soon_as_it_is_due(subject: Subject, retry_in_s: float) -> None:
    ledger = subject.ledger
    ledger.fail(started(ledger), BOOM, retry_in_s=retry_in_s)
    counters = subject.counters(RUN)

    subject.pass_time(retry_in_s + 1)

    assert (counters.due_in_s, counters.wake_in_s) == (near(retry_in_s), near(retry_in_s))
    assert ledger.sweep() == [Hint(RUN, 0)]


def test_a_retry_that_is_held_stays_with_its_owner_for_a_lease_after_the_delay(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)

    status = ledger.fail(position, BOOM, retry_in_s=500.0, hold=True)

    assert status is Status.RUNNING
    assert facts(ledger, "status", "owner", "attempt") == ("running", position.owner, 2)
    assert subject.counters(RUN).wake_in_s == near(500.0 + TIMING.lease_s)
    assert ledger.commit(replace(position, attempt=2), LAST) is Status.COMPLETED
    assert history(ledger) == [
        begun(),
        failed("node_retry", 0, "A"),
        *done(0, "A", attempt=2),
        ended("completed", step=1),
    ]


def test_a_try_fails_only_once(ledger: Ledger) -> None:
    position = started(ledger)
    ledger.fail(position, BOOM, retry_in_s=0.0, hold=True)
    before, told = ledger.get_run(RUN), history(ledger)

    assert ledger.fail(position, BOOM, retry_in_s=0.0, hold=True) is None
    assert ledger.get_run(RUN) == before
    assert history(ledger) == told


def test_each_try_counts_and_a_crash_is_told_apart(ledger: Ledger, pass_time: PassTime) -> None:
    ledger.fail(started(ledger), BOOM, retry_in_s=0.0)
    pass_time(1.0)
    take(ledger)
    pass_time(TIMING.lease_s + 1)
    ledger.sweep()

    position = take(ledger)

    assert (position.attempt, position.crashes, position.tries) == (3, 1, 2)


@pytest.mark.parametrize("hold", [False, True], ids=["left", "held"])
def test_a_cancelled_step_is_not_tried_again(ledger: Ledger, hold: bool) -> None:
    position = started(ledger)
    ledger.cancel(RUN)

    status = ledger.fail(position, BOOM, retry_in_s=0.0, hold=hold)

    assert status is Status.CANCELLED
    assert facts(ledger, "status", "want", "owner") == ("cancelled", None, None)
    assert history(ledger) == [begun(), failed("node_retry", 0, "A"), ended("cancelled", step=0)]


def test_a_cancelled_step_that_fails_for_good_ends_its_run_as_cancelled(ledger: Ledger) -> None:
    position = started(ledger)
    ledger.cancel(RUN)

    status = ledger.fail(position, BOOM)

    assert status is Status.CANCELLED
    assert history(ledger) == [begun(), failed("node_error", 0, "A"), ended("cancelled", step=0)]


def test_a_failed_try_that_was_begun_is_in_history_from_its_start(ledger: Ledger) -> None:
    ledger.fail(started(ledger), replace(BOOM, elapsed_s=0.25))

    assert [(entry["event"], entry["elapsed_ms"]) for entry in ledger.get_events(RUN)] == [
        ("flow_start", None),
        ("node_start", None),
        ("node_error", 250.0),
        ("flow_end", None),
    ]


def test_a_released_step_is_there_again_and_its_try_does_not_count(subject: Subject) -> None:
    ledger = subject.ledger

    status = ledger.release(started(ledger))

    assert status is Status.QUEUED
    assert facts(ledger, "status", "owner", "attempt") == ("queued", None, 0)
    assert subject.counters(RUN).wake_in_s == near(TIMING.grace_s)
    assert take(ledger).attempt == 1
    assert history(ledger) == [begun()]


def test_a_step_released_for_later_is_due_then(subject: Subject) -> None:
    ledger = subject.ledger

    ledger.release(started(ledger), delay_s=500.0)

    counters = subject.counters(RUN)
    assert (counters.due_in_s, counters.wake_in_s) == (near(500.0), near(500.0))
    assert ledger.claim(RUN, 0, owner=new_owner(WORKER)) is None


def test_a_step_that_no_worker_knows_counts_the_time_from_the_first_that_did_not(
    ledger: Ledger, pass_time: PassTime
) -> None:
    first = started(ledger)
    ledger.release(first, delay_s=1.0, unroutable=True)
    pass_time(500.0)
    second = take(ledger)
    ledger.release(second, delay_s=1.0, unroutable=True)
    pass_time(500.0)

    third = take(ledger)

    assert first.unroutable_s is None
    assert (second.unroutable_s, third.unroutable_s) == (near(500.0), near(1000.0))


def test_a_step_released_for_another_reason_keeps_the_time_since_no_worker_knew_it(
    ledger: Ledger, pass_time: PassTime
) -> None:
    ledger.release(started(ledger), delay_s=1.0, unroutable=True)
    pass_time(500.0)

    ledger.release(take(ledger))

    assert take(ledger).unroutable_s == near(500.0)


def test_a_cancelled_step_that_is_released_ends_its_run(ledger: Ledger) -> None:
    position = started(ledger)
    ledger.cancel(RUN)

    status = ledger.release(position)

    assert status is Status.CANCELLED
    assert facts(ledger, "status", "want", "owner") == ("cancelled", None, None)
    assert history(ledger) == [begun(), ended("cancelled", step=0)]


def test_a_lost_step_cannot_be_released(ledger: Ledger, pass_time: PassTime) -> None:
    position = started(ledger)
    pass_time(TIMING.lease_s + 1)
    ledger.sweep()

    assert ledger.release(position) is None
    assert facts(ledger, "status", "attempt", "crashes") == ("queued", 1, 1)


@pytest.mark.parametrize(("retry_in_s", "event"), [(None, "node_error"), (0.0, "node_retry")])
def test_a_try_that_was_begun_is_in_history_with_the_time_that_it_took(
    ledger: Ledger, retry_in_s: float | None, event: str
) -> None:
    begun_and_failed = Failure("ValueError", "boom", elapsed_s=0.25)

    ledger.fail(started(ledger), begun_and_failed, retry_in_s=retry_in_s)

    assert history(ledger)[1:3] == [
        Entry("node_start", 0, "A", 1, worker=WORKER),
        Entry(event, 0, "A", 1, elapsed_ms=250.0, error="boom", worker=WORKER),
    ]
