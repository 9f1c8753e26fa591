"""A run on workers is paused, resumed and cancelled by force, by its id and from any process."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from pocoflow import (
    Flow,
    InvalidTransitionError,
    RunCancelledError,
    RunHandle,
    RunInterruptedError,
    RunNotFoundError,
    StepFailedError,
    WaitTimeoutError,
    WorkflowDB,
    client,
)
from tests.integration import flows
from tests.support.wait import wait_until
from tests.support.workers import (
    Cluster,
    MakeCluster,
    Trace,
    committed_steps,
    environment,
    events_of,
)

WAIT_S = 60.0
STEER = """
import sys
from pocoflow import client
print(getattr(client.handle(sys.argv[1]), sys.argv[2])(), end="")
"""


def steer(cluster: Cluster, run_id: str, verb: str) -> str:
    """Call a method of the handle in a process of its own, and return what it returned there."""
    done = subprocess.run(
        [sys.executable, "-c", STEER, run_id, verb],
        env=environment(cluster.settings),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    return done.stdout


def wait_for_status(handle: RunHandle, status: str) -> None:
    wait_until(lambda: handle.status == status, timeout_s=WAIT_S, what=f"{handle} to be {status}")


def pauses_and_resumes(handle: RunHandle) -> tuple[int, int]:
    return len(events_of(handle, "run_paused")), len(events_of(handle, "run_resumed"))


def test_another_process_pauses_a_run_after_the_step_in_progress_and_lets_it_go_on(
    cluster: Cluster, trace: Trace
) -> None:
    handle = trace.start(flows.relay, left=5, hold="count")
    trace.wait_for(handle.run_id, "count")

    paused = steer(cluster, handle.run_id, "pause")
    trace.open_gate()
    wait_for_status(handle, "paused")
    after_pause = committed_steps(handle, cluster.database)
    resumed = steer(cluster, handle.run_id, "resume")
    result = handle.wait(WAIT_S)

    assert (paused, resumed) == ("running", "queued")
    assert after_pause == [0]
    assert result["left"] == 0
    assert len(trace.of(handle.run_id)) == 5
    assert committed_steps(handle, cluster.database) == [0, 1, 2, 3, 4]
    assert pauses_and_resumes(handle) == (1, 1)


def test_after_a_pause_no_step_is_committed_but_the_one_in_progress(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.relay, left=60)
    by_id = client.handle(handle.run_id)

    for _ in range(8):
        with suppress(InvalidTransitionError):  # it may have completed by now
            status = by_id.pause()
            steps = len(cluster.database.get_checkpoints(handle.run_id))
            wait_until(lambda: by_id.status in ("paused", "completed"), timeout_s=WAIT_S)
            late = len(cluster.database.get_checkpoints(handle.run_id)) - steps
            assert late <= (status == "running")
            assert by_id.resume() == "queued"
    result = handle.wait(WAIT_S)

    assert result["left"] == 0
    assert committed_steps(handle, cluster.database) == list(range(60))
    assert pauses_and_resumes(handle) == (8, 8)


def test_a_queued_run_is_paused_at_once_and_wait_goes_on_waiting(
    make_cluster: MakeCluster, redis_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=sqlite_url)
    handle = trace.start(flows.chain)

    answer = handle.pause()
    cluster.start_worker()
    trace.start(flows.chain).wait(WAIT_S)  # behind it in the queue

    assert answer == "paused"
    assert handle.pause() == "paused"
    assert not handle.is_done
    with pytest.raises(WaitTimeoutError):
        handle.wait(1.0)
    assert trace.of(handle.run_id) == []
    assert handle.resume() == "queued"
    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)


def test_a_resumed_run_does_not_wait_for_a_sweep(
    make_cluster: MakeCluster, redis_url: str, postgres_url: str, trace: Trace
) -> None:
    never = "600"
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=postgres_url, SWEEP_S=never, GRACE_S=never)
    cluster.start_worker()
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")
    handle.pause()
    trace.open_gate()
    wait_for_status(handle, "paused")

    client.handle(handle.run_id).resume()

    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)


def test_without_a_broker_here_the_sweep_of_the_workers_finds_a_resumed_run(
    cluster: Cluster, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")
    handle.pause()
    trace.open_gate()
    wait_for_status(handle, "paused")
    monkeypatch.delenv("POCOFLOW_BROKER_URL")

    client.handle(handle.run_id).resume()

    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)


def test_a_pause_that_is_taken_back_in_time_never_happened(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")

    answers = (handle.pause(), handle.resume())
    trace.open_gate()

    assert answers == ("running", "running")
    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)
    assert pauses_and_resumes(handle) == (0, 0)


def test_a_pause_while_the_last_step_is_executed_does_not_keep_the_run_from_completing(
    cluster: Cluster, trace: Trace
) -> None:
    handle = trace.start(flows.chain, hold="five")
    trace.wait_for(handle.run_id, "five")

    handle.pause()
    trace.open_gate()

    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)
    with pytest.raises(InvalidTransitionError, match="is completed and cannot be paused"):
        handle.pause()
    with pytest.raises(InvalidTransitionError, match="is completed and cannot be resumed"):
        client.handle(handle.run_id).resume()


def test_a_run_that_is_paused_while_it_waits_for_its_next_try_does_not_try(
    cluster: Cluster, trace: Trace
) -> None:
    handle = trace.start(flows.flaky, failures=1)
    trace.wait_for(handle.run_id, "flaky")
    wait_until(lambda: events_of(handle, "node_retry"), timeout_s=WAIT_S)

    handle.pause()
    with pytest.raises(WaitTimeoutError):
        handle.wait(2 * flows.Flaky.retry_delay)

    assert len(trace.of(handle.run_id, "flaky")) == 1
    handle.resume()
    assert handle.wait(WAIT_S)["result"] == "try 2"


def test_a_failed_run_goes_on_at_the_step_that_failed(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.flaky, failures=flows.Flaky.max_retries)
    with pytest.raises(StepFailedError):
        handle.wait(WAIT_S)
    before = cluster.database.get_checkpoints(handle.run_id)

    answer = client.handle(handle.run_id).resume()
    result = handle.wait(WAIT_S)

    assert answer == "queued"
    assert result["result"] == f"try {flows.Flaky.max_retries + 1}"
    assert len(trace.of(handle.run_id, "fine")) == 1
    assert cluster.database.get_checkpoints(handle.run_id)[:1] == before
    assert committed_steps(handle, cluster.database) == [0, 1]


def test_a_cancel_by_force_ends_a_long_step_and_discards_its_result(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")

    answer = client.handle(handle.run_id).cancel(force=True)
    with pytest.raises(RunCancelledError):
        handle.wait(WAIT_S)
    events = list(handle.events())
    trace.open_gate()
    wait_until(lambda: discarded(cluster, handle.run_id), timeout_s=WAIT_S, what="the step to end")

    assert answer == "cancelled"
    assert handle.cancel(force=True) == "cancelled"
    assert committed_steps(handle, cluster.database) == [0]
    assert handle.store["done"] == ["one"]
    assert list(handle.events()) == events
    assert trace.of(handle.run_id, "three") == []


def discarded(cluster: Cluster, run_id: str) -> bool:
    lines = [line for worker in cluster.workers for line in worker.log.splitlines()]
    return any("its result is discarded" in line and run_id in line for line in lines)


def test_a_running_step_sees_a_cancel_by_force(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.patient)
    trace.wait_for(handle.run_id, "patient")

    handle.cancel(force=True)

    wait_until(lambda: discarded(cluster, handle.run_id), timeout_s=WAIT_S, what="the step to end")
    assert committed_steps(handle, cluster.database) == []


def test_ten_threads_that_pause_and_resume_leave_a_run_that_completes(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.relay, left=40)

    def storm(number: int) -> None:
        mine = client.handle(handle.run_id)
        for turn in range(12):
            with suppress(InvalidTransitionError):
                mine.pause() if (number + turn) % 2 else mine.resume()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(storm, range(10)))
    with suppress(InvalidTransitionError):
        handle.pause()
        handle.resume()
    result = handle.wait(WAIT_S)

    assert result["left"] == 0
    assert committed_steps(handle, cluster.database) == list(range(40))
    paused, resumed = pauses_and_resumes(handle)
    assert paused == resumed
    assert [event["action"] for event in events_of(handle, "flow_end")] == ["completed"]


def test_workers_go_on_with_a_run_that_was_paused_inline(cluster: Cluster, trace: Trace) -> None:
    flow = Flow(flows.chain.start, flow_name="chain", db_path=cluster.settings["DATABASE_URL"])
    run_id = f"inline-{trace.folder.name}"
    data = {"run": run_id, "log": str(trace.path), "gate": str(trace.gate), "hold": "two"}

    with ThreadPoolExecutor(1) as pool:
        inline = pool.submit(flow.run, data, run_id=run_id)
        trace.wait_for(run_id, "two")
        assert steer(cluster, run_id, "pause") == "running"
        trace.open_gate()
        with pytest.raises(RunInterruptedError, match=f"'{run_id}' was paused: .* run_background"):
            inline.result(WAIT_S)
    handle = client.handle(run_id)

    assert handle.resume() == "queued"
    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)
    assert committed_steps(handle, cluster.database) == [0, 1, 2, 3, 4]


def test_a_run_that_is_not_there_is_named(cluster: Cluster, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    WorkflowDB(elsewhere).list_runs()

    for database in (None, elsewhere):
        with pytest.raises(RunNotFoundError, match="'nobody' here: set POCOFLOW_DATABASE_URL") as caught:
            client.handle("nobody", database)
        assert caught.value.run_id == "nobody"
