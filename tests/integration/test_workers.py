"""Flows on real Celery worker processes, through real Redis, with history in SQLite and in Postgres."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import takewhile

import pytest
import redis

from pocoflow import MaxStepsError, RunConflictError, StepFailedError, WaitTimeoutError, WorkflowDB
from tests.integration import flows
from tests.support.wait import wait_until
from tests.support.workers import Cluster, MakeCluster, Trace, committed_steps, environment, events_of

WAIT_S = 60.0


def test_steps_of_one_run_are_executed_by_different_processes(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.relay, left=100)

    handle.wait(WAIT_S)

    assert len({event["worker"] for event in events_of(handle, "node_end")}) == 2
    assert committed_steps(handle, cluster.database) == list(range(100))


def test_one_flow_object_started_twenty_times_at_once_is_twenty_runs(cluster: Cluster, trace: Trace) -> None:
    with ThreadPoolExecutor(20) as pool:
        handles = list(pool.map(lambda number: trace.start(flows.chain, number=number), range(20)))

    results = [handle.wait(WAIT_S) for handle in handles]

    assert [result["number"] for result in results] == list(range(20))
    assert all(result["done"] == list(flows.NAMES) for result in results)
    assert all(committed_steps(handle, cluster.database) == [0, 1, 2, 3, 4] for handle in handles)


def test_a_node_that_fails_for_good_is_named_with_step_tries_and_remote_error(
    cluster: Cluster, trace: Trace
) -> None:
    handle = trace.start(flows.broken)

    with pytest.raises(StepFailedError) as caught:
        handle.wait(WAIT_S)

    error = caught.value
    assert (error.run_id, error.node, error.step, error.attempts) == (handle.run_id, "broken", 1, 2)
    assert (error.error_type, error.error_text) == ("ValueError", "no luck today")
    assert all(part in str(error) for part in (handle.run_id, "'broken'", "step 1", "2 tries", "no luck"))
    assert handle.status == "failed"


@pytest.mark.parametrize("code", ["enough of this", 1, -1])
def test_a_node_that_calls_exit_fails_its_run_and_not_its_worker(
    cluster: Cluster, trace: Trace, code: str | int
) -> None:
    handle = trace.start(flows.quitter, code=code)

    with pytest.raises(StepFailedError, match=f"SystemExit: {code}"):
        handle.wait(WAIT_S)

    assert len(trace.of(handle.run_id, "quitter")) == 1
    assert trace.start(flows.chain).wait(WAIT_S)["done"] == list(flows.NAMES)


def test_a_retry_that_waits_long_leaves_its_worker_free(
    make_cluster: MakeCluster, redis_url: str, postgres_url: str, trace: Trace
) -> None:
    make_cluster(BROKER_URL=redis_url, DATABASE_URL=postgres_url).start_worker()
    waiting = trace.start(flows.stubborn)
    wait_until(lambda: events_of(waiting, "node_retry"), timeout_s=WAIT_S)

    trace.start(flows.chain).wait(WAIT_S)

    assert waiting.status == "queued"
    assert waiting.cancel() == "cancelled"


def test_a_retry_comes_when_its_delay_is_over_and_not_before(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.flaky, failures=1)

    result = handle.wait(WAIT_S)

    (retry,), (_, end) = events_of(handle, "node_retry"), events_of(handle, "node_end")
    waited = datetime.fromisoformat(end["ts"]) - datetime.fromisoformat(retry["ts"])
    assert result["result"] == "try 2"
    assert (retry["attempt"], retry["error_msg"], end["attempt"]) == (1, "try 1", 2)
    assert waited.total_seconds() >= flows.Flaky.retry_delay


def test_a_run_that_takes_more_than_max_steps_fails(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.endless)

    with pytest.raises(MaxStepsError, match="max_steps=5"):
        handle.wait(WAIT_S)

    assert committed_steps(handle, cluster.database) == [0, 1, 2, 3, 4]


def test_hooks_of_the_module_level_flow_run_in_the_worker(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.hooked)

    handle.wait(WAIT_S)

    wait_until(lambda: trace.of(handle.run_id, "flow_end:2"))
    seen = trace.of(handle.run_id)
    assert [effect.node for effect in seen] == [
        "start:fine",
        "fine",
        "end:fine:default",
        "start:last",
        "last",
        "end:last:default",
        "flow_end:2",
    ]
    assert os.getpid() not in {effect.pid for effect in seen}


def test_the_hook_node_error_runs_once_when_a_step_has_failed_for_good(
    cluster: Cluster, trace: Trace
) -> None:
    handle = trace.start(flows.broken)

    with pytest.raises(StepFailedError):
        handle.wait(WAIT_S)

    wait_until(lambda: trace.of(handle.run_id, "error:broken:ValueError"))
    assert len(trace.of(handle.run_id, "error:broken:ValueError")) == 1


def test_an_async_node_runs_on_a_worker(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.gather, numbers=[1, 2, 3])

    result = handle.wait(WAIT_S)

    assert result["result"] == [1, 4, 9]


def test_a_flow_made_by_a_factory_runs_on_a_worker(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.made_on_demand())

    result = handle.wait(WAIT_S)

    assert result["done"] == ["first", "second"]


def test_a_node_with_a_queue_runs_only_on_a_worker_that_takes_that_queue(
    make_cluster: MakeCluster, redis_url: str, postgres_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=postgres_url)
    plain = cluster.start_worker("-P", "solo")
    handle = trace.start(flows.gpu)
    with redis.Redis.from_url(redis_url) as broker:
        # Sent again by a sweep, too, and not to the queue of the worker that swept.
        wait_until(lambda: int(broker.llen("pocoflow:gpu")) >= 2, timeout_s=WAIT_S, what="two hints")
    gpu = cluster.start_worker("-P", "solo", "-Q", "gpu")

    handle.wait(WAIT_S)

    assert [(effect.node, effect.pid) for effect in trace.of(handle.run_id)] == [
        ("before", plain.pid),
        ("on_gpu", gpu.pid),
        ("after", plain.pid),
    ]


@pytest.mark.parametrize("options", [("-P", "threads", "-c", "4"), ("-P", "solo")], ids=["threads", "solo"])
def test_a_worker_without_child_processes_executes_runs(
    make_cluster: MakeCluster, redis_url: str, postgres_url: str, trace: Trace, options: tuple[str, ...]
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=postgres_url)
    worker = cluster.start_worker(*options)
    handles = [trace.start(flows.chain) for _ in range(8)]

    results = [handle.wait(WAIT_S) for handle in handles]

    assert all(result["done"] == list(flows.NAMES) for result in results)
    assert {effect.pid for handle in handles for effect in trace.of(handle.run_id)} == {worker.pid}
    assert [committed_steps(handle, cluster.database) for handle in handles] == [[0, 1, 2, 3, 4]] * 8


def test_a_second_start_with_the_same_id_and_input_is_the_same_run(cluster: Cluster, trace: Trace) -> None:
    first = trace.start(flows.chain, number=1)

    second = trace.start(flows.chain, run_id=first.run_id, number=1)

    assert second.wait(WAIT_S).as_dict() == first.wait(WAIT_S).as_dict()
    assert len(events_of(second, "flow_start")) == 1
    assert committed_steps(second, cluster.database) == [0, 1, 2, 3, 4]


def test_a_start_with_a_finished_runs_id_and_input_returns_its_result(cluster: Cluster, trace: Trace) -> None:
    first = trace.start(flows.chain)
    result = first.wait(WAIT_S)

    again = trace.start(flows.chain, run_id=first.run_id)

    assert again.is_done
    assert again.wait(WAIT_S).as_dict() == result.as_dict()


def test_a_second_start_with_the_same_id_and_other_input_is_refused(cluster: Cluster, trace: Trace) -> None:
    first = trace.start(flows.chain, number=1)

    with pytest.raises(RunConflictError, match=first.run_id):
        trace.start(flows.chain, run_id=first.run_id, number=2)

    assert first.wait(WAIT_S)["number"] == 1


def test_followed_events_are_seen_while_the_run_goes_on(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.chain, hold="two")
    following = handle.events(follow=True)

    live = list(takewhile(lambda event: event["event"] != "node_end", following))
    status_meanwhile = handle.status
    trace.open_gate()
    rest = list(following)

    assert [event["event"] for event in live] == ["flow_start", "node_start"]
    assert status_meanwhile in ("queued", "running")
    assert [event["node_name"] for event in rest if event["event"] == "node_end"] == list(flows.NAMES[1:])
    assert rest[-1]["event"] == "flow_end"


def test_the_store_of_a_handle_is_the_newest_checkpoint(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")

    midway = handle.store
    trace.open_gate()
    handle.wait(WAIT_S)

    assert midway["done"] == ["one"]
    assert handle.store["done"] == list(flows.NAMES)


def test_wait_gives_up_in_time_and_the_run_goes_on(cluster: Cluster, trace: Trace) -> None:
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")

    with pytest.raises(WaitTimeoutError, match="running at step 1 \\(two\\)") as caught:
        handle.wait(0.1)

    assert isinstance(caught.value, TimeoutError)
    trace.open_gate()
    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)


COMERS = """
import os, sys, time, traceback
from pocoflow import WorkflowDB
for url in sys.argv[1:]:
    start = time.time() + 0.02
    for number in range(8):
        if os.fork() == 0:
            try:
                while time.time() < start:
                    pass
                WorkflowDB(url).create_run(f"comer-{number}")
            except BaseException:
                traceback.print_exc()
            os._exit(0)
    for _ in range(8):
        os.wait()
