"""A disk that is full today has room tomorrow: what a step has done is kept until then."""

from __future__ import annotations

from pocoflow.db.ledger import SqlLedger
from pocoflow.engine.records import Status
from tests.contract.builders import record, started
from tests.contract.subjects import SqlSubject


def test_a_commit_waits_for_room_and_counts_once(sqlite_url: str) -> None:
    subject = SqlSubject(sqlite_url, sleep=lambda seconds: set_room(subject.ledger, pages=1 << 30))
    position = started(subject.ledger)
    set_room(subject.ledger, pages=1)

    status = subject.ledger.commit(position, record(state='{"n":"%s"}' % ("x" * 100_000)))

    assert status is Status.QUEUED
    subject.close()


def set_room(ledger: SqlLedger, *, pages: int) -> None:
    """Let the file have so many pages, or as many as it has."""
    with ledger.connection() as connection:
        connection.exec_driver_sql(f"pragma max_page_count={pages}")
