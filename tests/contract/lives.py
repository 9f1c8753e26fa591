"""A database in which runs have seen everything, and one run that somebody wrote by hand."""

from __future__ import annotations

from dataclasses import replace

from pocoflow import Store, WorkflowDB
from tests.contract.builders import BOOM, LAST, new_run, record, take
from tests.contract.subjects import TIMING, SqlSubject


def live_through_everything(subject: SqlSubject) -> None:
    """Leave a run in every status, and some with more behind them: a lost worker, a retry, a resume."""
    ledger, boom = subject.ledger, replace(BOOM, elapsed_s=0.25)
    ledger.start(new_run("lost"))
    take(ledger, run_id="lost")
    subject.pass_time(TIMING.lease_s + 1)
    ledger.sweep()
    for run_id in ("done", "queued", "running", "cancelled", "failed", "resumed"):
        ledger.start(new_run(run_id))
    ledger.start(new_run("paused", home="here"))
    ledger.commit(take(ledger, run_id="done"), record())
    ledger.commit(take(ledger, 1, run_id="done"), LAST)
    ledger.commit(take(ledger, run_id="queued"), record())
    take(ledger, run_id="running")
    ledger.cancel("cancelled")
    ledger.commit(take(ledger, run_id="failed"), record())
    ledger.fail(first := take(ledger, 1, run_id="failed"), boom, retry_in_s=0.0, hold=True)
    ledger.fail(replace(first, attempt=2), boom)
    ledger.fail(take(ledger, run_id="resumed"), boom)
    ledger.resume("resumed", home=None)
    ledger.interrupt("here")
    ledger.start(new_run("fork", parent_run_id="done", parent_step=0))


def write_by_hand(subject: SqlSubject) -> None:
    """Add a run whose writer does not care for promises of ours."""
    database = WorkflowDB(subject.ledger.url.render_as_string(hide_password=False))
    database.create_run("mine")
    database.save_checkpoint("mine", 7, "here", Store({}))
    database.save_event("mine", "node_end", step=3)
    database.update_run("mine", status="failed", total_steps=5)
