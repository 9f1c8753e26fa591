"""Whatever a text holds, a database takes it for a text: it comes back exactly, or is refused by its name."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from pocoflow import DefinitionError, Flow, Node, PocoFlowError, Store, WorkflowDB
from pocoflow.db.fsck import examine
from pocoflow.engine.history import Checkpoint
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import Failure
from pocoflow.errors import DatabaseError, RunNotFoundError
from tests.contract.builders import WORKER, new_run, record, take
from tests.contract.subjects import SqlSubject
from tests.support.injections import HALF, PRINTABLE, UNPRINTABLE

CLEAN = "bystander"
SECRET = "sk-0123456789"
CORPUS = (*PRINTABLE, *UNPRINTABLE)


def named(text: str) -> str:
    return ascii(text[:24])


class Once(Node):
    def post(self, store: Store, prep_result: Any, exec_result: Any) -> str:
        return str(store["action"])


@pytest.fixture
def history(sql_subject: SqlSubject) -> Iterator[WorkflowDB]:
    """A database with one finished run, which nothing may touch."""
    url = url_of(sql_subject)
    Flow(Once(), db_path=url).run({"action": "done"}, run_id=CLEAN)
    database = WorkflowDB(url)
    before = rows_of(database, CLEAN)
    yield database
    assert rows_of(database, CLEAN) == before
    assert not examine(sql_subject.ledger.url, max_crashes=3).violations


def url_of(subject: SqlSubject) -> str:
    return subject.ledger.url.render_as_string(hide_password=False)


def rows_of(database: WorkflowDB, run_id: str) -> list[Any]:
    return [database.get_run(run_id), database.get_checkpoints(run_id), database.get_events(run_id)]


@pytest.mark.parametrize("text", [text for text in CORPUS if text != HALF], ids=named)
def test_a_ledger_carries_any_text_in_any_place(ledger: Ledger, text: str) -> None:
    ledger.start(new_run(CLEAN))
    before = ledger.get_run(CLEAN)
    try:
        ledger.start(new_run(text, flow_name=text, flow_hash=text, node=text, queue=text, input_hash=text))
    except DatabaseError:
        assert text in UNPRINTABLE
        assert ledger.get_run(CLEAN) == before
        return

    worker = text if text in PRINTABLE else WORKER
    first = take(ledger, run_id=text, worker=worker)
    ledger.heartbeat([first])
    ledger.commit(first, record(text, next_queue=text, action=text))
    second = take(ledger, 1, run_id=text, worker=worker)
    ledger.expire(text, 1, worker=worker)
    ledger.sweep(crowded=[text])
    ledger.pause(text)
    ledger.resume(text, home=None)
    ledger.interrupt(text)
    ledger.cancel(text)

    row: Any = ledger.get_run(text)
    told = [(event["node_name"], event["action"], event["worker"]) for event in ledger.get_events(text)]
    assert (row["run_id"], row["flow_name"], row["current_node"], row["queue"]) == (text,) * 4
    assert second.node == text
    assert row["status"] == "cancelled"
    assert (text, text, worker) in told
    assert ledger.get_run(CLEAN) == before


@pytest.mark.parametrize("text", [text for text in CORPUS if text != HALF], ids=named)
def test_an_error_text_is_carried_whatever_it_holds(ledger: Ledger, text: str) -> None:
    ledger.start(new_run())
    position = take(ledger)

    try:
        ledger.fail(position, Failure(text, text))
    except DatabaseError:
        assert text in UNPRINTABLE
        ledger.cancel("run", force=True)
        return

    row: Any = ledger.get_run("run")
    assert (row["error_type"], row["error_msg"]) == (text, text)


@pytest.mark.parametrize("text", CORPUS, ids=named)
def test_a_flow_takes_any_name_that_can_be_printed(
    history: WorkflowDB, sql_subject: SqlSubject, text: str
) -> None:
    def run() -> None:
        flow = Flow(Once(text), flow_name=text, db_path=url_of(sql_subject))
        flow.run({"action": text}, run_id=text)

    if text in UNPRINTABLE:
        with pytest.raises(DefinitionError):
            run()
        return
    run()

    row: Any = history.get_run(text)
    assert (row["run_id"], row["flow_name"], row["status"]) == (text, text, "completed")
    assert [event["action"] for event in history.get_events(text)][-2:] == [text, "completed"]
    assert history.load_checkpoint(text, 0) == {"action": text}


@pytest.mark.parametrize("text", CORPUS, ids=named)
def test_what_a_program_writes_by_hand_is_carried_exactly_or_refused(history: WorkflowDB, text: str) -> None:
    try:
        history.create_run(text, text)
        history.update_run(text, current_node=text, error_msg=text)
        history.save_checkpoint(text, 0, text, Store({text: text}))
        history.save_event(text, text, node_name=text, action=text, error_msg=text, worker=text)
    except DatabaseError:
        assert text in UNPRINTABLE
        return

    row: Any = history.get_run(text)
    (event,) = history.get_events(text)
    (checkpoint,) = history.get_checkpoints(text)
    assert [row[name] for name in ("run_id", "flow_name", "current_node", "error_msg")] == [text] * 4
    assert [event[name] for name in ("event", "node_name", "action", "error_msg", "worker")] == [text] * 5  # type: ignore[literal-required]
    assert checkpoint["node_name"] == text
    assert history.load_checkpoint(text, 0) == {text: text}
    assert [row["run_id"] for row in history.list_runs()].count(text) == 1


@pytest.mark.parametrize("text", CORPUS, ids=named)
def test_a_text_names_no_run_but_its_own(history: WorkflowDB, text: str) -> None:
    for read, nothing in (
        (lambda: history.get_run(text), None),
        (lambda: history.get_events(text), []),
        (lambda: history.get_checkpoints(text), []),
    ):
        try:
            assert read() == nothing
        except DatabaseError:
            assert text in UNPRINTABLE
    with pytest.raises((RunNotFoundError, DatabaseError)):
        history.update_run(text, status="failed")
    with pytest.raises(PocoFlowError):
        history.load_checkpoint(text, 0)


@pytest.mark.parametrize("text", CORPUS, ids=named)
def test_a_field_is_one_of_those_there_are(history: WorkflowDB, text: str) -> None:
    with pytest.raises(DatabaseError, match="cannot set"):
        history.update_run(CLEAN, **{text: "x"})
    with pytest.raises(DatabaseError, match="an event has no"):
        history.save_event(CLEAN, "note", **{text: "x"})


@pytest.mark.parametrize("field", ["run_id", "flow_hash", "epoch", "owner", "want", "input", "step", "id"])
def test_a_column_that_the_protocol_counts_with_is_not_to_be_set(history: WorkflowDB, field: str) -> None:
    with pytest.raises((DatabaseError, TypeError)):
        history.update_run(CLEAN, **{field: "x"})
    if field != "step":
        with pytest.raises((DatabaseError, TypeError)):
            history.save_event(CLEAN, "note", **{field: "x"})


@pytest.mark.parametrize("status", ["done", "'failed'", "completed'; DROP TABLE pf_runs; --", "", None])
def test_a_status_is_one_of_those_there_are(history: WorkflowDB, status: Any) -> None:
    with pytest.raises(DatabaseError):
        history.update_run(CLEAN, status=status)


@pytest.mark.parametrize(
    "limit", ["1; DROP TABLE pf_runs", "1 OFFSET 1", "x", 10**30, -1, [1], {"a": 1}, "\ud800"]
)
def test_a_limit_is_a_number(history: WorkflowDB, limit: Any) -> None:
    with pytest.raises(DatabaseError):
        history.list_runs(limit=limit)


def test_a_check_of_the_database_names_runs_and_executes_nothing(sql_subject: SqlSubject) -> None:
    database = WorkflowDB(url_of(sql_subject))
    for text in PRINTABLE:
        database.save_event(text, "node_end", step=0, node_name=text)

    report = examine(sql_subject.ledger.url, max_crashes=3)

    assert {violation.run_id for violation in report.violations} == set(PRINTABLE)
    assert [event["node_name"] for text in PRINTABLE for event in database.get_events(text)] == [*PRINTABLE]


def test_a_write_that_is_refused_quotes_nothing_of_the_store(sql_subject: SqlSubject) -> None:
    database, store = WorkflowDB(url_of(sql_subject)), Store({"api_key": SECRET})
    database.create_run("by hand")
    database.save_checkpoint("by hand", 0, "A", store)

    with pytest.raises(DatabaseError) as caught:
        database.save_checkpoint("by hand", 0, "A", store)

    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_refusal_quotes_nothing_of_the_row_that_it_is_about(sql_subject: SqlSubject) -> None:
    sql_subject.ledger.start(new_run(input=Checkpoint(f'{{"api_key":"{SECRET}"}}')))

    with pytest.raises(DatabaseError) as caught:
        WorkflowDB(url_of(sql_subject)).update_run("run", status="done")

    assert SECRET not in str(caught.value)


def test_half_a_character_is_refused_by_every_verb(sql_subject: SqlSubject) -> None:
    ledger: Any = sql_subject.ledger

    for verb in (
        lambda: ledger.start(new_run(HALF)),
        lambda: ledger.claim(HALF, 0, owner="me"),
        lambda: ledger.get_run(HALF),
        lambda: ledger.cancel(HALF),
        lambda: ledger.pause(HALF),
        lambda: ledger.expire(HALF, 0, worker=WORKER),
    ):
        with pytest.raises(DatabaseError, match="cannot take such a value"):
            verb()


def test_a_store_with_half_a_character_is_carried(history: WorkflowDB) -> None:
    history.create_run("by hand")
    history.save_checkpoint("by hand", 0, "A", Store({"text": "\ud800\0"}))

    assert history.load_checkpoint("by hand", 0) == {"text": "\ud800\0"}
