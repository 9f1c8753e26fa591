"""What is accepted is completed, once, whatever dies on the way. No test helps: it kills, waits and looks."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter

import pytest
import redis
from sqlalchemy import text

from pocoflow import PoisonStepError, RunHandle
from pocoflow.broker import KEY_PREFIX
from pocoflow.db.connect import database_url as as_url
from pocoflow.db.connect import engine_for
from pocoflow.engine.rows import EventRow
from pocoflow.services import Service
from tests.integration import flows
from tests.support.messages import MALFORMED, NO_MESSAGES
from tests.support.wait import wait_until
from tests.support.workers import Cluster, MakeCluster, Trace, committed_steps, events_of

WAIT_S = 60.0
LEASE_S, SWEEP_S = 2.0, 0.3
QUICK = {"LEASE_S": str(LEASE_S), "SWEEP_S": str(SWEEP_S), "GRACE_S": "1"}
SLOW_MACHINE_S = 10.0
QUEUE = f"{KEY_PREFIX}pocoflow"
ALL_STEPS = [0, 1, 2, 3, 4]


def test_a_step_whose_worker_is_killed_is_completed_by_another_one_and_committed_once(
    make_cluster: MakeCluster, redis_url: str, database_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, **QUICK)
    doomed = cluster.start_worker()
    handle = trace.start(flows.chain, hold="two")
    first = trace.wait_for(handle.run_id, "two")
    cluster.start_worker()

    doomed.kill()
    killed_at = time.monotonic()
    second = trace.wait_for(handle.run_id, "two", count=2)
    trace.open_gate()
    handle.wait(WAIT_S)

    assert time.monotonic() - killed_at < LEASE_S + SWEEP_S + SLOW_MACHINE_S
    assert second.pid != first.pid
    assert committed_steps(handle, cluster.database) == ALL_STEPS
    assert Counter(effect.node for effect in trace.of(handle.run_id)) == Counter([*flows.NAMES, "two"])
    assert [event["node_name"] for event in events_of(handle, "step_lost")] == ["two"]


def test_a_step_whose_child_process_is_killed_is_completed_by_the_same_worker(
    make_cluster: MakeCluster, redis_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=sqlite_url, **QUICK)
    worker = cluster.start_worker()
    handle = trace.start(flows.chain, hold="two")
    child = trace.wait_for(handle.run_id, "two").pid

    os.kill(child, signal.SIGKILL)
    trace.wait_for(handle.run_id, "two", count=2)
    trace.open_gate()
    handle.wait(WAIT_S)

    assert worker.exit_code is None
    assert committed_steps(handle, cluster.database) == ALL_STEPS
    assert len(trace.of(handle.run_id, "two")) == 2


def test_a_worker_that_was_frozen_longer_than_its_lease_cannot_commit(
    make_cluster: MakeCluster, redis_url: str, database_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, **QUICK)
    frozen = cluster.start_worker()
    handle = trace.start(flows.chain, hold="two")
    late = trace.wait_for(handle.run_id, "two")
    cluster.start_worker()

    frozen.freeze()
    trace.wait_for(handle.run_id, "two", count=2)
    trace.open_gate()
    handle.wait(WAIT_S)
    frozen.thaw()
    wait_until(lambda: "its result is discarded" in frozen.log, timeout_s=WAIT_S)

    assert committed_steps(handle, cluster.database) == ALL_STEPS
    assert not any(str(event["worker"]).endswith(f":{late.pid}") for event in _ends_after(handle, "one"))


def test_a_step_that_lasts_longer_than_its_lease_is_executed_once(
    make_cluster: MakeCluster, redis_url: str, postgres_url: str, trace: Trace
) -> None:
    lease_s = 1.5
    cluster = make_cluster(
        BROKER_URL=redis_url, DATABASE_URL=postgres_url, **{**QUICK, "LEASE_S": str(lease_s)}
    )
    cluster.start_worker("-c", "2")
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")

    began = time.monotonic()
    wait_until(lambda: time.monotonic() > began + 2 * lease_s, what="two leases to pass")
    trace.open_gate()
    handle.wait(WAIT_S)

    assert len(trace.of(handle.run_id, "two")) == 1
    assert events_of(handle, "step_lost") == []


def test_a_step_that_kills_its_worker_each_time_fails_its_run(
    make_cluster: MakeCluster, redis_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(
        BROKER_URL=redis_url, DATABASE_URL=sqlite_url, **{**QUICK, "LEASE_S": "1", "MAX_CRASHES": "1"}
    )
    cluster.start_worker()
    handle = trace.start(flows.deadly)

    with pytest.raises(PoisonStepError, match="'deadly' lost its worker 2 times at step 1"):
        handle.wait(WAIT_S)

    assert len(trace.of(handle.run_id, "deadly")) == 2
    assert committed_steps(handle, cluster.database) == [0]


def test_a_worker_that_is_shut_down_gives_its_step_back_at_once(
    make_cluster: MakeCluster, redis_url: str, postgres_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=postgres_url, LEASE_S="3600", GRACE_S="3600")
    leaving = cluster.start_worker()
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")
    cluster.start_worker()

    leaving.send_signal(signal.SIGQUIT)
    trace.wait_for(handle.run_id, "two", count=2)
    trace.open_gate()
    handle.wait(WAIT_S)

    assert committed_steps(handle, cluster.database) == ALL_STEPS
    assert all(event["attempt"] == 1 for event in events_of(handle, "node_end"))


def test_a_step_given_back_goes_to_the_queue_that_its_node_names(
    make_cluster: MakeCluster, redis_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=sqlite_url, LEASE_S="3600", GRACE_S="3600")
    plain = cluster.start_worker("-P", "solo")
    leaving = cluster.start_worker("-Q", "gpu")
    handle = trace.start(flows.gpu, hold="on_gpu")
    trace.wait_for(handle.run_id, "on_gpu")
    gpu = cluster.start_worker("-P", "solo", "-Q", "gpu")

    leaving.send_signal(signal.SIGQUIT)
    second = trace.wait_for(handle.run_id, "on_gpu", count=2)
    trace.open_gate()
    handle.wait(WAIT_S)

    assert second.pid == gpu.pid != plain.pid


def test_all_accepted_runs_complete_after_the_loss_of_all_workers_and_all_messages(
    make_cluster: MakeCluster, private_redis: Service, database_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=private_redis.url, DATABASE_URL=database_url, **QUICK)
    cluster.start_workers(2, "-c", "3")
    # Soon six are held in mid-step, at step one, two or three; the others are on their way, or not begun.
    handles = [trace.start(flows.chain, hold=flows.NAMES[number % 3]) for number in range(20)]
    wait_until(lambda: _count(cluster, "running") == 6, timeout_s=WAIT_S, what="six steps in execution")

    for worker in cluster.workers:
        worker.kill()
    with redis.Redis.from_url(private_redis.url) as broker:
        broker.flushall()
    trace.open_gate()
    cluster.start_worker("-c", "2")
    for handle in handles:
        handle.wait(WAIT_S)

    assert [committed_steps(handle, cluster.database) for handle in handles] == [ALL_STEPS] * 20
    executions = Counter(effect for handle in handles for effect in _nodes(trace, handle.run_id))
    assert max(executions.values()) <= 2


def test_runs_complete_after_a_restart_of_the_broker_that_lost_all_messages(
    make_cluster: MakeCluster, private_redis: Service, postgres_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=private_redis.url, DATABASE_URL=postgres_url, **QUICK)
    cluster.start_workers(2)
    handles = [trace.start(flows.chain, hold=flows.NAMES[number]) for number in range(5)]
    wait_until(lambda: _count(cluster, "running") == 2, timeout_s=WAIT_S, what="two steps in execution")

    private_redis.kill()
    private_redis.restart()
    trace.open_gate()
    for handle in handles:
        handle.wait(WAIT_S)

    assert [committed_steps(handle, cluster.database) for handle in handles] == [ALL_STEPS] * 5


def test_a_run_started_while_the_broker_is_down_is_accepted_with_a_warning_and_completes(
    make_cluster: MakeCluster,
    private_redis: Service,
    sqlite_url: str,
    trace: Trace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = private_redis.url.replace("://", "://:secret@")
    cluster = make_cluster(BROKER_URL=url, DATABASE_URL=sqlite_url, **QUICK)
    private_redis.kill()

    began = time.monotonic()
    handle = trace.start(flows.chain)
    took_s = time.monotonic() - began
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    private_redis.restart()
    with redis.Redis.from_url(private_redis.url) as broker:
        broker.config_set("requirepass", "secret")
    cluster.start_worker()

    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)
    assert took_s < 5
    assert any(url.replace("secret", "***") in line and "docker compose up" in line for line in warnings)
    assert "secret" not in caplog.text


def test_runs_complete_after_postgres_was_restarted_and_crashed_under_them(
    make_cluster: MakeCluster, redis_url: str, private_postgres: Service, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=private_postgres.url, **QUICK)
    cluster.start_workers(2)
    handles = [trace.start(flows.relay, left=60) for _ in range(6)]

    for step, take_down in ((10, private_postgres.restart), (30, private_postgres.kill)):
        run_id = handles[0].run_id
        wait_until(lambda: len(trace.of(run_id)) >= step, timeout_s=WAIT_S, what=f"step {step}")  # noqa: B023
        take_down()
    private_postgres.restart()
    for handle in handles:
        handle.wait(WAIT_S)

    assert [committed_steps(handle, cluster.database) for handle in handles] == [list(range(60))] * 6


def test_a_lost_message_is_sent_again(
    make_cluster: MakeCluster, redis_url: str, postgres_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=postgres_url, **QUICK)
    handle = trace.start(flows.chain)
    with redis.Redis.from_url(redis_url) as broker:
        assert broker.delete(QUEUE) == 1
    cluster.start_worker()

    result = handle.wait(WAIT_S)

    assert result["done"] == list(flows.NAMES)
    assert committed_steps(handle, cluster.database) == ALL_STEPS


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_writes_nothing_and_the_worker_goes_on(
    cluster: Cluster, trace: Trace, name: str
) -> None:
    before = _rows(cluster)
    with redis.Redis.from_url(str(cluster.settings["BROKER_URL"])) as broker:
        for _ in cluster.workers:
            broker.lpush(QUEUE, MALFORMED[name])
        wait_until(lambda: broker.llen(QUEUE) == 0, what="workers to take the messages")
    written = _rows(cluster)

    handles = [trace.start(flows.chain) for _ in range(4)]

    assert all(handle.wait(WAIT_S)["done"] == list(flows.NAMES) for handle in handles)
    assert written == before
    assert _rows(cluster)["pf_runs"] == before["pf_runs"] + 4
    assert [worker.exit_code for worker in cluster.workers] == [None, None]


@pytest.mark.parametrize("item", NO_MESSAGES)
def test_a_queue_item_that_is_no_message_writes_nothing_and_a_restarted_worker_goes_on(
    make_cluster: MakeCluster, redis_url: str, sqlite_url: str, trace: Trace, item: str
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=sqlite_url)
    worker = cluster.start_worker()
    with redis.Redis.from_url(redis_url) as broker:
        broker.lpush(QUEUE, item)
        wait_until(lambda: broker.llen(QUEUE) == 0, what="the worker to take the item")
    before = _rows(cluster)
    handle = trace.start(flows.chain)

    wait_until(lambda: worker.exit_code is not None or handle.is_done, timeout_s=WAIT_S)
    if worker.exit_code is not None:
        cluster.start_worker()

    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)
    assert set(before.values()) == {0}


def _ends_after(handle: RunHandle, node: str) -> list[EventRow]:
    ends = events_of(handle, "node_end")
    return ends[[event["node_name"] for event in ends].index(node) + 1 :]


def _count(cluster: Cluster, status: str) -> int:
    return sum(run["status"] == status for run in cluster.database.list_runs())


def _nodes(trace: Trace, run_id: str) -> list[tuple[str, str]]:
    return [(run_id, effect.node) for effect in trace.of(run_id)]


def _rows(cluster: Cluster) -> dict[str, int]:
    """How many rows each table has."""
    tables = ("pf_runs", "pf_checkpoints", "pf_events")
    with engine_for(as_url(str(cluster.settings["DATABASE_URL"]))).connect() as connection:
        return {
            name: connection.execute(text(f"select count(*) from {name}")).scalar_one() for name in tables
        }
