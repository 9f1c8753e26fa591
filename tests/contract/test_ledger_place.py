"""A step is given back as one of another node, or its run ends before it, on every ledger that we ship."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pocoflow.engine.local import Untracked
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import Position, Status
from tests.contract.builders import RUN, begun, done, ended, facts, history, new_run, record, started, take
from tests.contract.subjects import TIMING, Subject, near


def test_a_step_is_given_back_as_one_of_its_node_and_waits_for_a_hint(subject: Subject) -> None:
    position = started(subject.ledger)

    status = subject.ledger.place(position, "B", "gpu")

    names = ("status", "current_node", "queue", "total_steps", "attempt", "owner", "stands")
    counted = subject.counters(RUN)
    assert status is Status.QUEUED
    assert facts(subject.ledger, *names) == ("queued", "B", "gpu", 0, 0, None, None)
    assert (counted.due_in_s, counted.wake_in_s) == (near(0), near(TIMING.grace_s))
    assert history(subject.ledger) == [begun()]


def test_what_was_placed_is_claimed_and_committed_like_any_step(ledger: Ledger) -> None:
    ledger.place(started(ledger), "B", None)

    position = take(ledger)
    ledger.commit(position, record(None))

    assert (position.node, position.attempt, position.stands) == ("B", 1, None)
    assert history(ledger) == [begun(), *done(0, "B"), ended("completed", step=1)]


def test_a_run_without_a_next_node_has_completed(ledger: Ledger) -> None:
    position = started(ledger)
    ledger.commit(position, record())

    assert ledger.place(take(ledger, 1), None, None) is Status.COMPLETED

    assert facts(ledger, "status", "current_node", "total_steps", "owner") == ("completed", "B", 1, None)
    assert facts(ledger, "completed_at") != (None,)
    assert history(ledger) == [begun(), *done(0, "A"), ended("completed", step=1)]


@pytest.mark.parametrize(("node", "then"), [("B", Status.PAUSED), (None, Status.COMPLETED)])
def test_a_pause_comes_before_the_next_step_but_not_before_the_end(
    ledger: Ledger, node: str | None, then: Status
) -> None:
    position = started(ledger)
    ledger.pause(RUN)

    assert ledger.place(position, node, None) is then

    assert facts(ledger, "status", "want") == (then.value, None)


@pytest.mark.parametrize("node", ["B", None])
def test_a_cancel_comes_before_both(ledger: Ledger, node: str | None) -> None:
    position = started(ledger)
    ledger.cancel(RUN)

    assert ledger.place(position, node, None) is Status.CANCELLED


def test_only_the_holder_of_a_step_can_place_it(ledger: Ledger) -> None:
    position = started(ledger)

    assert ledger.place(replace(position, owner="somebody:1:else"), "B", None) is None
    assert ledger.place(replace(position, epoch=7), "B", None) is None

    assert facts(ledger, "status", "current_node") == ("running", "A")


def test_the_ledger_that_keeps_nothing_places_nothing() -> None:
    assert Untracked().place(_held_nowhere(), "B", None) is None


def _held_nowhere() -> Position:
    return Position(RUN, "flow", 0, new_run().node, 1, "owner")
