"""What the token of a claim is good for, on every ledger that we ship, and when it is spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import Status
from tests.contract.builders import (
    BOOM,
    HELD,
    LAST,
    RUN,
    WORKER,
    begun,
    done,
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

USES_OF_A_TOKEN = [
    pytest.param(lambda ledger, position: ledger.commit(position, record()), id="commit"),
    pytest.param(lambda ledger, position: ledger.fail(position, BOOM), id="fail"),
    pytest.param(lambda ledger, position: ledger.fail(position, BOOM, retry_in_s=0.0), id="retry"),
    pytest.param(lambda ledger, position: ledger.release(position), id="release"),
    pytest.param(lambda ledger, position: ledger.heartbeat([position]).get(RUN), id="heartbeat"),
]


@pytest.mark.parametrize("use", USES_OF_A_TOKEN)
@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda mine: replace(mine, epoch=mine.epoch + 1), id="later claim"),
        pytest.param(lambda mine: replace(mine, epoch=mine.epoch - 1), id="earlier claim"),
        pytest.param(lambda mine: replace(mine, owner=new_owner(WORKER)), id="other owner"),
        pytest.param(lambda mine: replace(mine, run_id="nobody"), id="unknown run"),
    ],
)
def test_a_forged_token_is_refused(ledger: Ledger, use: Callable, forge: Callable) -> None:
    position = started(ledger)
    before = ledger.get_run(RUN)

    assert use(ledger, forge(position)) is None
    assert ledger.get_run(RUN) == before
    assert history(ledger) == [begun()]


@pytest.mark.parametrize("use", USES_OF_A_TOKEN)
@pytest.mark.parametrize(
    "spend",
    [
        pytest.param(lambda ledger, mine: ledger.commit(mine, record()), id="committed"),
        pytest.param(lambda ledger, mine: ledger.commit(mine, LAST), id="completed"),
        pytest.param(lambda ledger, mine: ledger.fail(mine, BOOM), id="failed"),
        pytest.param(lambda ledger, mine: ledger.fail(mine, BOOM, retry_in_s=0.0), id="to be retried"),
        pytest.param(lambda ledger, mine: ledger.release(mine), id="released"),
    ],
)
def test_a_spent_token_is_refused(ledger: Ledger, use: Callable, spend: Callable) -> None:
    position = started(ledger)
    spend(ledger, position)
    before, told = ledger.get_run(RUN), history(ledger)

    assert use(ledger, position) is None
    assert ledger.get_run(RUN) == before
    assert history(ledger) == told


@pytest.mark.parametrize("swept", [False, True], ids=["not noticed", "swept"])
def test_a_step_that_outlasted_its_lease_counts_if_nobody_took_it(
    ledger: Ledger, pass_time: PassTime, swept: bool
) -> None:
    position = started(ledger)
    pass_time(TIMING.lease_s + 1)
    trace = [lost(0, "A")] if swept and ledger.sweep() else []

    status = ledger.commit(position, record())

    assert status is Status.QUEUED
    assert facts(ledger, "total_steps", "attempt", "crashes") == (1, 0, 0)
    assert history(ledger) == [begun(), *trace, *done(0, "A")]


def test_a_failure_after_the_lease_counts_if_nobody_took_the_step(
    ledger: Ledger, pass_time: PassTime
) -> None:
    position = started(ledger)
    pass_time(TIMING.lease_s + 1)
    ledger.sweep()

    status = ledger.fail(position, BOOM, retry_in_s=0.0)

    assert status is Status.QUEUED
    assert history(ledger) == [begun(), lost(0, "A"), failed("node_retry", 0, "A")]


@pytest.mark.parametrize("use", USES_OF_A_TOKEN)
def test_a_step_that_somebody_else_took_is_refused(
    ledger: Ledger, pass_time: PassTime, use: Callable
) -> None:
    position = started(ledger)
    pass_time(TIMING.lease_s + 1)
    ledger.sweep()
    taken = take(ledger, worker="other")

    assert use(ledger, position) is None
    assert ledger.commit(taken, record()) is Status.QUEUED


@pytest.mark.parametrize("use", USES_OF_A_TOKEN)
def test_a_lost_step_that_was_cancelled_is_refused(
    ledger: Ledger, pass_time: PassTime, use: Callable
) -> None:
    position = started(ledger)
    pass_time(TIMING.lease_s + 1)
    ledger.sweep()
    ledger.cancel(RUN)

    assert use(ledger, position) is None
    assert facts(ledger, "status") == ("cancelled",)


def test_a_heartbeat_extends_the_lease(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    subject.pass_time(900.0)

    wants = ledger.heartbeat([position])

    assert dict(wants) == {RUN: None}
    assert subject.counters(RUN).wake_in_s == near(TIMING.lease_s)


def test_a_heartbeat_extends_no_lease_but_its_own(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.start(new_run("other"))
    take(ledger, run_id="other", worker="other")
    position = started(ledger)
    subject.pass_time(900.0)

    ledger.heartbeat([position])

    assert subject.counters("other").wake_in_s == near(100.0)


def test_a_heartbeat_tells_of_all_steps_still_held_what_was_asked(ledger: Ledger) -> None:
    held = []
    for run_id in ("wanted", "left alone", "released"):
        ledger.start(new_run(run_id))
        held.append(take(ledger, run_id=run_id))
    ledger.cancel("wanted")
    ledger.release(held[2])

    wants = ledger.heartbeat(held)

    assert dict(wants) == {"wanted": "cancel", "left alone": None}


def test_a_heartbeat_of_nothing_extends_nothing(ledger: Ledger) -> None:
    started(ledger)

    assert dict(ledger.heartbeat([])) == {}


def test_a_heartbeat_with_an_older_step_of_the_same_hold_extends_the_lease(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    ledger.commit(position, HELD)
    subject.pass_time(900.0)

    wants = ledger.heartbeat([position])

    assert dict(wants) == {RUN: None}
    assert subject.counters(RUN).wake_in_s == near(TIMING.lease_s)


def test_a_heartbeat_takes_back_a_step_that_a_sweep_freed_and_nobody_took(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    subject.pass_time(TIMING.lease_s + 1)
    ledger.sweep()

    wants = ledger.heartbeat([position])

    assert dict(wants) == {RUN: None}
    assert facts(ledger, "status") == ("running",)
    assert ledger.claim(RUN, 0, owner=new_owner(WORKER)) is None
