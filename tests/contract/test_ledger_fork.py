"""A fork goes on from any checkpoint of any run, with the same store, and leaves that run as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pocoflow import codec
from pocoflow.engine.fork import REMOVE, checked_step, fork_of
from pocoflow.engine.history import MAX_DEPTH, Trail
from pocoflow.engine.identity import require_same
from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import NewRun, Status
from pocoflow.errors import (
    CheckpointNotFoundError,
    DefinitionError,
    InvalidTransitionError,
    RunConflictError,
    RunNotFoundError,
    StoreKeyError,
    StoreSerializationError,
    StoreTypeError,
)
from pocoflow.schema import Schema
from tests.contract.builders import BOOM, RUN, WORKER, Entry, facts, history, new_run, record, take
from tests.contract.subjects import SqlSubject

STEPS = MAX_DEPTH + 5
PAGE = "x" * 20_000


def chat(turns: int) -> dict[str, Any]:
    messages = [{"n": number, "text": f"{number} " + "w" * 900} for number in range(turns)]
    return {"messages": messages, "page": PAGE, "turn": turns}


def node_of(step: int) -> str:
    return f"node {step}"


def lived(ledger: Ledger, steps: int = STEPS, **changes: Any) -> None:
    """Leave a run that has done so many steps, each with a node and a queue of its own, and waits."""
    trail = Trail()
    first = trail.next(codec.dump_values(chat(0)), whole=True)
    ledger.start(new_run(input=first, node=node_of(0), queue="q0", **changes))
    for step in range(steps):
        made = trail.next(codec.dump_values(chat(step + 1)), whole=step == 0)
        following = {"next_node": node_of(step + 1), "next_queue": f"q{step + 1}"}
        ledger.commit(take(ledger, step), record(state=made, **following))


def forked(
    ledger: Ledger, step: int, *, node: str | None = None, run_id: str = "fork", **updates: Any
) -> NewRun:
    point = ledger.get_fork_point(RUN, step, node=node)
    return fork_of(point, ledger, updates=updates, run_id=run_id, home=None)


def data_of(ledger: Ledger, run_id: str) -> dict[Any, Any]:
    state = ledger.get_saved(run_id)
    assert state is not None
    return Trail.load(state).data()


@pytest.mark.parametrize("step", [-1, 0, 1, MAX_DEPTH, STEPS - 1])
def test_a_fork_begins_with_the_store_and_the_node_that_come_after_the_checkpoint(
    ledger: Ledger, step: int
) -> None:
    lived(ledger)

    created = ledger.start(forked(ledger, step)).created

    assert created
    assert data_of(ledger, "fork") == chat(step + 1)
    names = ("status", "current_node", "queue", "total_steps", "parent_run_id", "parent_step")
    expected = ("queued", node_of(step + 1), f"q{step + 1}", 0, RUN, step)
    assert facts(ledger, *names, run_id="fork") == expected
    assert history(ledger, "fork") == [Entry("flow_start", node=node_of(step + 1), action="fork")]


def test_the_parent_stays_as_it_is(ledger: Ledger) -> None:
    lived(ledger)
    before = (ledger.get_run(RUN), history(ledger), data_of(ledger, RUN))

    ledger.start(forked(ledger, 3, turn=-1))
    made = Trail().next(codec.dump_values({"turn": -2}), whole=True)
    ledger.commit(take(ledger, run_id="fork"), record(state=made))

    assert (ledger.get_run(RUN), history(ledger), data_of(ledger, RUN)) == before
    assert data_of(ledger, "fork") == {"turn": -2}


def test_updates_are_merged_and_a_key_can_be_removed(ledger: Ledger) -> None:
    lived(ledger, 2)

    ledger.start(forked(ledger, 1, turn=(1, 2), extra={"a": None}, page=REMOVE))

    expected = {"messages": chat(2)["messages"], "turn": (1, 2), "extra": {"a": None}}
    assert data_of(ledger, "fork") == expected


def test_a_fork_can_be_forked_and_both_go_on(ledger: Ledger) -> None:
    lived(ledger, 2)
    ledger.start(forked(ledger, 1))

    point = ledger.get_fork_point("fork", -1)
    ledger.start(fork_of(point, ledger, updates={"turn": 0}, run_id="fork of fork", home=None))

    assert data_of(ledger, "fork of fork") == chat(2) | {"turn": 0}
    assert facts(ledger, "parent_run_id", "current_node", run_id="fork of fork") == ("fork", node_of(2))
    assert take(ledger, run_id="fork of fork").node == node_of(2)


@pytest.mark.parametrize("status", [Status.RUNNING, Status.PAUSED, Status.FAILED, Status.CANCELLED])
def test_a_run_can_be_forked_whatever_its_status(ledger: Ledger, status: Status) -> None:
    lived(ledger, 2)
    if status is Status.PAUSED:
        ledger.pause(RUN)
    elif status is Status.CANCELLED:
        ledger.cancel(RUN)
    else:
        position = take(ledger, 2)
        if status is Status.FAILED:
            ledger.fail(position, BOOM)

    ledger.start(forked(ledger, 1))

    assert facts(ledger, "status") == (status,)
    assert facts(ledger, "status", "current_node", run_id="fork") == ("queued", node_of(2))


def test_where_a_run_has_ended_the_first_node_must_be_named(ledger: Ledger) -> None:
    lived(ledger, 1)
    made = Trail().next(codec.dump_values(chat(2)), whole=True)
    ledger.commit(take(ledger, 1), record(None, state=made))

    with pytest.raises(InvalidTransitionError, match="no node is known to follow step 1"):
        forked(ledger, 1)

    assert forked(ledger, 1, node=node_of(0)).node == node_of(0)


def test_a_step_cancelled_at_its_end_is_not_taken_for_one_that_others_follow(ledger: Ledger) -> None:
    lived(ledger, 1)
    position = take(ledger, 1)
    ledger.cancel(RUN)
    made = Trail().next(codec.dump_values(chat(2)), whole=True)
    ledger.commit(position, record(None, state=made))

    assert ledger.get_fork_point(RUN, 1).node is None


def test_a_node_that_is_named_has_the_queue_that_the_run_used_for_it(ledger: Ledger) -> None:
    lived(ledger, 3)

    queues = [ledger.get_fork_point(RUN, 2, node=node_of(step)).queue for step in range(5)]

    assert queues == ["q0", "q1", "q2", "q3", None]


def test_a_fork_has_the_whole_time_of_its_flow(ledger: Ledger, pass_time: Any) -> None:
    lived(ledger, 1, timeout_s=500.0)
    pass_time(400.0)

    ledger.start(forked(ledger, 0))

    left_s = take(ledger, run_id="fork").left_s
    assert left_s is not None
    assert left_s > 400.0


def test_the_same_fork_twice_is_one_run_and_another_one_is_told_apart(ledger: Ledger) -> None:
    lived(ledger, 3)
    first, same, other, elsewhere = (
        forked(ledger, step, turn=turn) for step, turn in ((1, 9), (1, 9), (1, 8), (0, 9))
    )
    ledger.start(first)

    again = ledger.start(same)

    assert not again.created
    require_same(same, again)
    for conflicting in (other, elsewhere):
        with pytest.raises(RunConflictError):
            require_same(conflicting, ledger.start(conflicting))


def test_an_unknown_run_or_step_is_named(ledger: Ledger) -> None:
    lived(ledger, 2)

    with pytest.raises(RunNotFoundError, match="nobody"):
        ledger.get_fork_point("nobody", 0)
    for step in (-2, 2, 7):
        with pytest.raises(CheckpointNotFoundError, match=f"no checkpoint of step {step}"):
            ledger.get_fork_point(RUN, step)


def test_what_cannot_be_carried_or_removed_is_refused_before_anything_is_written(ledger: Ledger) -> None:
    lived(ledger, 1)

    with pytest.raises(StoreSerializationError, match="'turn'"):
        forked(ledger, 0, turn=object())
    with pytest.raises(StoreKeyError, match="nothing"):
        forked(ledger, 0, nothing=REMOVE)
    with pytest.raises(DefinitionError, match="new_run_id"):
        forked(ledger, 0, run_id="a\nb")
    with pytest.raises(DefinitionError, match="a list"):
        fork_of(ledger.get_fork_point(RUN, 0), ledger, updates=[1], run_id=None, home=None)  # type: ignore[arg-type]

    assert ledger.get_run("fork") is None


def test_the_schema_goes_along_and_holds_for_updates(ledger: Ledger) -> None:
    lived(ledger, 1, schema=Schema.of({"turn": int}).dumps())

    with pytest.raises(StoreTypeError, match="'turn'"):
        forked(ledger, 0, turn="first")
    ledger.start(forked(ledger, 0, turn=7))

    claim = ledger.claim("fork", 0, owner=new_owner(WORKER))
    assert claim is not None
    store = Trail.load(claim.saved).store("fork")
    assert store["turn"] == 7
    with pytest.raises(StoreTypeError):
        store["turn"] = "second"


def test_large_values_are_kept_once_for_a_run_and_its_forks(sql_subject: SqlSubject) -> None:
    ledger = sql_subject.ledger
    lived(ledger)
    ledger.start(forked(ledger, STEPS - 1, run_id="first"))
    blobs = sql_subject.count("pf_blobs")

    ledger.start(forked(ledger, STEPS - 1, run_id="second"))
    point = ledger.get_fork_point("second", -1)
    ledger.start(fork_of(point, ledger, updates=None, run_id="third", home=None))

    assert sql_subject.count("pf_blobs") == blobs
    assert data_of(ledger, "third") == chat(STEPS)


def test_a_fork_brings_the_blobs_that_were_pruned_while_it_was_made(sql_subject: SqlSubject) -> None:
    ledger = sql_subject.ledger
    lived(ledger, 2)
    new = forked(ledger, 1)
    sql_subject.wipe()

    ledger.start(new)

    assert data_of(ledger, "fork") == chat(2)


def test_a_run_of_0_2_is_forked_where_its_history_shows_what_came_next(sql_subject: SqlSubject) -> None:
    ledger = sql_subject.ledger
    lived(ledger, 3)
    forget = "update pf_checkpoints set next_node = null, next_queue = null"
    for sql in (forget, "update pf_runs set flow_hash = null, first_node = null, first_queue = null"):
        sql_subject.run_sql(sql)

    nodes = [ledger.get_fork_point(RUN, step).node for step in (-1, 0, 1, 2)]
    sql_subject.run_sql("update pf_runs set stands = 'after default'")

    assert ledger.get_fork_point(RUN, 2).node is None
    sql_subject.run_sql("update pf_runs set stands = 'at'")
    assert nodes == [node_of(0), node_of(1), node_of(2), node_of(3)]
    assert replace(forked(ledger, 2), input_hash="").flow_hash == ""


@pytest.mark.parametrize("step", [True, "1", 1.0, None])
def test_a_step_that_is_no_number_is_refused(step: Any) -> None:
    with pytest.raises(DefinitionError, match="a step is a whole number"):
        checked_step(step)
