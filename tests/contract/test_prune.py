"""Pruning deletes what ended long ago, whole, and nothing that somebody may still need."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from pocoflow import codec
from pocoflow.db.prune import BATCH, BLOB_REST_S, Pruned, prune, prune_some, would_prune
from pocoflow.engine.history import Trail
from pocoflow.engine.ports import Ledger
from pocoflow.engine.timing import Retention
from tests.contract.builders import BOOM, LAST, RUN, new_run, record, take
from tests.contract.lives import live_through_everything
from tests.contract.subjects import SqlSubject
from tests.support.soundness import assert_sound

DAY_S = 86400.0
OLD = Retention(older_than_s=30 * DAY_S)
LARGE = "x" * 20_000


def grow_old(subject: SqlSubject, days: float, where: str = "true") -> None:
    """Let the runs have ended so long ago."""
    sqlite = subject.ledger.url.get_backend_name() == "sqlite"
    moment = (
        f"strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-{days} days')"
        if sqlite
        else f"now() - interval '{days} days'"
    )
    ended = f"update pf_runs set completed_at = {moment} where completed_at is not null and {where}"
    subject._execute(text(ended))
    subject._execute(text(f"update pf_blobs set used_at = used_at - {days * DAY_S}"))


def gone(subject: SqlSubject, retention: Retention = OLD) -> Pruned:
    return sum(prune(subject.ledger.url, retention), Pruned())


def runs_of(subject: SqlSubject) -> set[str]:
    with subject.ledger.connection() as connection:
        return set(connection.execute(text("select run_id from pf_runs")).scalars())


def complete(ledger: Ledger, run_id: str, data: dict[str, str] | None = None) -> None:
    trail = Trail()
    ledger.start(new_run(run_id, input=trail.next(codec.dump_values(data or {}), whole=True)))
    state = trail.next(codec.dump_values(data or {}), whole=True)
    ledger.commit(take(ledger, run_id=run_id), record(None, state=state))


def test_only_runs_that_have_ended_go_and_all_of_them(sql_subject: SqlSubject) -> None:
    live_through_everything(sql_subject)
    grow_old(sql_subject, 31)
    expected = would_prune(sql_subject.ledger.url, OLD)

    pruned = gone(sql_subject)

    assert runs_of(sql_subject) == {"lost", "queued", "running", "resumed", "paused", "fork"}
    assert pruned == expected
    assert (pruned.runs, pruned.steps) == (3, 3)
    assert_sound(sql_subject.ledger)


def test_failed_runs_can_be_kept(sql_subject: SqlSubject) -> None:
    live_through_everything(sql_subject)
    grow_old(sql_subject, 31)

    gone(sql_subject, Retention(older_than_s=30 * DAY_S, keep_failed=True))

    assert runs_of(sql_subject) >= {"failed"}
    assert not runs_of(sql_subject) & {"done", "cancelled"}


def test_what_ended_more_recently_stays(sql_subject: SqlSubject) -> None:
    live_through_everything(sql_subject)
    grow_old(sql_subject, 29)

    assert would_prune(sql_subject.ledger.url, OLD) == gone(sql_subject) == Pruned()


def test_a_blob_goes_with_the_last_run_that_needs_it(sql_subject: SqlSubject) -> None:
    ledger = sql_subject.ledger
    complete(ledger, "first", {"page": LARGE, "own": "y" * 20_000})
    complete(ledger, "second", {"page": LARGE})
    grow_old(sql_subject, 31, "run_id = 'first'")

    first = gone(sql_subject)
    state = ledger.get_saved("second")
    grow_old(sql_subject, 31)
    second = gone(sql_subject)

    assert (first.blobs, second.blobs) == (1, 1)
    assert state is not None
    assert Trail.load(state).data() == {"page": LARGE}
    assert sql_subject.count("pf_blobs") == sql_subject.count("pf_blob_uses") == 0


def test_a_blob_that_was_just_named_stays_for_a_while(sql_subject: SqlSubject) -> None:
    complete(sql_subject.ledger, RUN, {"page": LARGE})
    grow_old(sql_subject, 31)
    sql_subject._execute(text(f"update pf_blobs set used_at = used_at + {31 * DAY_S - BLOB_REST_S / 2}"))

    assert gone(sql_subject).blobs == 0
    assert sql_subject.count("pf_blobs") == 1


def test_a_run_that_is_resumed_meanwhile_stays_whole(sql_subject: SqlSubject) -> None:
    ledger = sql_subject.ledger
    for number in range(40):
        ledger.start(new_run(str(number)))
        ledger.fail(take(ledger, run_id=str(number)), BOOM)
    grow_old(sql_subject, 31)
    resumed: list[str] = []

    def resume() -> None:
        for number in range(0, 40, 2):
            try:
                ledger.resume(str(number), home=None)
            except LookupError:
                continue
            resumed.append(str(number))

    thread = threading.Thread(target=resume)
    thread.start()
    gone(sql_subject)
    thread.join()
    gone(sql_subject)

    assert runs_of(sql_subject) == set(resumed)
    assert_sound(ledger)


def test_runs_that_keep_a_large_value_while_it_is_pruned_have_it(sql_subject: SqlSubject) -> None:
    ledger, stop = sql_subject.ledger, threading.Event()
    complete(ledger, "old", {"page": LARGE})
    grow_old(sql_subject, 31)

    def prune_on() -> None:
        while not stop.is_set():
            gone(sql_subject)

    thread = threading.Thread(target=prune_on)
    thread.start()
    for number in range(30):
        complete(ledger, str(number), {"page": LARGE})
    stop.set()
    thread.join()

    assert runs_of(sql_subject) == {str(number) for number in range(30)}
    assert_sound(ledger)


def test_many_runs_go_in_batches(sql_subject: SqlSubject) -> None:
    ledger = sql_subject.ledger
    for number in range(BATCH + 5):
        ledger.start(new_run(str(number)))
        ledger.commit(take(ledger, run_id=str(number)), LAST)
    grow_old(sql_subject, 31)

    batches = [prune_some(sql_subject.ledger.url, OLD) for _ in range(3)]

    assert [(gone.runs, more) for gone, more in batches] == [(BATCH, True), (5, False), (0, False)]


@pytest.mark.parametrize("sql_subject", ["sqlite"], indirect=True)
def test_an_sqlite_file_shrinks(sql_subject: SqlSubject) -> None:
    ledger, path = sql_subject.ledger, sql_subject.file
    for number in range(50):
        complete(ledger, str(number), {"page": f"{number}" * 40_000})
    grow_old(sql_subject, 31)
    sql_subject.flush()
    before = path.stat().st_size

    gone(sql_subject)

    assert path.stat().st_size < before / 5


def test_a_ledger_forgets_what_has_ended_and_is_old_enough(ledger: Ledger) -> None:
    for run_id in ("ended", "failed", "alive"):
        ledger.start(new_run(run_id))
    ledger.cancel("ended")
    ledger.fail(take(ledger, run_id="failed"), BOOM)

    ledger.prune(Retention(older_than_s=DAY_S))
    known = [run_id for run_id in ("ended", "failed", "alive") if ledger.get_run(run_id)]
    # Of a moment to come, everything that has ended is older.
    ledger.prune(Retention(older_than_s=-DAY_S, keep_failed=True))
    left = [run_id for run_id in ("ended", "failed", "alive") if ledger.get_run(run_id)]

    assert (known, left) == (["ended", "failed", "alive"], ["failed", "alive"])
    assert ledger.get_events("ended") == []
