"""What was lost is found and what is due is sent, on every ledger that we ship: sweep."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import INTERRUPTED, POISON, Hint
from pocoflow.engine.timing import CROWD_PATIENCE_S, MAX_BACKOFF_S
from pocoflow.engine.wording import INTERRUPTED_TEXT, POISON_TEXT
from tests.contract.builders import (
    BOOM,
    HELD,
    LAST,
    RUN,
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
from tests.contract.subjects import TIMING, PassTime, Subject, near

HERE, ELSEWHERE = "embedded:host:1", "embedded:host:2"
WHY = INTERRUPTED_TEXT.format(run_id=RUN)
PAST_GRACE_S = TIMING.grace_s + 1
PAST_LEASE_S = TIMING.lease_s + 1


def poison(ledger: Ledger, pass_time: PassTime) -> None:
    ledger.start(new_run())
    for _ in range(TIMING.max_crashes + 1):
        take(ledger)
        pass_time(PAST_LEASE_S)
        ledger.sweep()


def lose_the_home(ledger: Ledger, pass_time: PassTime) -> None:
    started(ledger, home=ELSEWHERE)
    pass_time(2 * PAST_LEASE_S)
    ledger.sweep()


def cancel_and_lose(ledger: Ledger, pass_time: PassTime) -> None:
    started(ledger)
    ledger.cancel(RUN)
    pass_time(PAST_LEASE_S)
    ledger.sweep()


def lose_and_cancel(ledger: Ledger, pass_time: PassTime) -> None:
    started(ledger)
    pass_time(PAST_LEASE_S)
    ledger.sweep()
    ledger.cancel(RUN)


def test_a_sweep_with_nothing_due_writes_nothing(subject: Subject) -> None:
    ledger = subject.ledger
    started(ledger)
    ledger.start(new_run("waiting"))
    ledger.start(new_run("ended"))
    ledger.cancel("ended")
    before = [(ledger.get_run(run_id), history(ledger, run_id)) for run_id in (RUN, "waiting", "ended")]

    assert ledger.sweep() == []
    assert [
        (ledger.get_run(run_id), history(ledger, run_id)) for run_id in (RUN, "waiting", "ended")
    ] == before
    assert subject.counters("waiting").dispatches == 1


def test_a_run_whose_hint_was_lost_is_sent_again(ledger: Ledger, pass_time: PassTime) -> None:
    ledger.start(new_run(queue="gpu"))
    pass_time(PAST_GRACE_S)

    assert ledger.sweep() == [Hint(RUN, 0, "gpu")]
    assert facts(ledger, "status", "attempt", "crashes") == ("queued", 0, 0)
    assert history(ledger) == [begun()]


def test_a_hint_that_keeps_getting_lost_is_sent_half_as_often_each_time_up_to_a_limit(
    subject: Subject,
) -> None:
    ledger = subject.ledger
    ledger.start(new_run())
    waits = [subject.counters(RUN).wake_in_s]

    for _ in range(12):
        subject.pass_time(MAX_BACKOFF_S + 1)
        assert ledger.sweep() == [Hint(RUN, 0)]
        waits.append(subject.counters(RUN).wake_in_s)

    assert waits == [near(seconds) for seconds in (100, 200, 400, *[MAX_BACKOFF_S] * 10)]
    assert subject.counters(RUN).dispatches == 13


def test_a_step_begins_with_a_full_count_of_dispatches(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.start(new_run())
    subject.pass_time(PAST_GRACE_S)
    ledger.sweep()

    ledger.commit(take(ledger), record())

    assert subject.counters(RUN).dispatches == 1
    assert subject.counters(RUN).wake_in_s == near(TIMING.grace_s)


@pytest.mark.parametrize("queue", [None, "gpu"])
def test_a_hint_in_a_crowd_is_late_and_not_lost(
    ledger: Ledger, pass_time: PassTime, queue: str | None
) -> None:
    ledger.start(new_run(queue=queue))
    pass_time(PAST_GRACE_S)

    assert ledger.sweep(crowded={queue}) == []
    assert ledger.sweep(crowded={"another"}) == [Hint(RUN, 0, queue)]


def test_a_hint_in_a_crowd_that_never_thins_out_is_sent_again_in_the_end(
    ledger: Ledger, pass_time: PassTime
) -> None:
    ledger.start(new_run())
    pass_time(PAST_GRACE_S + CROWD_PATIENCE_S)

    assert ledger.sweep(crowded={None}) == [Hint(RUN, 0)]


def retry_later(ledger: Ledger, pass_time: PassTime) -> None:
    ledger.fail(started(ledger), BOOM, retry_in_s=5.0)
    pass_time(6.0)


def give_back_for_later(ledger: Ledger, pass_time: PassTime) -> None:
    ledger.release(started(ledger), delay_s=5.0, unroutable=True)
    pass_time(6.0)


def lose_the_worker(ledger: Ledger, pass_time: PassTime) -> None:
    started(ledger)
    pass_time(PAST_LEASE_S)


@pytest.mark.parametrize("happens", [retry_later, give_back_for_later, lose_the_worker])
def test_a_crowd_holds_up_no_step_that_has_no_hint_in_it(
    ledger: Ledger, pass_time: PassTime, happens: Callable[[Ledger, PassTime], None]
) -> None:
    happens(ledger, pass_time)

    assert ledger.sweep(crowded={None}) == [Hint(RUN, 0)]


def test_a_swept_run_is_left_alone_until_the_backoff_is_over(ledger: Ledger, pass_time: PassTime) -> None:
    ledger.start(new_run())
    pass_time(PAST_GRACE_S)
    ledger.sweep()

    assert ledger.sweep() == []


def test_a_step_whose_worker_was_lost_is_queued_again(subject: Subject) -> None:
    ledger = subject.ledger
    started(ledger)
    subject.pass_time(PAST_LEASE_S)

    assert ledger.sweep() == [Hint(RUN, 0)]
    assert facts(ledger, "status", "attempt", "crashes") == ("queued", 1, 1)
    assert subject.counters(RUN).due_in_s == near(0)
    assert subject.counters(RUN).wake_in_s == near(2 * TIMING.grace_s)
    assert history(ledger) == [begun(), lost(0, "A")]


def test_a_lost_step_is_done_again_by_another_worker(ledger: Ledger, pass_time: PassTime) -> None:
    started(ledger)
    pass_time(PAST_LEASE_S)
    ledger.sweep()

    position = take(ledger)
    ledger.commit(position, LAST)

    assert (position.attempt, position.crashes, position.tries) == (2, 1, 1)
    assert history(ledger) == [begun(), lost(0, "A"), *done(0, "A", attempt=2), ended("completed", step=1)]


def test_a_held_retry_whose_process_was_lost_is_queued_again(ledger: Ledger, pass_time: PassTime) -> None:
    ledger.fail(started(ledger), BOOM, retry_in_s=500.0, hold=True)
    pass_time(500.0 + PAST_LEASE_S)

    assert ledger.sweep() == [Hint(RUN, 0)]
    assert history(ledger) == [begun(), failed("node_retry", 0, "A"), lost(0, "A", attempt=2)]


def test_a_step_that_loses_one_worker_more_than_allowed_fails_its_run(
    ledger: Ledger, pass_time: PassTime
) -> None:
    ledger.start(new_run())
    executions = TIMING.max_crashes + 1
    hints = []
    for _ in range(executions):
        take(ledger)
        pass_time(PAST_LEASE_S)
        hints.append(ledger.sweep())

    why = POISON_TEXT.format(node="A", step=0, crashes=executions)
    assert hints == [[Hint(RUN, 0)], [Hint(RUN, 0)], []]
    assert facts(ledger, "status", "attempt", "crashes", "want") == ("failed", 3, 3, None)
    assert facts(ledger, "error_type", "error_msg") == (POISON, why)
    assert history(ledger) == [
        begun(),
        *(lost(0, "A", attempt=attempt) for attempt in range(1, executions + 1)),
        failed("node_error", 0, "A", attempt=executions, error=why),
        ended("failed", step=0),
    ]


def test_crashes_of_one_step_do_not_count_for_the_next(ledger: Ledger, pass_time: PassTime) -> None:
    started(ledger)
    for step in range(2):
        for _ in range(TIMING.max_crashes):
            pass_time(PAST_LEASE_S)
            ledger.sweep()
            position = take(ledger, step)
        ledger.commit(position, HELD)

    assert facts(ledger, "status", "total_steps", "crashes") == ("running", 2, 0)


def test_a_poisoned_run_that_is_resumed_may_crash_as_often_again(ledger: Ledger, pass_time: PassTime) -> None:
    poison(ledger, pass_time)
    ledger.resume(RUN, home=None)
    take(ledger)
    pass_time(PAST_LEASE_S)

    assert ledger.sweep() == [Hint(RUN, 0)]
    assert facts(ledger, "status", "crashes") == ("queued", 1)


def test_a_lost_step_that_was_cancelled_ends_its_run(ledger: Ledger, pass_time: PassTime) -> None:
    started(ledger)
    ledger.cancel(RUN)
    pass_time(PAST_LEASE_S)

    assert ledger.sweep() == []
    assert facts(ledger, "status", "want", "error_type") == ("cancelled", None, None)
    assert history(ledger) == [begun(), lost(0, "A"), ended("cancelled", step=0)]


def test_a_lost_step_that_was_cancelled_refuses_its_token(ledger: Ledger, pass_time: PassTime) -> None:
    position = started(ledger)
    ledger.cancel(RUN)
    pass_time(PAST_LEASE_S)
    ledger.sweep()

    assert ledger.commit(position, record()) is None


@pytest.mark.parametrize("begin", [lambda ledger: None, take], ids=["queued", "running"])
def test_a_sweep_of_its_own_home_finds_what_is_lost_or_due(
    ledger: Ledger, pass_time: PassTime, begin: Callable
) -> None:
    ledger.start(new_run(home=HERE))
    begin(ledger)
    pass_time(5 * PAST_LEASE_S)

    assert ledger.sweep(home=HERE) == [Hint(RUN, 0)]
    assert facts(ledger, "status") == ("queued",)


@pytest.mark.parametrize("home", [None, HERE], ids=["worker", "other home"])
@pytest.mark.parametrize("begin", [lambda ledger: None, take], ids=["queued", "running"])
def test_a_run_of_another_home_is_left_to_it_for_a_lease(
    ledger: Ledger, pass_time: PassTime, begin: Callable, home: str | None
) -> None:
    ledger.start(new_run(home=ELSEWHERE))
    taken = begin(ledger)
    pass_time(900.0 + (TIMING.lease_s if taken else TIMING.grace_s))
    before = ledger.get_run(RUN)

    assert ledger.sweep(home=home) == []
    assert ledger.get_run(RUN) == before
    assert history(ledger) == [begun()]


@pytest.mark.parametrize("home", [None, HERE], ids=["worker", "other home"])
def test_a_queued_run_whose_home_has_gone_is_paused(
    ledger: Ledger, pass_time: PassTime, home: str | None
) -> None:
    ledger.start(new_run(home=ELSEWHERE))
    pass_time(TIMING.grace_s + PAST_LEASE_S)

    assert ledger.sweep(home=home) == []
    assert facts(ledger, "status", "error_type", "error_msg") == ("paused", INTERRUPTED, WHY)
    assert history(ledger) == [begun(), Entry("run_interrupted", 0, error=WHY)]


@pytest.mark.parametrize("crashes", [0, TIMING.max_crashes])
def test_a_running_run_whose_home_has_gone_is_paused_however_often_it_was_lost(
    ledger: Ledger, pass_time: PassTime, crashes: int
) -> None:
    ledger.start(new_run(home=ELSEWHERE))
    for _ in range(crashes):
        take(ledger)
        pass_time(PAST_LEASE_S)
        ledger.sweep(home=ELSEWHERE)
    position = take(ledger)
    pass_time(2 * PAST_LEASE_S)

    assert ledger.sweep() == []
    assert facts(ledger, "status", "error_type", "error_msg") == ("paused", INTERRUPTED, WHY)
    assert ledger.commit(position, record()) is None
    assert history(ledger)[-2:] == [
        lost(0, "A", attempt=crashes + 1),
        Entry("run_interrupted", 0, error=WHY),
    ]


def test_a_cancelled_run_whose_home_has_gone_is_ended(ledger: Ledger, pass_time: PassTime) -> None:
    started(ledger, home=ELSEWHERE)
    ledger.cancel(RUN)
    pass_time(2 * PAST_LEASE_S)

    assert ledger.sweep() == []
    assert facts(ledger, "status", "want") == ("cancelled", None)
    assert history(ledger) == [begun(), lost(0, "A"), ended("cancelled", step=0)]


def test_a_home_does_not_look_after_the_runs_of_workers(ledger: Ledger, pass_time: PassTime) -> None:
    ledger.start(new_run())
    pass_time(10 * PAST_LEASE_S)

    assert ledger.sweep(home=HERE) == []
    assert facts(ledger, "status") == ("queued",)


def test_one_sweep_brings_up_many_runs_each_with_its_own_history(ledger: Ledger, pass_time: PassTime) -> None:
    names = [f"run {number}" for number in range(5)]
    for number, run_id in enumerate(names):
        ledger.start(new_run(run_id))
        if number % 2:
            take(ledger, run_id=run_id)
    pass_time(PAST_LEASE_S)

    hints = ledger.sweep()

    assert sorted(hint.run_id for hint in hints) == names
    assert [len(history(ledger, run_id)) for run_id in names] == [1, 2, 1, 2, 1]


def test_of_eight_sweeps_at_once_one_finds_the_run(ledger: Ledger, pass_time: PassTime) -> None:
    started(ledger)
    pass_time(PAST_LEASE_S)

    found = at_once(8, lambda number: ledger.sweep())

    assert [hints for hints in found if hints] == [[Hint(RUN, 0)]]
    assert facts(ledger, "crashes") == (1,)
    assert history(ledger) == [begun(), lost(0, "A")]


def test_a_step_that_ends_just_before_it_is_swept_is_not_lost(ledger: Ledger, pass_time: PassTime) -> None:
    position = started(ledger)
    pass_time(PAST_LEASE_S)
    ledger.commit(position, record())

    assert ledger.sweep() == []
    assert ledger.claim(RUN, 1, owner=new_owner("other")) is not None
    assert history(ledger) == [begun(), *done(0, "A")]


@pytest.mark.parametrize("stop", [poison, lose_the_home, cancel_and_lose, lose_and_cancel])
def test_a_run_that_was_stopped_belongs_to_nobody_any_more(
    ledger: Ledger, pass_time: PassTime, stop: Callable[[Ledger, PassTime], None]
) -> None:
    stop(ledger, pass_time)

    assert facts(ledger, "owner") == (None,)
