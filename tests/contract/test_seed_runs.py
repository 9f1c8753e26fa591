"""What the runs that PocoFlow 0.2.1 left behind have become when this version has opened their file."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pocoflow import CheckpointNotFoundError, WorkflowDB
from pocoflow.db.connect import database_url
from pocoflow.db.fsck import examine
from pocoflow.db.sqlite import SqliteLedger
from pocoflow.engine.records import Status
from pocoflow.errors import InvalidTransitionError
from tests.contract.subjects import TIMING
from tests.support.seed_flows import TROUBLES

# Run to status, steps, node, and how it stands to the node.
BECAME = {
    "completed": ("completed", 3, "Third", None),
    "failed": ("failed", 1, "Second", "at"),
    "failed-at-first": ("failed", 0, "First", None),
    "lost-value": ("failed", 1, "Second", "at"),
    "exceeded": ("paused", 1, "First", "after go"),
    "cancelled": ("cancelled", 1, "First", None),
    "gone-on": ("completed", 2, "Third", None),
    "gone-on-and-killed": ("paused", 1, "Third", "at"),
    "gone-on-and-killed-at-once": ("failed", 0, "Second", None),
    "killed-in-first": ("failed", 0, "First", None),
    "killed-in-second": ("paused", 1, "Second", "at"),
    "killed-in-third": ("paused", 2, "Third", "at"),
    "killed-before-any-event": ("running", 0, None, None),
    "killed-before-checkpoint": ("paused", 1, "Second", "at"),
    "killed-after-checkpoint": ("paused", 2, "Second", "after go"),
    "killed-between-steps": ("paused", 1, "First", "after go"),
    "killed-before-its-end": ("paused", 3, "Third", "after go"),
    "killed-at-its-end": ("completed", 3, "Third", None),
    "killed-while-failing": ("failed", 1, "Second", "at"),
    "twins": ("paused", 1, "Second", "at"),
    "routed": ("paused", 1, "First", "after go"),
    "by-hand": ("paused", 1, None, None),
}


@pytest.fixture
def database(seed_file: Path) -> WorkflowDB:
    return WorkflowDB(seed_file)


@pytest.fixture
def old(seed_original: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(seed_original)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def row_of(database: WorkflowDB, run_id: str) -> Any:
    row = database.get_run(run_id)
    assert row is not None
    return row


def ledger_of(file: Path) -> SqliteLedger:
    return SqliteLedger(database_url(file), TIMING, sleep=lambda seconds: None)


def test_every_run_is_there_and_stands_where_its_history_says(database: WorkflowDB) -> None:
    names = ("status", "total_steps", "current_node", "stands")

    became = {row["run_id"]: tuple(row[name] for name in names) for row in database.list_runs()}

    assert became == BECAME
    assert set(BECAME) == set(TROUBLES) - {"deleted"}


def test_nothing_that_has_ended_or_waits_is_picked_up_by_itself(seed_file: Path) -> None:
    assert ledger_of(seed_file).sweep() == []
    assert ledger_of(seed_file).sweep(home="here") == []


def test_the_check_finds_nothing_wrong_before_and_after_a_resume(seed_file: Path) -> None:
    WorkflowDB(seed_file)
    before = examine(database_url(seed_file), max_crashes=3)

    ledger_of(seed_file).resume("killed-in-second", home=None)
    after = examine(database_url(seed_file), max_crashes=3)

    assert (before.violations, after.violations) == ([], [])
    assert (before.runs, before.by_hand) == (0, len(BECAME))


def test_times_and_errors_are_those_that_were_kept(database: WorkflowDB, old: sqlite3.Connection) -> None:
    known = old.execute("select * from pf_runs where run_id = 'failed'").fetchone()

    row = row_of(database, "failed")

    assert row["created_at"] == row["started_at"] == known["started_at"]
    assert row["completed_at"] == known["completed_at"]
    assert (row["error_type"], row["error_msg"]) == ("Exception", "Second is out of luck")
    assert row_of(database, "cancelled")["error_msg"] is None
    assert row_of(database, "gone-on")["error_msg"] is None


def test_a_run_that_can_go_on_says_so_in_its_row_and_in_its_history(database: WorkflowDB) -> None:
    row, last = row_of(database, "killed-in-second"), database.get_events("killed-in-second")[-1]

    assert (row["error_type"], row["completed_at"]) == ("RunInterruptedError", None)
    assert "left it unfinished" in row["error_msg"]
    assert (last["event"], last["step"], last["error_msg"]) == ("run_interrupted", 1, row["error_msg"])


def test_history_is_what_it_was(database: WorkflowDB, old: sqlite3.Connection) -> None:
    fields = ("id", "step", "node_name", "event", "action", "elapsed_ms", "error_msg", "ts")
    known = old.execute("select * from pf_events where run_id = 'gone-on' order by id").fetchall()

    events: list[Any] = [*database.get_events("gone-on")]

    assert [tuple(event[name] for name in fields) for event in events] == [
        tuple(event[name] for name in fields) for event in known
    ]


@pytest.mark.parametrize("run_id", sorted(set(BECAME) - {"gone-on-and-killed"}))
def test_every_checkpoint_is_there_with_the_action_that_followed(
    database: WorkflowDB, old: sqlite3.Connection, run_id: str
) -> None:
    query = "select step, node_name, created_at from pf_checkpoints where run_id = ? order by step"
    known = [tuple(row) for row in old.execute(query, [run_id])]

    found = database.get_checkpoints(run_id)

    assert [(row["step"], row["node_name"], row["created_at"]) for row in found] == known
    assert {row["action"] for row in found} <= ({None} if run_id == "by-hand" else {"go"})


def test_a_checkpoint_that_would_stand_in_the_way_of_a_resume_is_only_in_the_copy(
    database: WorkflowDB, old: sqlite3.Connection
) -> None:
    query = "select node_name from pf_checkpoints where run_id = 'gone-on-and-killed' order by step"
    known = [row[0] for row in old.execute(query)]

    found = [row["node_name"] for row in database.get_checkpoints("gone-on-and-killed")]

    assert (known, found) == (["Second", "Second"], ["Second"])
    assert database.load_checkpoint("gone-on-and-killed", 0)["again"] is True


def test_values_are_read_as_0_2_wrote_them_also_where_they_look_like_a_tag(database: WorkflowDB) -> None:
    data = database.load_checkpoint("completed", 2)
    lost = database.load_checkpoint("lost-value", 0)

    assert data["tag"] == {"$t": "tuple", "v": [1]}
    assert math.isnan(data["nan"])
    assert data["done"] == ["First", "Second", "Third"]
    assert (lost["client"], lost["kept"]) == ("<non-serialisable: object>", "as it is")


def test_history_without_a_run_is_left_behind(database: WorkflowDB) -> None:
    assert database.get_run("deleted") is None
    assert database.get_events("deleted") == []
    with pytest.raises(CheckpointNotFoundError):
        database.load_checkpoint("deleted", 0)


@pytest.mark.parametrize(
    "run_id", ["failed-at-first", "killed-in-first", "gone-on-and-killed-at-once"], ids=str
)
def test_a_run_without_a_store_to_go_on_from_cannot_be_resumed(seed_file: Path, run_id: str) -> None:
    ledger = ledger_of(seed_file)

    with pytest.raises(InvalidTransitionError, match="kept no input: start it again"):
        ledger.resume(run_id, home=None)

    assert row_of(WorkflowDB(seed_file), run_id)["status"] == Status.FAILED


def test_rows_that_no_program_of_0_2_writes_do_not_stop_the_upgrade(seed_file: Path) -> None:
    with closing(sqlite3.connect(seed_file)) as changed, changed:
        changed.execute("insert into pf_runs (run_id, started_at) values (null, '2025')")
        changed.execute("update pf_checkpoints set store_json = '{\"$t\":' where run_id = 'completed'")
        changed.execute("delete from pf_events where run_id = 'exceeded' and event = 'node_end'")
        changed.execute("update pf_runs set total_steps = null, started_at = 'then' where run_id = 'failed'")
        changed.execute("update pf_runs set status = 'queued' where run_id = 'by-hand'")
        changed.execute("delete from pf_checkpoints where run_id = 'killed-in-third' and step = 0")

    database = WorkflowDB(seed_file)

    rows: dict[str, Any] = {row["run_id"]: row for row in database.list_runs()}
    assert set(rows) == set(BECAME)
    assert (rows["exceeded"]["status"], rows["exceeded"]["stands"]) == ("failed", None)
    assert (rows["failed"]["total_steps"], rows["failed"]["created_at"]) == (1, "then")
    assert rows["by-hand"]["status"] == "queued"
    assert (rows["killed-in-third"]["total_steps"], rows["killed-in-third"]["stands"]) == (2, "at")
