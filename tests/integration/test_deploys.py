"""New code comes while runs are under way: real workers with two versions of one flow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pocoflow import FlowChangedError, RunHandle, WorkflowDB
from tests.integration.flow_versions import version
from tests.support.wait import wait_until
from tests.support.workers import Cluster, MakeCluster, Trace, WorkerProcess, events_of

WAIT_S = 60.0
FLOWS = "tests.integration.flow_versions"
NEVER_S, SOON_S = "600", "1.5"

Deploy = Callable[..., WorkerProcess]


@pytest.fixture
def cluster(make_cluster: MakeCluster, redis_url: str, database_url: str) -> Cluster:
    return make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, FLOWS=FLOWS)


@pytest.fixture
def alone(make_cluster: MakeCluster, sqlite_url: str) -> Cluster:
    """No workers, only the one inside this process."""
    return make_cluster(BROKER_URL=None, DATABASE_URL=sqlite_url)


@pytest.fixture
def deploy(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Start a worker with this version of the code, beside those that are there."""

    def start(name: str, *, unroutable_s: str = NEVER_S) -> WorkerProcess:
        monkeypatch.setenv("VERSION", name)
        return cluster.start_worker(UNROUTABLE_S=unroutable_s)

    return start


def start_at_first(trace: Trace) -> RunHandle:
    """Start a run of the old version, and return when its first step is under way."""
    handle = trace.start(version("old"), hold="first")
    trace.wait_for(handle.run_id, "first")
    return handle


def nodes(trace: Trace, handle: RunHandle) -> list[str]:
    return [effect.node for effect in trace.of(handle.run_id)]


def test_a_run_goes_on_with_new_code_that_keeps_its_next_node_and_edges(deploy: Deploy, trace: Trace) -> None:
    old = deploy("old")
    handle = start_at_first(trace)
    handle.pause()
    trace.open_gate()
    wait_until(lambda: handle.status == "paused", timeout_s=WAIT_S)
    old.kill()

    deploy("longer")
    handle.resume()

    assert handle.wait(WAIT_S)["done"] == ["first", "second", "third", "fourth"]
    (changed,) = events_of(handle, "flow_changed")
    assert (changed["step"], changed["node_name"]) == (1, "second")
    assert changed["action"] == version("longer").definition().graph.fingerprint


def test_old_workers_finish_what_only_they_can_beside_new_ones(deploy: Deploy, trace: Trace) -> None:
    deploy("old")
    handle = start_at_first(trace)
    deploy("without_second")

    trace.open_gate()

    assert handle.wait(WAIT_S)["done"] == ["first", "second", "third"]
    assert nodes(trace, handle) == ["first", "second", "third"]


def test_new_runs_are_not_cut_short_by_old_workers(deploy: Deploy, trace: Trace) -> None:
    deploy("old")
    trace.open_gate()
    trace.start(version("old")).wait(WAIT_S)
    deploy("longer")

    handles = [trace.start(version("longer")) for _ in range(5)]

    for handle in handles:
        assert handle.wait(WAIT_S)["done"] == ["first", "second", "third", "fourth"]
        assert events_of(handle, "flow_changed") == []


def test_a_run_that_new_code_has_stranded_is_paused_and_goes_on_with_the_old(
    deploy: Deploy, trace: Trace, database_url: str
) -> None:
    old = deploy("old")
    handle = start_at_first(trace)
    handle.pause()
    trace.open_gate()
    wait_until(lambda: handle.status == "paused", timeout_s=WAIT_S)
    old.kill()
    new = deploy("without_second", unroutable_s=SOON_S)
    handle.resume()

    with pytest.raises(FlowChangedError, match=r"step 1: node 'second' is not there: .*resume.*fork"):
        handle.wait(WAIT_S)
    row = WorkflowDB(database_url).get_run(handle.run_id)
    assert row is not None
    assert (row["status"], row["error_type"], row["total_steps"]) == ("paused", "FlowChangedError", 1)
    assert "flow changed here, step given back" in new.log

    new.kill()
    deploy("old")
    handle.resume()

    assert handle.wait(WAIT_S)["done"] == ["first", "second", "third"]


def test_without_workers_a_stranded_run_is_paused_at_once_and_a_start_by_the_old_code_goes_on(
    alone: Cluster, trace: Trace
) -> None:
    handle = start_at_first(trace)
    handle.pause()
    trace.open_gate()
    wait_until(lambda: handle.status == "paused", timeout_s=WAIT_S)
    again = {"run_id": handle.run_id, "hold": "first"}
    changed = trace.start(version("without_second"), **again)
    changed.resume()

    with pytest.raises(FlowChangedError, match="node 'second' is not there"):
        changed.wait(WAIT_S)

    assert trace.start(version("old"), **again).wait(WAIT_S)["done"] == ["first", "second", "third"]
    assert [event["event"] for event in handle.events() if event["event"].startswith("run_")] == [
        "run_paused",
        "run_resumed",
        "run_paused",
        "run_resumed",
    ]
