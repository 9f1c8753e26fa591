"""The database did what it was told, but its answer was lost: the verb is tried again and does no harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from pocoflow.db.ledger import SqlLedger
from pocoflow.engine.owner import new_owner
from pocoflow.engine.records import Hint, Status
from tests.contract.builders import (
    BOOM,
    HELD,
    LAST,
    RUN,
    WORKER,
    begun,
    done,
    ended,
    facts,
    failed,
    history,
    new_run,
    record,
    started,
)
from tests.contract.subjects import SqlSubject
from tests.support.soundness import assert_sound

LoseAnswer = Callable[[str], None]


@pytest.fixture
def ledger(database_url: str) -> Iterator[SqlLedger]:
    subject = SqlSubject(database_url, sleep=lambda seconds: None)
    yield subject.ledger
    assert_sound(subject.ledger)
    subject.close()


@pytest.fixture
def lose_answer(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> LoseAnswer:
    """Let the connection break once, right after the transaction of this kind has gone through."""

    def lose_answer(transaction: str) -> None:
        act = getattr(ledger, transaction)

        def act_and_break(*args: Any) -> None:
            monkeypatch.setattr(ledger, transaction, act)
            act(*args)
            raise OperationalError("", {}, ConnectionResetError("connection reset"))

        monkeypatch.setattr(ledger, transaction, act_and_break)

    return lose_answer


@pytest.mark.parametrize("result", [record(), HELD, LAST], ids=["left", "held", "last"])
def test_a_commit_counts_once_and_is_told_as_done(
    ledger: SqlLedger, lose_answer: LoseAnswer, result: Any
) -> None:
    position = started(ledger)
    lose_answer("_change")

    status = ledger.commit(position, result)

    assert status is result.then
    assert history(ledger)[:3] == [begun(), *done(0, "A")]
    assert facts(ledger, "total_steps", "status") == (1, result.then.value)


def test_a_failure_is_told_as_written(ledger: SqlLedger, lose_answer: LoseAnswer) -> None:
    position = started(ledger)
    lose_answer("_change")

    status = ledger.fail(position, BOOM)

    assert status is Status.FAILED


def test_a_failure_is_written_once(ledger: SqlLedger, lose_answer: LoseAnswer) -> None:
    position = started(ledger)
    lose_answer("_change")

    ledger.fail(position, BOOM)

    assert history(ledger) == [begun(), failed("node_error", 0, "A"), ended("failed", step=0)]


def test_a_retry_that_is_held_counts_once(ledger: SqlLedger, lose_answer: LoseAnswer) -> None:
    position = started(ledger)
    lose_answer("_change")

    status = ledger.fail(position, BOOM, retry_in_s=0.0, hold=True)

    assert status is Status.RUNNING
    assert facts(ledger, "attempt") == (2,)
    assert history(ledger) == [begun(), failed("node_retry", 0, "A")]


@pytest.mark.parametrize("home", [None, "embedded:host:1:x"])
def test_a_start_is_told_as_created_for_its_hint_to_be_sent(
    ledger: SqlLedger, lose_answer: LoseAnswer, home: str | None
) -> None:
    lose_answer("_start")

    answer = ledger.start(new_run(home=home))

    assert answer.created
    assert history(ledger) == [begun()]


@pytest.mark.parametrize("other", [{"input_hash": "other"}, {"home": "elsewhere"}])
def test_a_start_is_not_told_as_created_if_another_one_was(
    ledger: SqlLedger, lose_answer: LoseAnswer, other: dict[str, str]
) -> None:
    ledger.start(new_run(**other))
    lose_answer("_start")

    assert not ledger.start(new_run()).created


def test_a_held_start_is_told_as_created(ledger: SqlLedger, lose_answer: LoseAnswer) -> None:
    lose_answer("_start")

    answer = ledger.start(new_run(owner=new_owner(WORKER)))

    assert answer.created


def test_a_resume_is_told_as_done(ledger: SqlLedger, lose_answer: LoseAnswer) -> None:
    ledger.fail(started(ledger), BOOM)
    lose_answer("_change")

    assert ledger.resume(RUN, home=None) == Hint(RUN, 0)


def test_a_cancel_is_told_as_done(ledger: SqlLedger, lose_answer: LoseAnswer) -> None:
    ledger.start(new_run())
    lose_answer("_change")

    status = ledger.cancel(RUN)

    assert status is Status.CANCELLED
    assert history(ledger) == [begun(), ended("cancelled", step=0)]


def test_a_cancel_by_force_is_told_as_done(ledger: SqlLedger, lose_answer: LoseAnswer) -> None:
    started(ledger)
    lose_answer("_change")

    status = ledger.cancel(RUN, force=True)

    assert status is Status.CANCELLED
    assert history(ledger) == [begun(), ended("cancelled", step=0)]


def test_a_pause_is_told_as_done(ledger: SqlLedger, lose_answer: LoseAnswer) -> None:
    ledger.start(new_run())
    lose_answer("_change")

    assert ledger.pause(RUN) is Status.PAUSED


def test_a_failure_that_made_a_pause_come_is_told_as_written(
    ledger: SqlLedger, lose_answer: LoseAnswer
) -> None:
    position = started(ledger)
    ledger.pause(RUN)
    lose_answer("_change")

    assert ledger.fail(position, BOOM, retry_in_s=0.0) is Status.PAUSED


def test_a_pause_that_somebody_else_made_is_no_failure_of_mine(
    ledger: SqlLedger, lose_answer: LoseAnswer
) -> None:
    position = started(ledger)
    ledger.release(position)
    ledger.pause(RUN)
    lose_answer("_change")

    assert ledger.fail(position, BOOM, retry_in_s=0.0) is None


def test_a_pause_that_was_taken_back_is_told_as_taken_back(
    ledger: SqlLedger, lose_answer: LoseAnswer
) -> None:
    started(ledger)
    ledger.pause(RUN)
    lose_answer("_change")

    assert ledger.resume(RUN, home=None) is None
    assert facts(ledger, "status", "want") == ("running", None)


def test_a_claim_is_told_as_made(ledger: SqlLedger, lose_answer: LoseAnswer) -> None:
    ledger.start(new_run())
    lose_answer("_claim")
    owner = new_owner(WORKER)

    claim = ledger.claim(RUN, 0, owner=owner)

    assert claim is not None
    assert (claim.position.owner, claim.position.attempt, claim.saved) == (owner, 1, ledger.get_saved(RUN))


def test_a_lease_is_told_as_ended(ledger: SqlLedger, lose_answer: LoseAnswer) -> None:
    started(ledger)
    lose_answer("_all")

    assert ledger.expire(RUN, 0, worker=WORKER)
    assert ledger.sweep() == [Hint(RUN, 0)]