"""


def test_processes_that_come_first_to_an_empty_database_make_its_tables_once(database_url: str) -> None:
    urls = [f"{database_url}{number}" for number in range(25)] if "sqlite" in database_url else [database_url]

    done = subprocess.run(
        [sys.executable, "-c", COMERS, *urls],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )

    assert done.stderr == ""
    for url in urls:
        runs = WorkflowDB(url).list_runs()
        assert sorted(run["run_id"] for run in runs) == [f"comer-{number}" for number in range(8)]


def test_sweeps_do_not_fill_the_log_of_a_worker(
    make_cluster: MakeCluster, redis_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=sqlite_url, SWEEP_S="0.05")
    worker = cluster.start_worker()
    began = worker.log

    trace.start(flows.flaky, failures=1).wait(WAIT_S)  # some twenty sweeps later

    lines = worker.log.removeprefix(began).splitlines()
    assert [line for line in lines if "step done" in line]
    assert [line for line in lines if "sweep" in line] == []


def test_workers_delete_old_runs_if_they_are_told_to(
    make_cluster: MakeCluster, redis_url: str, database_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, RETAIN_DAYS="0.00001")
    cluster.start_worker()

    handle = trace.start(flows.chain)
    handle.wait(WAIT_S)

    wait_until(lambda: cluster.database.get_run(handle.run_id) is None, timeout_s=WAIT_S)
