"""Runs are forked, retried and resumed by their id, wherever they are executed and whatever is killed."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from pocoflow import (
    CheckpointNotFoundError,
    DefinitionError,
    Flow,
    InvalidTransitionError,
    Node,
    RunConflictError,
    RunHandle,
    RunNotFoundError,
    Store,
    StoreSerializationError,
    UnknownFlowError,
    WorkflowDB,
    client,
)
from pocoflow.db.connect import database_url as parsed
from pocoflow.db.fsck import examine
from pocoflow.engine.effects import read_effects
from pocoflow.engine.fault_rules import POINTS
from pocoflow.guard import guarded_popen
from tests.integration import flows
from tests.support.wait import wait_until
from tests.support.workers import ROOT, Cluster, MakeCluster, Trace, committed_steps, environment

WAIT_S = 90.0
NAMES = list(flows.NAMES)
MAX_CRASHES = 3


def done_by(handle: RunHandle) -> Any:
    return handle.wait(WAIT_S)["done"]


def parent_of(database: WorkflowDB, run_id: str) -> tuple[Any, Any]:
    row = database.get_run(run_id)
    assert row is not None
    return row["parent_run_id"], row["parent_step"]


class Add(Node):
    """Adds to a list and counts; "again" while there is something left."""

    def exec(self, prep_result: Any) -> str:
        return "again"

    def post(self, store: Store, prep_result: Any, again: str) -> str:
        store["items"] = [*store["items"], f"{self.name}{store['tag']}"]
        return again


def small_flow(**changes: Any) -> Flow:
    return Flow(Add(name="a").then("again", Add(name="b").then("again", Add(name="c"))), **changes)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place for the history of an embedded run, set as the database of this process."""
    if request.param != "memory":
        url = request.getfixturevalue(f"{request.param}_url")
        monkeypatch.setenv("POCOFLOW_DATABASE_URL", url)


@pytest.mark.usefixtures("place")
def test_a_flow_forks_its_runs_where_no_broker_is_configured() -> None:
    flow = small_flow()
    parent = flow.run_background({"items": [], "tag": 1})
    parent.wait(WAIT_S)

    fork = flow.fork(parent.run_id, 0, store_updates={"tag": 2})
    again = flow.fork(parent.run_id, -1)
    elsewhere = flow.fork(
        parent.run_id, 2, node="b", store_updates={"items": [], "tag": client.REMOVE, "tag2": 0}
    )

    assert fork.wait(WAIT_S).as_dict() == {"items": ["a1", "b2", "c2"], "tag": 2}
    assert again.wait(WAIT_S)["items"] == ["a1", "b1", "c1"]
    assert elsewhere.store.as_dict() == {"items": [], "tag2": 0}
    assert parent.store.as_dict() == {"items": ["a1", "b1", "c1"], "tag": 1}
    assert next(fork.events())["action"] == "fork"


@pytest.mark.usefixtures("place")
def test_a_fork_repeated_with_its_id_is_the_same_run() -> None:
    flow = small_flow()
    parent = flow.run_background({"items": [], "tag": 1})
    parent.wait(WAIT_S)
    first = flow.fork(parent.run_id, 0, new_run_id=f"{parent.run_id}-fork", store_updates={"tag": 2})
    first.wait(WAIT_S)

    flow.fork(parent.run_id, 0, new_run_id=f"{parent.run_id}-fork", store_updates={"tag": 2}).wait(WAIT_S)

    assert [event["event"] for event in first.events()].count("flow_start") == 1
    with pytest.raises(RunConflictError, match="-fork"):
        flow.fork(parent.run_id, 0, new_run_id=f"{parent.run_id}-fork", store_updates={"tag": 3})


@pytest.mark.usefixtures("place")
def test_a_fork_that_cannot_be_is_refused_with_the_reason() -> None:
    flow = small_flow()
    parent = flow.run_background({"items": [], "tag": 1})
    parent.wait(WAIT_S)
    other = Flow(Add(name="a"), flow_name="other")

    for error, step, options in (
        (CheckpointNotFoundError, 3, {}),
        (InvalidTransitionError, 2, {}),
        (DefinitionError, 0, {"node": "z"}),
        (StoreSerializationError, 0, {"store_updates": {"tag": object()}}),
    ):
        with pytest.raises(error):
            flow.fork(parent.run_id, step, new_run_id=f"{parent.run_id}-fork", **options)
    with pytest.raises(RunNotFoundError):
        flow.fork("nobody", 0)
    with pytest.raises(DefinitionError, match="not of 'other'"):
        other.fork(parent.run_id, 0)
    with pytest.raises(UnknownFlowError, match=r"fork\(.*, 0\) of its flow 'Add'"):
        client.fork(parent.run_id, 0, new_run_id=f"{parent.run_id}-fork")
    with pytest.raises(UnknownFlowError):
        client.retry(parent.run_id)
    with pytest.raises(RunNotFoundError, match="-fork"):
        client.handle(f"{parent.run_id}-fork")


def test_an_inline_run_is_forked_too(database_url: str) -> None:
    flow = small_flow(db_path=database_url)
    flow.run({"items": [], "tag": 1}, run_id="inline")

    fork = flow.fork("inline", 1, store_updates={"tag": 2})

    assert fork.wait(WAIT_S)["items"] == ["a1", "b1", "c2"]
    assert parent_of(WorkflowDB(database_url), fork.run_id) == ("inline", 1)


FORK = """
import sys
from tests.integration import flows
flows.chain.fork("parent", 0, store_updates={"hold": "three"}, new_run_id="fork").wait()
"""


