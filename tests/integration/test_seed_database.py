"""The unfinished runs of a database of PocoFlow 0.2.1 go on: on workers, in this process, and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pocoflow import RunConflictError, RunHandle, StepFailedError, WorkflowDB, client
from pocoflow.db.connect import database_url, upgrade
from pocoflow.db.fsck import examine
from pocoflow.errors import InvalidTransitionError
from tests.contract.test_migrations import make_old
from tests.support.seed import PROGRAM, run_seed
from tests.support.seed_flows import three, twins
from tests.support.wait import wait_until
from tests.support.workers import Cluster, MakeCluster, events_of

WAIT_S = 60.0
ALL = ["First", "Second", "Third"]
# Run to the steps that are still to be executed.
UNFINISHED = {
    "failed": ["Second", "Third"],
    "exceeded": ["Second", "Third"],
    "gone-on-and-killed": ["Third"],
    "killed-in-second": ["Second", "Third"],
    "killed-in-third": ["Third"],
    "killed-before-checkpoint": ["Second", "Third"],
    "killed-after-checkpoint": ["Third"],
    "killed-between-steps": ["Second", "Third"],
    "killed-before-its-end": [],
    "killed-while-failing": ["Second", "Third"],
}
# Of a run of three nodes: the row, flow_start, five for each step, flow_end, the row.
WRITES, FIRST_CHECKPOINT = 19, 6
LAST_STEPS = {"killed-in-third": 1, "killed-after-checkpoint": 1, "killed-before-its-end": 2}


@pytest.fixture
def cluster(seed_file: Path, redis_url: str, make_cluster: MakeCluster) -> Cluster:
    """A worker on the file, which it finds as 0.2.1 left it and upgrades."""
    made = make_cluster(
        BROKER_URL=redis_url, DATABASE_URL=f"sqlite:///{seed_file}", FLOWS="tests.support.seed_flows"
    )
    made.start_worker("-Q", "pocoflow,elsewhere")
    return made


def executed(handle: RunHandle) -> list[str | None]:
    """The nodes that this version has executed; it notes who did it, which 0.2 did not."""
    return [event["node_name"] for event in events_of(handle, "node_end") if event["worker"]]


def last_store(database: WorkflowDB, run_id: str) -> Any:
    return database.load_checkpoint(run_id, LAST_STEPS.get(run_id, 0))


def test_workers_go_on_with_every_run_that_can(cluster: Cluster, seed_file: Path) -> None:
    handles = {run_id: client.handle(run_id) for run_id in UNFINISHED}
    for handle in handles.values():
        handle.resume()

    results = {run_id: handle.wait(WAIT_S)["done"] for run_id, handle in handles.items()}

    assert results == dict.fromkeys(UNFINISHED, ALL)
    assert {run_id: executed(handle) for run_id, handle in handles.items()} == UNFINISHED
    assert {handle.status for handle in handles.values()} == {"completed"}
    assert all(row["stands"] is None for row in cluster.database.list_runs() if row["run_id"] in UNFINISHED)
    assert examine(database_url(seed_file), max_crashes=3).violations == []


def test_workers_execute_forks_of_runs_of_0_2(cluster: Cluster, seed_file: Path) -> None:
    begun = client.fork("killed-in-third", 1)
    earlier = client.fork("killed-in-third", 0)
    with pytest.raises(InvalidTransitionError, match=r"no node is known to follow step 0 .* \(node=\.\.\.\)"):
        client.fork("killed-between-steps", 0)
    named = client.fork("killed-between-steps", 0, node="Second")

    assert [handle.wait(WAIT_S)["done"] for handle in (begun, earlier, named)] == [ALL, ALL, ALL]
    assert [executed(handle) for handle in (begun, earlier, named)] == [["Third"], ALL[1:], ALL[1:]]
    assert client.handle("killed-in-third").status == "paused"
    assert examine(database_url(seed_file), max_crashes=3).violations == []


def test_every_run_of_0_2_can_be_exported_and_imported(seed_file: Path, tmp_path: Path) -> None:
    upgrade(database_url(seed_file))
    source, target = WorkflowDB(seed_file), WorkflowDB(tmp_path / "there.db")
    run_ids = [row["run_id"] for row in source.list_runs()]

    for run_id in run_ids:
        target.import_run(source.export_run(run_id))

    assert len(run_ids) > len(UNFINISHED)
    for run_id in run_ids:
        before, after = ([event["event"] for event in one.get_events(run_id)] for one in (source, target))
        assert after[: len(before)] == before
        assert after[len(before) :] in ([], ["run_interrupted"])
        for step in (row["step"] for row in source.get_checkpoints(run_id)):
            stores = [one.load_checkpoint(run_id, step).as_dict() for one in (source, target)]
            assert repr(stores[0]) == repr(stores[1])  # a NaN equals nothing


def test_it_is_no_matter_between_which_writes_0_2_was_killed(
    seed_python: Path, tmp_path: Path, redis_url: str, make_cluster: MakeCluster
) -> None:
    file = tmp_path / "killed.db"
    for write in range(1, WRITES + 2):
        run_seed(seed_python, str(PROGRAM), str(file), f"killed-{write:02}", "die-at-write")
    made = make_cluster(
        BROKER_URL=redis_url, DATABASE_URL=f"sqlite:///{file}", FLOWS="tests.support.seed_flows"
    )
    made.start_worker()

    became = {row["run_id"]: row["status"] for row in made.database.list_runs()}
    handles = [client.handle(run_id) for run_id, status in became.items() if status == "paused"]
    for handle in handles:
        handle.resume()
    results = [handle.wait(WAIT_S)["done"] for handle in handles]

    # Before the first checkpoint there is no store, before the second write no sign that it is a flow's run.
    first = [f"killed-{write:02}" for write in range(2, FIRST_CHECKPOINT + 1)]
    assert [became.pop(run_id) for run_id in first] == ["running", *["failed"] * (len(first) - 1)]
    assert became.pop(f"killed-{WRITES:02}") == became.pop(f"killed-{WRITES + 1:02}") == "completed"
    assert list(became.values()) == ["paused"] * len(became)
    assert results == [ALL] * (WRITES - FIRST_CHECKPOINT - 1)
    assert examine(database_url(file), max_crashes=3).violations == []


def test_a_node_that_has_a_queue_by_now_is_executed_there(cluster: Cluster) -> None:
    handle = client.handle("routed")
    handle.resume()

    assert handle.wait(WAIT_S)["done"] == ["First", "Elsewhere"]
    assert handle.status == "completed"


def test_a_value_that_was_not_saved_fails_the_run_with_its_key_and_the_way_out(cluster: Cluster) -> None:
    handle = client.handle("lost-value")
    handle.resume()

    with pytest.raises(StepFailedError, match=r"'client'.* flow.run\(db.load_checkpoint\('lost-value', 0\)"):
        handle.wait(WAIT_S)

    assert executed(handle) == []


def test_a_node_whose_name_means_several_fails_the_run_instead_of_guessing(cluster: Cluster) -> None:
    handle = client.handle("twins")
    handle.resume()

    with pytest.raises(StepFailedError, match=r"several of that name \(Second, Second#2\)"):
        handle.wait(WAIT_S)

    assert executed(handle) == []
    handle.resume()
    with pytest.raises(StepFailedError, match="several of that name"):
        handle.wait(WAIT_S)


def test_a_start_with_the_store_of_the_last_checkpoint_goes_on_by_workers(cluster: Cluster) -> None:
    store = last_store(cluster.database, "killed-in-second")

    handle = three()[0].run_background(store, run_id="killed-in-second")

    assert handle.wait(WAIT_S)["done"] == ALL
    assert executed(handle) == ["Second", "Third"]


@pytest.mark.parametrize("run_id", sorted(set(UNFINISHED) - {"failed", "killed-while-failing"}))
def test_a_start_with_the_store_of_the_last_checkpoint_goes_on_in_this_process(
    seed_file: Path, run_id: str
) -> None:
    store = last_store(WorkflowDB(seed_file), run_id)

    handle = three(db_path=seed_file)[0].run_background(store, run_id=run_id)

    assert handle.wait(WAIT_S)["done"] == ALL
    assert executed(handle) == UNFINISHED[run_id]


def test_a_failed_run_goes_on_in_this_process_when_its_handle_is_told_to(seed_file: Path) -> None:
    store = last_store(WorkflowDB(seed_file), "failed")

    handle = three(db_path=seed_file)[0].run_background(store, run_id="failed")
    before = handle.status
    handle.resume()

    assert handle.wait(WAIT_S)["done"] == ALL
    assert (before, executed(handle)) == ("failed", ["Second", "Third"])


@pytest.mark.parametrize("run_id", ["killed-in-second", "completed", "killed-in-first"])
def test_a_start_with_another_store_is_a_conflict_and_changes_nothing(seed_file: Path, run_id: str) -> None:
    before = WorkflowDB(seed_file).get_run(run_id)

    with pytest.raises(RunConflictError, match="whose input nobody has kept"):
        three(db_path=seed_file)[0].run_background({"another": True}, run_id=run_id)

    assert WorkflowDB(seed_file).get_run(run_id) == before


@pytest.mark.parametrize("run_id", ["killed-in-second", "failed"])
def test_without_a_broker_the_client_says_how_it_goes_on(seed_file: Path, run_id: str) -> None:
    handle = client.handle(run_id, seed_file)

    with pytest.raises(InvalidTransitionError, match="run_background"):
        handle.resume()

    assert handle.status in ("paused", "failed")


def test_the_way_of_0_2_to_resume_still_works(seed_file: Path) -> None:
    database = WorkflowDB(seed_file)
    flow, nodes = three(db_path=seed_file)

    result = flow.run(database.load_checkpoint("killed-in-third", 1), resume_from=nodes[2], run_id="again")

    assert result["done"] == ALL
    assert [row["node_name"] for row in database.get_checkpoints("again")] == ["Third"]


def test_where_two_nodes_have_one_name_the_way_of_0_2_goes_on(seed_file: Path) -> None:
    database = WorkflowDB(seed_file)
    flow, nodes = twins(db_path=seed_file)

    result = flow.run(database.load_checkpoint("twins", 0), resume_from=nodes[1])

    assert result["done"] == ["First", "Second", "Second"]


def test_a_run_that_waits_can_be_cancelled_instead(seed_file: Path) -> None:
    handle = client.handle("exceeded", seed_file)

    assert handle.cancel() == "cancelled"

    with pytest.raises(InvalidTransitionError):
        handle.resume()


def test_workers_on_a_server_that_is_not_upgraded_yet_go_on_by_themselves_when_it_is(
    postgres_url: str, redis_url: str, make_cluster: MakeCluster
) -> None:
    make_old(database_url(postgres_url), runs=1)
    early = make_cluster(
        BROKER_URL=redis_url, DATABASE_URL=postgres_url, FLOWS="tests.support.seed_flows"
    ).start_worker()
    wait_until(lambda: "run: pocoflow db upgrade" in early.log, timeout_s=WAIT_S)

    upgrade(database_url(postgres_url))
    handle = three()[0].run_background({})

    assert handle.wait(WAIT_S)["done"] == ALL
