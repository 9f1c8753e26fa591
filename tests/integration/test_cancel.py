"""A run that was cancelled ends as cancelled, whoever asked and whoever is listening."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis

from pocoflow import RunCancelledError, RunHandle
from tests.integration import flows
from tests.support.wait import wait_until
from tests.support.workers import Cluster, MakeCluster, Trace, committed_steps, environment, events_of

WAIT_S = 60.0


def assert_cancelled(handle: RunHandle) -> None:
    with pytest.raises(RunCancelledError, match=handle.run_id):
        handle.wait(WAIT_S)
    assert handle.status == "cancelled"
    assert handle.is_done
    assert [event["action"] for event in events_of(handle, "flow_end")] == ["cancelled"]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port at which nobody answers, and nobody else will as long as the test lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_queued_run_is_cancelled_at_once_and_never_begins(
    make_cluster: MakeCluster, redis_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=sqlite_url)
    handle = trace.start(flows.chain)

    answer = handle.cancel()
    cluster.start_worker()
    trace.start(flows.chain).wait(WAIT_S)  # behind it in the queue

    assert answer == "cancelled"
    assert_cancelled(handle)
    assert trace.of(handle.run_id) == []


def test_a_running_step_sees_the_cancel_and_no_later_step_begins(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.patient)
    trace.wait_for(handle.run_id, "patient")

    answer = handle.cancel()

    assert answer == "running"
    assert_cancelled(handle)
    assert handle.store["result"] == "returned early"
    assert trace.of(handle.run_id, "later") == []
    assert committed_steps(handle, cluster.database) == [0]


def test_a_step_that_does_not_look_ends_first_and_no_later_step_begins(
    cluster: Cluster, trace: Trace
) -> None:
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")

    handle.cancel()
    trace.open_gate()

    assert_cancelled(handle)
    assert handle.store["done"] == ["one", "two"]
    assert trace.of(handle.run_id, "three") == []


def test_a_run_whose_last_step_returns_early_is_cancelled(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.lonely)
    trace.wait_for(handle.run_id, "lonely")

    handle.cancel()

    assert_cancelled(handle)


def test_a_run_that_waits_for_its_next_try_is_cancelled(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.stubborn)
    wait_until(lambda: events_of(handle, "node_retry"), timeout_s=WAIT_S)

    answer = handle.cancel()

    assert answer == "cancelled"
    assert_cancelled(handle)


CANCEL = """
import sys
from tests.integration import flows
run_id, log, gate = sys.argv[1:]
flows.patient.run_background({"run": run_id, "log": log, "gate": gate}, run_id=run_id).cancel()
"""


def test_another_process_can_cancel_by_a_handle_of_its_own(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.patient)
    trace.wait_for(handle.run_id, "patient")

    subprocess.run(
        [sys.executable, "-c", CANCEL, handle.run_id, str(trace.path), str(trace.gate)],
        env=environment(cluster.settings),
        check=True,
        timeout=WAIT_S,
    )

    assert_cancelled(handle)
    assert trace.of(handle.run_id, "later") == []


def test_cancel_works_by_the_database_alone_when_redis_for_flags_is_gone(
    make_cluster: MakeCluster, redis_url: str, database_url: str, trace: Trace, closed_port: int
) -> None:
    nowhere = f"redis://127.0.0.1:{closed_port}/0"
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, REDIS_URL=nowhere)
    cluster.start_worker()
    handle = trace.start(flows.patient)
    trace.wait_for(handle.run_id, "patient")

    handle.cancel()

    assert_cancelled(handle)
    assert handle.store["result"] == "returned early"


def test_a_cancel_flag_that_nobody_wrote_to_the_database_cancels_nothing(
    cluster: Cluster, trace: Trace
) -> None:
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")

    with redis.Redis.from_url(str(cluster.settings["BROKER_URL"])) as broker:
        broker.set(f"pocoflow:cancel:{handle.run_id}", 1)
    trace.open_gate()

    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)


def test_cancelling_a_finished_run_changes_nothing(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.chain)
    result = handle.wait(WAIT_S)
    events = list(handle.events())

    answer = handle.cancel()

    assert answer == "completed"
    assert list(handle.events()) == events
    assert handle.wait(WAIT_S).as_dict() == result.as_dict()


def test_a_cancelled_run_whose_worker_was_killed_ends_as_cancelled(
    make_cluster: MakeCluster, redis_url: str, postgres_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=postgres_url, LEASE_S="2")
    doomed = cluster.start_worker()
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")

    handle.cancel()
    doomed.kill()
    cluster.start_worker()

    assert_cancelled(handle)
    assert len(trace.of(handle.run_id, "two")) == 1