def test_a_fork_whose_process_was_killed_goes_on_when_it_is_forked_again(
    database_url: str, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"DATABASE_URL": database_url, "LEASE_S": "2", "SWEEP_S": "0.1", "GRACE_S": "0.5"}
    for name, value in settings.items():
        monkeypatch.setenv(f"POCOFLOW_{name}", value)
    trace.start(flows.chain, run_id="parent").wait(WAIT_S)
    surroundings = {**environment(settings), "PYTHONPATH": str(ROOT)}
    process = guarded_popen([sys.executable, "-c", FORK], env=surroundings, start_new_session=True)
    trace.wait_for("parent", "three", count=2)
    process.end(signal.SIGKILL, limit_s=WAIT_S)
    trace.open_gate()

    again = flows.chain.fork("parent", 0, store_updates={"hold": "three"}, new_run_id="fork")

    assert done_by(again) == NAMES
    assert [len(trace.of("parent", name)) for name in NAMES] == [1, 2, 3, 2, 2]


def test_without_a_broker_a_fork_of_a_run_of_workers_is_found_by_their_sweep(
    cluster: Cluster, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = trace.start(flows.chain)
    parent.wait(WAIT_S)
    monkeypatch.delenv("POCOFLOW_BROKER_URL")

    fork = client.fork(parent.run_id, 2)

    assert done_by(fork) == NAMES


def test_workers_execute_forks_and_retries(cluster: Cluster, trace: Trace) -> None:
    parent = trace.start(flows.chain)
    parent.wait(WAIT_S)

    fork = client.fork(parent.run_id, 1, store_updates={"done": ["begun"], "extra": (1, None)})
    named = client.fork(parent.run_id, 4, node="five")
    retry = client.retry(parent.run_id)

    assert done_by(fork) == ["begun", "three", "four", "five"]
    assert fork.store["extra"] == (1, None)
    assert done_by(named) == [*NAMES, "five"]
    assert done_by(retry) == NAMES
    parents = [parent_of(cluster.database, handle.run_id) for handle in (fork, named, retry)]
    assert parents == [(parent.run_id, step) for step in (1, 4, -1)]
    assert committed_steps(fork, cluster.database) == [0, 1, 2]


def test_a_run_is_forked_while_it_is_executed(cluster: Cluster, trace: Trace) -> None:
    parent = trace.start(flows.chain, hold="three")
    trace.wait_for(parent.run_id, "three")

    fork = client.fork(parent.run_id, 1, store_updates={"hold": "nothing", "run": "fork"})

    assert done_by(fork) == NAMES
    assert parent.status == "running"
    with pytest.raises(InvalidTransitionError, match="cannot be retried before it has ended"):
        client.retry(parent.run_id)
    trace.open_gate()
    assert done_by(parent) == NAMES


def test_a_failed_run_is_resumed_by_its_id_alone(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.flaky, failures=3)
    wait_until(lambda: handle.status == "failed", timeout_s=WAIT_S)

    resumed = client.resume(handle.run_id)

    assert done_by(resumed) == ["fine", "flaky"]
    with pytest.raises(InvalidTransitionError, match="completed"):
        client.resume(handle.run_id)


def test_forks_and_resumed_runs_survive_a_kill_at_every_point(
    make_cluster: MakeCluster, redis_url: str, database_url: str, trace: Trace, tmp_path: Path
) -> None:
    effects = tmp_path / "effects.jsonl"
    cluster = make_cluster(
        BROKER_URL=redis_url, DATABASE_URL=database_url, LEASE_S="2", SWEEP_S="0.3", GRACE_S="1"
    )
    paused = [trace.start(flows.chain, run_id=f"resumed {point}", **held_at(point)) for point in POINTS]
    assert {handle.pause() for handle in paused} == {"paused"}
    first = cluster.start_worker()
    parent = trace.start(flows.chain)
    parent.wait(WAIT_S)
    first.kill()
    kills = [f"{kind} {point}/{point}=kill9*1" for kind in ("fork", "resumed") for point in POINTS]
    drops = [
        f"{kind} in_sweep_after_update/after_commit_before_publish=drop*1" for kind in ("fork", "resumed")
    ]
    cluster.start_worker("-c", "2", EFFECT_LOG=str(effects), FAULTS=", ".join(kills + drops))

    handles = [client.resume(handle.run_id) for handle in paused]
    handles += [
        client.fork(parent.run_id, 1, new_run_id=f"fork {point}", store_updates=held_at(point))
        for point in POINTS
    ]
    wait_until(
        lambda: sum("in_heartbeat" in rule for rule in struck(effects)) == 2,
        timeout_s=WAIT_S,
        what="both kills in a heartbeat",
    )
    trace.open_gate()

    assert [done_by(handle) for handle in handles] == [NAMES] * len(handles)
    assert sorted(struck(effects)) == sorted(kills + drops)
    assert committed_steps(handles[-1], cluster.database) == [0, 1, 2]
    assert parent_of(cluster.database, handles[-1].run_id) == (parent.run_id, 1)
    assert examine(parsed(database_url), max_crashes=MAX_CRASHES).violations == []


def held_at(point: str) -> dict[str, str]:
    """Only a step that takes a while has a heartbeat."""
    return {"hold": "three"} if point == "in_heartbeat" else {}


def struck(effects: Path) -> list[str]:
    if not effects.exists():
        return []
    return [effect["rule"] for effect in read_effects(effects) if effect["kind"] == "fault"]
