"""Each promise that a check knows is missed when it is broken, and no other."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, text

from pocoflow.db.fsck import INVARIANTS, Report, Violation, check, examine
from pocoflow.db.schema import events
from tests.contract.lives import live_through_everything, write_by_hand
from tests.contract.subjects import TIMING, SqlSubject

MAX_CRASHES = TIMING.max_crashes
EVENT = "insert into pf_events (run_id, step, attempt, node_name, event, ts) values "
WHEN = "'2026-01-01T00:00:00.000+00:00'"

# A promise and a few ways to break it by hand in the history of `live_through_everything`.
BREACHES = [
    ("I1 I2: a run has", "update pf_runs set total_steps = 3 where run_id = 'done'"),
    ("I1 I2: a run has", "update pf_runs set total_steps = 1 where run_id = 'done'"),
    ("I2: history belongs", f"{EVENT} ('nobody', null, null, 'A', 'flow_start', {WHEN})"),
    ("I2: history belongs", "delete from pf_runs where run_id = 'done'"),
    ("I2: a checkpoint has one", "update pf_checkpoints set node_name = 'C' where run_id = 'queued'"),
    (
        "I2: a node_end has its",
        f"{EVENT} ('queued', 1, 1, 'B', 'node_start', {WHEN}), ('queued', 1, 1, 'B', 'node_end', {WHEN})",
    ),
    ("I2: a node_end comes", "delete from pf_events where run_id = 'queued' and event = 'node_start'"),
    ("I2: right after a node_start", f"{EVENT} ('queued', 1, 1, 'B', 'node_start', {WHEN})"),
    ("I2: a checkpoint builds", "update pf_checkpoints set depth = 1 where run_id = 'queued'"),
    ("I2: a checkpoint builds", "update pf_checkpoints set depth = 2 where run_id = 'done' and step = 1"),
    ("I2: the blobs", "insert into pf_blob_uses (run_id, digest) values ('done', 'ab12')"),
    ("I2: a run that names", "update pf_checkpoints set blobs = 'ab12' where run_id = 'done'"),
    ("I2: a run that names", "update pf_runs set input_blobs = 'ab12' where run_id = 'queued'"),
    ("I2: each entry", "update pf_events set step = 7 where run_id = 'done' and event = 'flow_end'"),
    (
        "I3: a later checkpoint",
        "update pf_checkpoints set epoch = 2 + step where run_id = 'done'",
    ),
    (
        "I3: a later checkpoint",
        "update pf_checkpoints set epoch = 2 - step where run_id = 'done'",
    ),
    ("I3: a running step", "update pf_runs set owner = null where run_id = 'running'"),
    ("I3: a running step", "update pf_runs set started_at = null where run_id = 'running'"),
    ("I4: a run that completed", f"{EVENT} ('done', 2, 1, 'B', 'step_lost', {WHEN})"),
    ("I4: a run that completed", f"{EVENT} ('cancelled', 0, 1, 'A', 'step_lost', {WHEN})"),
    ("I4: a run that failed", f"{EVENT} ('failed', 1, 3, 'B', 'step_lost', {WHEN})"),
    ("I4: a run that failed", f"{EVENT} ('paused', 0, 1, 'A', 'step_lost', {WHEN})"),
    ("I4: each resume", "update pf_runs set epoch = 0 where run_id = 'resumed'"),
    ("I4: the last start", "delete from pf_events where run_id = 'paused' and event = 'run_interrupted'"),
    ("I4: the last start", "delete from pf_events where run_id = 'failed' and event = 'flow_end'"),
    ("I4: the last start", "delete from pf_events where run_id = 'resumed' and event = 'run_resumed'"),
    ("I4: a run that is paused", "update pf_runs set owner = 'host:1' where run_id = 'paused'"),
    ("I4: a run that is paused", "update pf_runs set owner = 'host:1' where run_id = 'done'"),
    ("I4: only a run that has ended", "update pf_runs set completed_at = null where run_id = 'done'"),
    ("I4: only a run that has ended", "update pf_runs set completed_at = created_at where run_id = 'queued'"),
    ("I4: a failed run says why", "update pf_runs set error_msg = null where run_id = 'failed'"),
    ("I4: a failed run says why", "update pf_runs set error_type = 'KeyError' where run_id = 'done'"),
    ("I5: a sweep looks", "update pf_runs set wake_at = null where run_id = 'queued'"),
    ("I5: a sweep looks", "update pf_runs set wake_at = 1.0 where run_id = 'done'"),
    ("I5: a sweep looks", "update pf_runs set wake_at = 1e301 where run_id = 'running'"),
    ("I5: nothing waits", "update pf_runs set due_at = wake_at + 1 where run_id = 'queued'"),
    ("I6: a step loses", "update pf_runs set crashes = 1 where run_id = 'running'"),
    (
        "I6: a step loses",
        f"update pf_runs set crashes = {MAX_CRASHES + 2} where run_id = 'lost'",
    ),
    ("I6: a step loses", "update pf_runs set attempt = 0 where run_id = 'lost'"),
    ("I6: each try", "update pf_events set attempt = 1 where run_id = 'failed' and step = 1 and attempt = 2"),
    ("I7: only a running", "update pf_runs set want = 'cancel' where run_id = 'queued'"),
    ("I9: a history begins", f"{EVENT} ('queued', null, null, 'A', 'flow_start', {WHEN})"),
    ("I9: a fork", "update pf_runs set parent_step = null where run_id = 'fork'"),
    ("I9: a fork", "update pf_runs set parent_step = -2 where run_id = 'fork'"),
    ("I9: a fork", "update pf_runs set parent_step = 2 where run_id = 'fork'"),
    ("I9: a fork", "update pf_runs set parent_run_id = 'fork' where run_id = 'fork'"),
    ("I9: a fork", "update pf_runs set parent_run_id = 'done', parent_step = 0 where run_id = 'queued'"),
    ("I9: a fork", "update pf_events set action = null where run_id = 'fork'"),
    ("I9: a run keeps", "update pf_runs set input = null where run_id = 'queued'"),
    ("I9: a run keeps", "update pf_runs set input_hash = null where run_id = 'done'"),
]


def violations(subject: SqlSubject) -> list[Violation]:
    with subject.ledger.connection() as connection:
        return check(connection, max_crashes=MAX_CRASHES)


def test_a_history_that_has_seen_everything_keeps_all_promises(sql_subject: SqlSubject) -> None:
    live_through_everything(sql_subject)

    assert violations(sql_subject) == []


@pytest.mark.parametrize(("promise", "breach"), BREACHES)
def test_a_broken_promise_is_reported_with_its_run_and_no_other(
    sql_subject: SqlSubject, promise: str, breach: str
) -> None:
    live_through_everything(sql_subject)
    sql_subject._execute(text(breach))

    (found,) = violations(sql_subject)

    assert found.promise.startswith(promise)
    assert f"'{found.run_id}'" in breach


@pytest.mark.parametrize("promise", INVARIANTS)
def test_there_is_a_breach_for_each_promise(promise: str) -> None:
    assert [begin for begin, _ in BREACHES if promise.startswith(begin)]


def test_each_of_several_runs_is_reported_once(sql_subject: SqlSubject) -> None:
    live_through_everything(sql_subject)
    sql_subject._execute(text("delete from pf_runs where run_id in ('done', 'failed')"))

    promise = "I2: history belongs to a run"
    assert violations(sql_subject) == [Violation(promise, "done"), Violation(promise, "failed")]


def test_a_report_counts_what_it_looked_at_and_leaves_out_what_was_written_by_hand(
    sql_subject: SqlSubject,
) -> None:
    live_through_everything(sql_subject)
    with sql_subject.ledger.connection() as connection:
        entries = connection.execute(select(func.count()).select_from(events)).scalar()
    write_by_hand(sql_subject)

    report = examine(sql_subject.ledger.url, max_crashes=MAX_CRASHES)

    assert report == Report(runs=9, by_hand=1, steps=4, events=entries, violations=[])
