"""The main story with RabbitMQ as the broker and no Redis at all."""

from __future__ import annotations

import logging
import time
from urllib.parse import urlsplit

import pytest
from kombu.exceptions import OperationalError

from pocoflow import RunCancelledError
from pocoflow.broker import SWEEP, Link, make_app
from pocoflow.services import Service
from pocoflow.settings import Settings
from tests.integration import flows
from tests.support.proxy import Proxy
from tests.support.wait import wait_until
from tests.support.workers import MakeCluster, Trace, committed_steps, events_of

WAIT_S = 60.0
QUICK = {"LEASE_S": "2", "SWEEP_S": "0.3", "GRACE_S": "1"}


def test_steps_of_runs_are_executed_by_different_processes_and_committed_once(
    make_cluster: MakeCluster, amqp_url: str, postgres_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=amqp_url, DATABASE_URL=postgres_url)
    cluster.start_workers(2)
    handles = [trace.start(flows.relay, left=30) for _ in range(4)]

    for handle in handles:
        handle.wait(WAIT_S)

    workers = {event["worker"] for handle in handles for event in events_of(handle, "node_end")}
    assert len(workers) == 2
    assert [committed_steps(handle, cluster.database) for handle in handles] == [list(range(30))] * 4


def test_a_step_whose_worker_is_killed_is_completed_by_another_one_and_committed_once(
    make_cluster: MakeCluster, amqp_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=amqp_url, DATABASE_URL=sqlite_url, **QUICK)
    doomed = cluster.start_worker()
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")
    cluster.start_worker()

    doomed.kill()
    trace.wait_for(handle.run_id, "two", count=2)
    trace.open_gate()
    handle.wait(WAIT_S)

    assert committed_steps(handle, cluster.database) == [0, 1, 2, 3, 4]
    assert len(trace.of(handle.run_id, "two")) == 2


def test_a_running_step_is_cancelled_without_redis(
    make_cluster: MakeCluster, amqp_url: str, sqlite_url: str, trace: Trace
) -> None:
    make_cluster(BROKER_URL=amqp_url, DATABASE_URL=sqlite_url).start_worker()
    handle = trace.start(flows.patient)
    trace.wait_for(handle.run_id, "patient")

    handle.cancel()

    with pytest.raises(RunCancelledError):
        handle.wait(WAIT_S)
    assert handle.store["result"] == "returned early"
    assert trace.of(handle.run_id, "later") == []


def test_a_retry_comes_when_its_delay_is_over(
    make_cluster: MakeCluster, amqp_url: str, sqlite_url: str, trace: Trace
) -> None:
    make_cluster(BROKER_URL=amqp_url, DATABASE_URL=sqlite_url).start_worker()

    handle = trace.start(flows.flaky, failures=1)

    assert handle.wait(WAIT_S)["result"] == "try 2"


def test_a_node_with_a_queue_runs_only_on_a_worker_that_takes_that_queue(
    make_cluster: MakeCluster, amqp_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=amqp_url, DATABASE_URL=sqlite_url)
    plain = cluster.start_worker("-P", "solo")
    gpu = cluster.start_worker("-P", "solo", "-Q", "gpu")
    handle = trace.start(flows.gpu)

    handle.wait(WAIT_S)

    assert [(effect.node, effect.pid) for effect in trace.of(handle.run_id)] == [
        ("before", plain.pid),
        ("on_gpu", gpu.pid),
        ("after", plain.pid),
    ]


def test_runs_complete_after_a_crash_of_the_broker_and_start_while_it_is_down(
    make_cluster: MakeCluster,
    private_rabbitmq: Service,
    sqlite_url: str,
    trace: Trace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = make_cluster(BROKER_URL=private_rabbitmq.url, DATABASE_URL=sqlite_url, **QUICK)
    cluster.start_worker()
    under_way = trace.start(flows.chain, hold="two")
    trace.wait_for(under_way.run_id, "two")

    private_rabbitmq.kill()
    new = trace.start(flows.chain)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    trace.open_gate()
    private_rabbitmq.restart()
    for handle in (under_way, new):
        handle.wait(WAIT_S)

    assert any("hint not sent" in line and "guest:***@" in line for line in warnings)
    assert [committed_steps(handle, cluster.database) for handle in (under_way, new)] == [[0, 1, 2, 3, 4]] * 2


def test_a_worker_that_lost_all_messages_finds_the_runs_in_the_database(
    make_cluster: MakeCluster, amqp_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=amqp_url, DATABASE_URL=sqlite_url, **QUICK)
    handle = trace.start(flows.chain)
    with make_app(Settings.load(), amqp_url).connection() as connection:
        wait_until(lambda: connection.default_channel.queue_purge("pocoflow") == 1, what="the message")

    cluster.start_worker()

    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)


def test_a_sender_does_not_wait_for_a_broker_that_does_not_answer(amqp_url: str) -> None:
    parts = urlsplit(amqp_url)
    with Proxy((str(parts.hostname), parts.port or 5672)) as wire:
        url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{wire.port}").geturl()
        link = Link(make_app(Settings.load(), url), timeout_s=0.5)
        link.send(SWEEP, queue="pocoflow")

        wire.freeze()
        began = time.monotonic()
        with pytest.raises(OperationalError):
            link.send(SWEEP, queue="pocoflow")
        took_s = time.monotonic() - began
        wire.thaw()

        link.send(SWEEP, queue="pocoflow")
        assert took_s < 5


def test_a_worker_starts_where_messages_of_all_kinds_wait_for_it(
    make_cluster: MakeCluster, amqp_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=amqp_url, DATABASE_URL=sqlite_url)
    sender = make_app(Settings.load(), amqp_url)
    for _ in range(10):
        sender.send_task(SWEEP, queue="pocoflow.sweep")
    handles = [trace.start(flows.chain) for _ in range(3)]

    cluster.start_worker()

    assert all(handle.wait(WAIT_S)["done"] == list(flows.NAMES) for handle in handles)
