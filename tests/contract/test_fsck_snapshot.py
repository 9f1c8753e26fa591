"""A check sees one moment of a database that others are writing to, changes nothing, and is not slow."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from pocoflow import DatabaseError
from pocoflow.db.connect import database_url as parsed
from pocoflow.db.connect import snapshot
from pocoflow.db.fsck import INVARIANTS, examine
from pocoflow.db.schema import checkpoints, events, runs
from tests.contract.builders import HELD, LAST, new_run, record, take
from tests.contract.lives import live_through_everything
from tests.contract.subjects import TIMING, SqlSubject

MAX_CRASHES = TIMING.max_crashes


def test_a_check_finds_nothing_wrong_with_runs_in_flight(sql_subject: SqlSubject) -> None:
    live_through_everything(sql_subject)
    stop, reports = threading.Event(), []
    workers = [threading.Thread(target=keep_busy, args=(sql_subject, name, stop)) for name in "xyz"]
    for worker in workers:
        worker.start()

    try:
        while len(reports) < 4 or reports[-1].steps < 300:
            reports.append(examine(sql_subject.ledger.url, max_crashes=MAX_CRASHES))
    finally:
        stop.set()
        for worker in workers:
            worker.join()

    assert [report.violations for report in reports if report.violations] == []


def keep_busy(subject: SqlSubject, name: str, stop: threading.Event) -> None:
    """Run runs of a few steps, one after the other, until told to stop."""
    number = 0
    while not stop.is_set():
        run_id, number = f"{name}{number}", number + 1
        subject.ledger.start(new_run(run_id))
        for step in range(3):
            subject.ledger.commit(take(subject.ledger, step, run_id=run_id), LAST if step == 2 else record())


def test_a_snapshot_sees_one_moment(sql_subject: SqlSubject) -> None:
    live_through_everything(sql_subject)
    with snapshot(sql_subject.ledger.url) as connection:
        count = text("select count(*) from pf_runs")
        before = connection.execute(count).scalar()
        sql_subject.ledger.start(new_run("later"))

        assert connection.execute(count).scalar() == before


def test_a_snapshot_changes_nothing(sql_subject: SqlSubject) -> None:
    live_through_everything(sql_subject)

    with (
        pytest.raises(DatabaseError) as caught,
        snapshot(sql_subject.ledger.url) as connection,
    ):
        connection.execute(text("update pf_runs set total_steps = 99"))

    assert isinstance(caught.value.__cause__, DBAPIError)
    assert sql_subject.ledger.get_run("done")["total_steps"] == 2


def test_a_check_of_a_file_leaves_nothing_beside_it(sqlite_url: str, tmp_path: Path) -> None:
    subject = SqlSubject(sqlite_url)
    live_through_everything(subject)
    subject.close()
    assert [path.name for path in tmp_path.iterdir()] == ["pocoflow.db"]

    examine(parsed(sqlite_url), max_crashes=MAX_CRASHES)

    assert [path.name for path in tmp_path.iterdir()] == ["pocoflow.db"]


def test_a_file_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    file = tmp_path / "no" / "runs.db"

    with pytest.raises(DatabaseError, match=f"there is no database sqlite:///{file}"):
        examine(parsed(file), max_crashes=MAX_CRASHES)

    assert list(tmp_path.iterdir()) == []


def test_a_database_without_tables_is_refused_and_left_empty(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "pocoflow.db").touch()

    with pytest.raises(DatabaseError, match="has no tables of PocoFlow"):
        examine(parsed(database_url), max_crashes=MAX_CRASHES)

    engine = create_engine(parsed(database_url))
    with engine.connect() as connection:
        found = text("select count(*) from sqlite_master")
        if engine.dialect.name == "postgresql":
            found = text("select count(*) from pg_tables where tablename like 'pf%'")
        assert connection.execute(found).scalar() == 0
    engine.dispose()


def test_a_file_with_tables_of_somebody_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    with sqlite3.connect(file) as old:
        old.execute("create table pf_runs (run_id text primary key, status text)")

    with pytest.raises(DatabaseError, match="that no release of PocoFlow made"):
        examine(parsed(file), max_crashes=MAX_CRASHES)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database " * 100)

    with pytest.raises(DatabaseError, match=rf"{file} failed: file is not a database"):
        examine(parsed(file), max_crashes=MAX_CRASHES)


def grow_wide(subject: SqlSubject, size: int) -> None:
    """Many runs of two steps."""
    live_through_everything(subject)
    for table in (runs, checkpoints, events):
        others = [column.name for column in table.c if column.name not in ("id", "run_id")]
        columns = ", ".join(others)
        order = "" if table is runs else ", id"
        subject._execute(
            text(
                f"insert into {table.name} (run_id, {columns}) "
                "with recursive copies(n) as (select 1 union all select n + 1 from copies where n < :size) "
                f"select 'copy ' || n, {columns} from {table.name} cross join copies "
                f"where run_id = 'done' order by n{order}"
            ).bindparams(size=size)
        )


def grow_long(subject: SqlSubject, size: int) -> None:
    """One run of many steps."""
    subject.ledger.start(new_run())
    position = take(subject.ledger)
    for step in range(size):
        subject.ledger.commit(replace(position, step=step), HELD)


def work(subject: SqlSubject) -> dict[str, float]:
    """What each query costs: steps of SQLite's machine, or what the planner of Postgres expects."""
    queries = {promise: query.replace(":max_crashes", "3") for promise, query in INVARIANTS.items()}
    with subject.ledger.connection() as connection:
        measure = work_in_sqlite if connection.dialect.name == "sqlite" else work_in_postgres
        return {promise: measure(connection, query) for promise, query in queries.items()}


def work_in_sqlite(connection: Connection, query: str) -> float:
    ticks: list[None] = []
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: ticks.append(None), 100)
    connection.execute(text(query)).all()
    driver.set_progress_handler(None, 0)
    return len(ticks)


def work_in_postgres(connection: Connection, query: str) -> float:
    connection.execute(text("analyze"))  # which it does by itself from time to time; SQLite never does
    plan = connection.execute(text(f"explain (format json) {query}")).scalar()
    cost: float = plan[0]["Plan"]["Total Cost"]
    return cost


@pytest.mark.parametrize("grow", [grow_wide, grow_long])
def test_the_work_grows_with_the_history_and_not_with_its_square(
    sql_subject: SqlSubject, grow: Callable[[SqlSubject, int], None]
) -> None:
    grow(sql_subject, 300)
    little = work(sql_subject)
    sql_subject.wipe()
    grow(sql_subject, 1200)

    much = work(sql_subject)

    growth = {promise: much[promise] / max(little[promise], 100) for promise in INVARIANTS}
    assert {promise: times for promise, times in growth.items() if times > 6} == {}
    assert examine(sql_subject.ledger.url, max_crashes=MAX_CRASHES).violations == []
