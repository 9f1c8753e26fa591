"""A run goes into a file and back, whole or not at all, and nothing that is not one comes in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pocoflow import (
    DatabaseError,
    RunConflictError,
    RunFileError,
    RunNotFoundError,
    WorkflowDB,
    codec,
)
from pocoflow.cli.main import cli
from pocoflow.engine.fork import fork_of
from pocoflow.engine.history import MAX_DEPTH, Trail
from tests.contract.builders import LAST, RUN, facts, history, new_run, record, take
from tests.contract.lives import live_through_everything, write_by_hand
from tests.contract.subjects import SqlSubject
from tests.contract.test_ledger_fork import STEPS, chat, lived
from tests.support.soundness import assert_sound

HOW_IT_RUNS = ("owner", "home", "want")
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def there(tmp_path: Path) -> Iterator[SqlSubject]:
    """Another database, to import into."""
    subject = SqlSubject(f"sqlite:///{tmp_path / 'there.db'}")
    yield subject
    assert_sound(subject.ledger)
    subject.close()


def database(subject: SqlSubject) -> WorkflowDB:
    return WorkflowDB(subject.ledger.url.render_as_string(hide_password=False))


def shown(subject: SqlSubject, run_id: str) -> dict[str, Any]:
    row: Any = subject.ledger.get_run(run_id)
    return {name: value for name, value in row.items() if name not in ("home", "dispatches")}


def completed(subject: SqlSubject) -> str:
    """Leave a run that has ended after many steps, and return its export."""
    lived(subject.ledger)
    made = Trail().next(codec.dump_values(chat(3)), whole=True)
    subject.ledger.commit(take(subject.ledger, STEPS), record(None, state=made))
    return database(subject).export_run(RUN)


def changed(text: str, edit: Edit, *, keep_checksum: bool = False) -> str:
    """The file after somebody has edited it, with a checksum that fits unless it is to be kept."""
    data = json.loads(text)
    edit(data)
    content = {name: data.get(name) for name in ("run", "checkpoints", "events", "blobs")}
    if not keep_checksum:
        compact = json.dumps(content, sort_keys=True, separators=(",", ":"))
        data["sha256"] = sha256(compact.encode()).hexdigest()
    return json.dumps(data)


def test_an_imported_run_is_the_one_that_was_exported(sql_subject: SqlSubject, there: SqlSubject) -> None:
    text = completed(sql_subject)

    run_id = database(there).import_run(text)

    assert run_id == RUN
    assert shown(there, RUN) == shown(sql_subject, RUN)
    assert history(there.ledger) == history(sql_subject.ledger)
    assert database(there).export_run(RUN) == text
    for step in (-1, 0, 1, MAX_DEPTH, STEPS - 1, STEPS):
        before, after = (database(one).load_checkpoint(RUN, step) for one in (sql_subject, there))
        assert after.as_dict() == before.as_dict()


def test_it_goes_back_into_its_own_database_under_another_name(sql_subject: SqlSubject) -> None:
    text = completed(sql_subject)
    blobs = sql_subject.count("pf_blobs")

    run_id = database(sql_subject).import_run(text, new_id="copy")

    assert run_id == "copy"
    assert sql_subject.count("pf_blobs") == blobs
    assert history(sql_subject.ledger, "copy") == history(sql_subject.ledger)
    assert database(sql_subject).load_checkpoint("copy", 7).as_dict() == chat(8)
    assert_sound(sql_subject.ledger)


def test_runs_in_every_status_can_go_and_none_is_at_work_afterwards(
    sql_subject: SqlSubject, there: SqlSubject
) -> None:
    live_through_everything(sql_subject)
    write_by_hand(sql_subject)
    source, target = database(sql_subject), database(there)

    for run in source.list_runs():
        target.import_run(source.export_run(run["run_id"]))

    statuses = {run["run_id"]: run["status"] for run in target.list_runs()}
    expected = {run["run_id"]: run["status"] for run in source.list_runs()}
    live = {run_id for run_id, status in expected.items() if status in ("queued", "running")}
    assert statuses == expected | dict.fromkeys(live, "paused")
    assert live == {"lost", "queued", "running", "resumed", "fork"}
    there.pass_time(1e6)
    assert there.ledger.sweep() == []
    for run_id in statuses:
        claims = [there.ledger.claim(run_id, step, owner="host:1:x") for step in range(3)]
        assert claims == [None, None, None]
        assert facts(there.ledger, *HOW_IT_RUNS, run_id=run_id) == (None, None, None)


def test_a_run_that_was_at_work_says_so_and_goes_on_when_it_is_resumed(
    sql_subject: SqlSubject, there: SqlSubject
) -> None:
    lived(sql_subject.ledger, 3)
    take(sql_subject.ledger, 3)
    database(there).import_run(database(sql_subject).export_run(RUN))

    paused = facts(there.ledger, "status", "error_type")
    hint = there.ledger.resume(RUN, home=None)

    assert paused == ("paused", "RunInterruptedError")
    assert hint is not None
    assert take(there.ledger, 3).node == "node 3"
    assert [entry.event for entry in history(there.ledger)[-2:]] == ["run_interrupted", "run_resumed"]


def test_an_imported_fork_can_be_forked_where_its_parent_is_not(
    sql_subject: SqlSubject, there: SqlSubject
) -> None:
    lived(sql_subject.ledger, 2)
    point = sql_subject.ledger.get_fork_point(RUN, 1)
    sql_subject.ledger.start(fork_of(point, sql_subject.ledger, updates=None, run_id="fork", home=None))

    database(there).import_run(database(sql_subject).export_run("fork"))
    point = there.ledger.get_fork_point("fork", -1)
    there.ledger.start(fork_of(point, there.ledger, updates=None, run_id="next", home=None))

    assert facts(there.ledger, "parent_run_id", "parent_step", run_id="fork") == (RUN, 1)
    assert database(there).load_checkpoint("next", -1).as_dict() == chat(2)


def test_a_name_that_is_taken_is_refused_and_the_run_there_stays(sql_subject: SqlSubject) -> None:
    text = completed(sql_subject)
    sql_subject.wipe()
    sql_subject.ledger.start(new_run())
    before = shown(sql_subject, RUN)

    with pytest.raises(RunConflictError, match="already"):
        database(sql_subject).import_run(text)

    assert shown(sql_subject, RUN) == before
    assert [sql_subject.count(table) for table in ("pf_runs", "pf_checkpoints", "pf_blobs")] == [1, 0, 0]


def test_an_unknown_run_cannot_be_exported(sql_subject: SqlSubject) -> None:
    with pytest.raises(RunNotFoundError, match="nobody"):
        database(sql_subject).export_run("nobody")


def test_a_file_may_be_laid_out_otherwise_but_not_changed(there: SqlSubject) -> None:
    text = completed(there)

    with pytest.raises(RunFileError, match="checksum"):
        database(there).import_run(
            changed(text, lambda data: data["run"].update(flow_name="x"), keep_checksum=True), new_id="copy"
        )

    same = changed(text, lambda data: None, keep_checksum=True)
    assert database(there).import_run(same, new_id="copy") == "copy"


BAD_FILES: list[tuple[str, Edit]] = [
    ("no export", lambda data: data.pop("format")),
    ("version 2, and here version 1", lambda data: data.update(version=2)),
    ("run of the export must be an object", lambda data: data.update(run=None)),
    ("checkpoints of the export must be a list", lambda data: data.update(checkpoints={})),
    ("events.3. of the export must be an object", lambda data: data["events"].insert(3, 7)),
    ("run.run_id of the export must be a name", lambda data: data["run"].update(run_id="a\nb")),
    ("run.flow_name of the export is missing", lambda data: data["run"].pop("flow_name")),
    ("run.status of the export must be a text", lambda data: data["run"].update(status=["x"])),
    ("cannot be written to a database", lambda data: data["run"].update(status="done")),
    ("has 'wake_at', which is not known", lambda data: data["run"].update(wake_at=1.0)),
    ("run.total_steps of the export must be a whole", lambda data: data["run"].update(total_steps=True)),
    ("run.attempt of the export must be a whole", lambda data: data["run"].update(attempt=2**31)),
    ("run.due_at of the export must be a number", lambda data: data["run"].update(due_at="0")),
    ("run.created_at of the export must be a moment", lambda data: data["run"].update(created_at="today")),
    ("run.error_msg of the export must be a text that", lambda data: data["run"].update(error_msg="\0")),
    ("events.0..error_msg", lambda data: data["events"][0].update(error_msg="\ud800")),
    ("must be a list of ASCII texts", lambda data: data["run"].update(input="turn = 1")),
    ("must be a list of ASCII texts", lambda data: data["run"].update(input=["ü = 1"])),
    ("cannot be read", lambda data: data["run"].update(input=["turn is 1"])),
    ("cannot be read", lambda data: data["checkpoints"][5].update(store_json=["turn = {"])),
    ("cannot be read", lambda data: data["checkpoints"][5].update(store_json=["messages + 7"])),
    ("cannot be read", lambda data: data["checkpoints"][5].update(store_json=["nothing + [7]"])),
    ("cannot be read", lambda data: data["checkpoints"][5].update(store_json=['{"a": {"$t": "os.system"}}'])),
    ("cannot be read", lambda data: data["checkpoints"][5].update(depth=6)),
    ("cannot be read", lambda data: data.update(blobs={})),
    ("is not what its digest says", lambda data: data["blobs"].update(dict.fromkeys(data["blobs"], "[]"))),
    ("which no checkpoint names", lambda data: data["blobs"].update({sha256(b"1").hexdigest(): "1"})),
    ("cannot be read", lambda data: data["checkpoints"].pop(4)),
    ("breaks a promise: I", lambda data: data["checkpoints"].pop()),
    ("cannot be written", lambda data: data["checkpoints"][5].update(step=4)),
    ("breaks a promise: I", lambda data: data["run"].update(total_steps=3)),
    ("breaks a promise: I", lambda data: data["events"].pop()),
    ("breaks a promise: I", lambda data: data["run"].update(parent_run_id="somebody")),
]


@pytest.mark.parametrize(("why", "edit"), BAD_FILES)
def test_a_file_that_is_wrong_is_refused_with_the_place_and_leaves_nothing(
    exported: str, tmp_path: Path, why: str, edit: Edit
) -> None:
    target = WorkflowDB(tmp_path / "target.db")

    with pytest.raises(RunFileError, match=why):
        target.import_run(changed(exported, edit))

    assert target.list_runs() == []


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> str:
    subject = SqlSubject(f"sqlite:///{tmp_path_factory.mktemp('exported') / 'runs.db'}")
    text = completed(subject)
    subject.close()
    return text


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '{"format": "pocoflow run", "version": NaN}', "[" * 9999]
)
def test_what_is_no_object_is_no_export(sqlite_url: str, text: str) -> None:
    with pytest.raises(RunFileError, match="no export of a run"):
        WorkflowDB(sqlite_url).import_run(text)


def test_no_room_for_the_run_leaves_nothing_of_it(exported: str, there: SqlSubject) -> None:
    target = database(there)
    with there.ledger.connection() as connection:
        connection.exec_driver_sql("pragma max_page_count=1")

    with pytest.raises(DatabaseError, match="full"):
        target.import_run(exported)

    with there.ledger.connection() as connection:
        connection.exec_driver_sql(f"pragma max_page_count={1 << 30}")
    assert target.list_runs() == []
    assert [there.count(table) for table in ("pf_checkpoints", "pf_events", "pf_blobs")] == [0, 0, 0]
    assert target.import_run(exported) == RUN


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_the_commands_take_a_run_from_one_database_to_another(
    sql_subject: SqlSubject, tmp_path: Path
) -> None:
    source = sql_subject.ledger.url.render_as_string(hide_password=False)
    sql_subject.ledger.start(new_run())
    sql_subject.ledger.commit(take(sql_subject.ledger), LAST)
    file, target = tmp_path / "run.json", f"sqlite:///{tmp_path / 'target.db'}"

    there = run("export", RUN, "--output", str(file), "--database", source)
    printed = run("export", RUN, "--database", source)
    back = run("import", str(file), "--as", "copy", "--database", target)

    assert (there.exit_code, printed.exit_code, back.exit_code) == (0, 0, 0)
    assert printed.output == file.read_text()
    assert back.output == "imported run 'copy': completed, 1 step\n"
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix == ".part"] == []
    assert WorkflowDB(target).load_checkpoint("copy", 0).as_dict() == {"n": 1}


def test_the_commands_say_what_is_wrong(tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'target.db'}"
    WorkflowDB(target).create_run(RUN)
    odd = tmp_path / "odd.json"
    odd.write_bytes(b"\xff")

    missing = run("import", str(tmp_path / "no.json"), "--database", target)
    unreadable = run("import", str(odd), "--database", target)
    nowhere = run("export", RUN, "--output", str(tmp_path / "no" / "run.json"), "--database", target)
    no_database = run("export", RUN, "--database", str(tmp_path / "no.db"))

    assert all(isinstance(one.exception, RunFileError) for one in (missing, unreadable, nowhere))
    assert "cannot be read: No such file" in str(missing.exception)
    assert "is no export of a run" in str(unreadable.exception)
    assert "cannot be written: No such file" in str(nowhere.exception)
    assert "there is no database" in str(no_database.exception)
