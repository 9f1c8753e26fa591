"""What a process held or was to send when it died is taken up at once, on each of our ledgers: expire."""

from __future__ import annotations

import pytest

from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import POISON, Hint
from tests.contract.builders import (
    BOOM,
    HELD,
    LAST,
    RUN,
    WORKER,
    at_once,
    begun,
    done,
    ended,
    facts,
    history,
    lost,
    new_run,
    record,
    started,
    take,
)
from tests.contract.subjects import TIMING, PassTime


def test_the_step_of_a_process_that_died_is_taken_back_by_the_next_sweep(ledger: Ledger) -> None:
    started(ledger, queue="gpu")

    assert ledger.expire(RUN, 0, worker=WORKER)

    assert ledger.sweep() == [Hint(RUN, 0, "gpu")]
    assert facts(ledger, "status", "attempt", "crashes") == ("queued", 1, 1)
    assert history(ledger) == [begun(), lost(0, "A")]


def test_a_lease_that_is_ended_twice_counts_as_one_crash(ledger: Ledger) -> None:
    started(ledger)

    assert ledger.expire(RUN, 0, worker=WORKER)
    assert ledger.expire(RUN, 0, worker=WORKER)

    assert ledger.sweep() == [Hint(RUN, 0)]
    assert not ledger.expire(RUN, 0, worker=WORKER)
    assert ledger.sweep() == []
    assert facts(ledger, "crashes") == (1,)


@pytest.mark.parametrize(
    "worker", ["host:2", "host:10", "host", "hos", "host:", "host:1:", "%", "host_1", ""]
)
def test_the_lease_of_another_process_is_left_alone(ledger: Ledger, worker: str) -> None:
    started(ledger)
    before = ledger.get_run(RUN)

    assert not ledger.expire(RUN, 0, worker=worker)

    assert ledger.sweep() == []
    assert ledger.get_run(RUN) == before


@pytest.mark.parametrize("worker", ["host%:1", "h_st:1", "Host:1", "ho:st:1", "höst:1"])
def test_a_name_means_itself_whatever_characters_it_has(ledger: Ledger, worker: str) -> None:
    ledger.start(new_run())
    take(ledger, worker=worker)

    assert not ledger.expire(RUN, 0, worker=WORKER)
    assert ledger.expire(RUN, 0, worker=worker)


def test_a_step_that_another_process_has_taken_over_is_left_to_it(
    ledger: Ledger, pass_time: PassTime
) -> None:
    started(ledger)
    pass_time(TIMING.lease_s + 1)
    ledger.sweep()
    position = take(ledger, worker="host:2")

    assert not ledger.expire(RUN, 0, worker=WORKER)
    assert ledger.sweep() == []
    assert ledger.commit(position, LAST) is not None


def test_the_step_that_a_process_went_on_to_is_taken_back_too(ledger: Ledger) -> None:
    ledger.commit(started(ledger), HELD)

    assert ledger.expire(RUN, 0, worker=WORKER)
    assert ledger.sweep() == [Hint(RUN, 1)]
    assert history(ledger) == [begun(), *done(0, "A"), lost(1, "B")]


def test_news_from_the_future_change_nothing(ledger: Ledger) -> None:
    started(ledger)

    assert not ledger.expire(RUN, 1, worker=WORKER)
    assert ledger.sweep() == []


def test_a_run_that_has_ended_or_waits_for_its_next_try_is_left_alone(ledger: Ledger) -> None:
    ledger.fail(started(ledger), BOOM, retry_in_s=500.0)
    ledger.start(new_run("ended"))
    ledger.commit(take(ledger, run_id="ended"), LAST)
    before = [ledger.get_run(run_id) for run_id in (RUN, "ended")]

    assert not any(ledger.expire(run_id, 0, worker=WORKER) for run_id in (RUN, "ended", "unknown"))

    assert [ledger.get_run(run_id) for run_id in (RUN, "ended")] == before
    assert ledger.sweep() == []


def test_the_hint_that_a_process_had_taken_is_sent_again_once(ledger: Ledger) -> None:
    ledger.start(new_run(queue="gpu"))

    assert ledger.expire(RUN, 0, worker=WORKER)
    assert ledger.sweep() == [Hint(RUN, 0, "gpu")]

    assert not ledger.expire(RUN, 0, worker=WORKER)
    assert ledger.sweep() == []
    assert facts(ledger, "status", "attempt", "crashes") == ("queued", 0, 0)
    assert history(ledger) == [begun()]


def test_the_hint_that_a_process_may_not_have_sent_after_its_commit_is_sent(ledger: Ledger) -> None:
    ledger.commit(started(ledger), record(next_queue="gpu"))

    assert ledger.expire(RUN, 0, worker=WORKER)

    assert ledger.sweep() == [Hint(RUN, 1, "gpu")]
    assert facts(ledger, "status", "crashes") == ("queued", 0)
    assert history(ledger) == [begun(), *done(0, "A")]


def test_a_process_that_was_only_thought_dead_may_commit_until_its_step_is_taken(ledger: Ledger) -> None:
    position = started(ledger)
    ledger.expire(RUN, 0, worker=WORKER)
    ledger.sweep()

    assert ledger.commit(position, record()) is not None
    assert facts(ledger, "total_steps", "crashes") == (1, 0)


def test_a_process_that_was_only_thought_dead_cannot_commit_what_another_one_has_taken(
    ledger: Ledger,
) -> None:
    position = started(ledger)
    ledger.expire(RUN, 0, worker=WORKER)
    ledger.sweep()
    other = take(ledger, worker="host:2")

    assert ledger.commit(position, record()) is None
    assert ledger.commit(other, LAST) is not None


def test_a_sign_of_life_undoes_it(ledger: Ledger) -> None:
    position = started(ledger)
    ledger.expire(RUN, 0, worker=WORKER)

    assert ledger.heartbeat([position]) == {RUN: None}
    assert ledger.sweep() == []
    assert facts(ledger, "status", "crashes") == ("running", 0)


def test_a_step_that_kills_each_process_fails_its_run_without_any_time_passing(ledger: Ledger) -> None:
    ledger.start(new_run())
    for number in range(TIMING.max_crashes + 1):
        take(ledger, worker=f"host:{number}")
        assert ledger.expire(RUN, 0, worker=f"host:{number}")
        ledger.sweep()

    assert facts(ledger, "status", "error_type", "crashes") == ("failed", POISON, TIMING.max_crashes + 1)


def test_a_cancelled_step_whose_process_died_ends_its_run(ledger: Ledger) -> None:
    started(ledger)
    ledger.cancel(RUN)

    assert ledger.expire(RUN, 0, worker=WORKER)

    assert ledger.sweep() == []
    assert history(ledger) == [begun(), lost(0, "A"), ended("cancelled", step=0)]


def test_of_eight_who_heard_of_a_death_at_once_one_takes_the_step_back(ledger: Ledger) -> None:
    started(ledger)

    def report(number: int) -> list[Hint]:
        ledger.expire(RUN, 0, worker=WORKER)
        return ledger.sweep()

    found = at_once(8, report)
    # A sweep goes home when another one is at work, and that one passes over what is being written just now.
    found.append(ledger.sweep())

    assert [hints for hints in found if hints] == [[Hint(RUN, 0)]]
    assert facts(ledger, "crashes") == (1,)
