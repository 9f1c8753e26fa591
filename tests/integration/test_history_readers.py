"""Whoever looks at the history of runs need not know that its database was restarted meanwhile."""

from __future__ import annotations

from pocoflow import Flow, Node, WorkflowDB
from pocoflow.services import Service


def test_a_reader_goes_on_after_a_restart_of_its_database(private_postgres: Service) -> None:
    Flow(Node(), db_path=private_postgres.url).run({"n": 1}, run_id="run")
    history = WorkflowDB(private_postgres.url)
    before = history.list_runs()

    private_postgres.restart()
    after = history.list_runs()
    private_postgres.restart()
    store = history.load_checkpoint("run", 0)
    private_postgres.restart()

    assert after == before
    assert store == {"n": 1}
    assert [event["event"] for event in history.get_events("run")][-1] == "flow_end"
