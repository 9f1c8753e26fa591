"""Whoever waits for a run hears of its end, also when Redis or the database was away meanwhile."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from pocoflow import DatabaseError
from pocoflow.services import Service
from tests.contract.network import BlackHole
from tests.integration import flows
from tests.support.wait import wait_until
from tests.support.workers import MakeCluster, Trace

WAIT_S = 60.0
AWAY = "database is away, still waiting"


def test_all_who_wait_get_their_result_after_the_database_was_away(
    make_cluster: MakeCluster,
    redis_url: str,
    private_postgres: Service,
    trace: Trace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=private_postgres.url)
    cluster.start_worker("-c", "2")
    runs = [trace.start(flows.chain, hold="two") for _ in range(2)]
    for run in runs:
        trace.wait_for(run.run_id, "two")

    with ThreadPoolExecutor(20) as pool:
        results = [pool.submit(run.wait, WAIT_S) for run in runs * 10]
        private_postgres.kill()
        wait_until(lambda: AWAY in caplog.text, timeout_s=WAIT_S, what="the outage to be noticed")
        trace.open_gate()
        with pytest.raises(DatabaseError, match="docker compose up"):
            runs[0].wait(0.1)
        private_postgres.restart()

        assert [result.result()["done"] for result in results] == [list(flows.NAMES)] * 20

    lines = [line for line in caplog.records if line.levelno == logging.WARNING and AWAY in line.getMessage()]
    assert len(lines) == 1


def test_an_end_is_heard_of_where_redis_does_not_answer(
    make_cluster: MakeCluster, redis_url: str, database_url: str, trace: Trace
) -> None:
    with BlackHole() as hole:
        nobody_there = f"redis://{hole.address}/0"
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, REDIS_URL=nobody_there)
    cluster.start_worker()

    handle = trace.start(flows.chain)

    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)
    assert [event["event"] for event in handle.events(follow=True)][-1] == "flow_end"
