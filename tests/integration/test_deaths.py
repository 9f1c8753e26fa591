"""Whatever a step does to its process: the worker survives it, and the step is taken up again at once.

Where leases, grace and sweeps are an hour long, only the news of a death can have brought a step back.
"""

from __future__ import annotations

import os
import signal

import pytest

from pocoflow import PoisonStepError, RunHandle, StepFailedError
from pocoflow.broker import make_app
from pocoflow.settings import Settings
from tests.integration import deadly, flows
from tests.support.wait import wait_until
from tests.support.workers import MakeCluster, Trace, committed_steps, events_of

WAIT_S = 90.0
FLOWS = "tests.integration.flows,tests.integration.deadly"
NEVER = {"LEASE_S": "3600", "SWEEP_S": "3600", "GRACE_S": "3600", "FLOWS": FLOWS}
MAX_CRASHES = 1


@pytest.fixture(params=["redis_url", "amqp_url"])
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.mark.parametrize(("workers", "children"), [(1, 1), (1, 2), (2, 1)])
def test_a_step_whose_process_is_killed_starts_again_long_before_its_lease_ends(
    make_cluster: MakeCluster, redis_url: str, database_url: str, trace: Trace, workers: int, children: int
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, **NEVER)
    cluster.start_workers(workers, "-c", str(children))
    handle = trace.start(flows.chain, hold="two")
    first = trace.wait_for(handle.run_id, "two")

    os.kill(first.pid, signal.SIGKILL)
    second = trace.wait_for(handle.run_id, "two", count=2)
    crashes = cluster.database.get_run(handle.run_id)["crashes"]
    trace.open_gate()
    handle.wait(WAIT_S)

    assert crashes == 1
    assert second.pid != first.pid
    assert [(event["node_name"], event["attempt"]) for event in events_of(handle, "step_lost")] == [
        ("two", 1)
    ]
    assert committed_steps(handle, cluster.database) == [0, 1, 2, 3, 4]


def test_a_worker_survives_whatever_its_steps_do(
    make_cluster: MakeCluster, broker_url: str, sqlite_url: str, trace: Trace
) -> None:
    limit = {"MAX_CRASHES": str(MAX_CRASHES)}
    worker = make_cluster(BROKER_URL=broker_url, DATABASE_URL=sqlite_url, **NEVER, **limit).start_worker()
    cases = deadly.cases()

    handles = [trace.start(deadly.doomed, deed=deed, where=where) for deed, where in cases]
    ends = {case: _end(handle) for case, handle in zip(cases, handles, strict=True)}
    tries = {
        case: len(trace.of(handle.run_id, "doomed")) for case, handle in zip(cases, handles, strict=True)
    }

    assert ends == {case: deadly.expected_end(case[0], max_crashes=MAX_CRASHES) for case in cases}
    assert tries == {case: deadly.expected_tries(*case, max_crashes=MAX_CRASHES) for case in cases}
    assert trace.start(flows.chain).wait(WAIT_S)["done"] == list(flows.NAMES)
    assert worker.exit_code is None


def test_a_step_that_kills_its_process_each_time_fails_its_run_and_no_other(
    make_cluster: MakeCluster, redis_url: str, database_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, **NEVER, MAX_CRASHES="3")
    cluster.start_worker("-c", "2")
    others = [trace.start(flows.relay, left=20) for _ in range(3)]
    poison = trace.start(flows.deadly)

    with pytest.raises(PoisonStepError, match="'deadly' lost its worker 4 times at step 1"):
        poison.wait(WAIT_S)
    for other in others:
        other.wait(WAIT_S)

    assert len(trace.of(poison.run_id, "deadly")) == 4
    assert committed_steps(poison, cluster.database) == [0]
    assert [committed_steps(other, cluster.database) for other in others] == [list(range(20))] * 3
    assert [events_of(other, "step_lost") for other in others] == [[], [], []]


def test_the_message_of_a_step_whose_process_is_killed_does_not_come_back(
    make_cluster: MakeCluster, amqp_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=amqp_url, DATABASE_URL=sqlite_url, **NEVER)
    worker = cluster.start_worker()
    handle = trace.start(flows.chain, hold="two")

    os.kill(trace.wait_for(handle.run_id, "two").pid, signal.SIGKILL)
    trace.wait_for(handle.run_id, "two", count=2)
    trace.open_gate()
    handle.wait(WAIT_S)
    # What it had not acknowledged would be in the queue again now.
    worker.kill()

    with make_app(Settings.load(), amqp_url).connection() as connection:
        left = [connection.default_channel.queue_purge(name) for name in ("pocoflow", "pocoflow.sweep")]
    assert left == [0, 0]
    assert len(trace.of(handle.run_id, "two")) == 2


def test_a_worker_whose_child_has_no_memory_left_outside_any_step_goes_on(
    make_cluster: MakeCluster, redis_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=sqlite_url, FLOWS=FLOWS)
    worker = cluster.start_worker()

    trace.start(deadly.hoarder).wait(WAIT_S)
    wait_until(lambda: worker.log.count("no room") > 2, timeout_s=WAIT_S, what="sweeps without memory")

    assert trace.start(flows.chain).wait(WAIT_S)["done"] == list(flows.NAMES)
    assert worker.exit_code is None


def _end(handle: RunHandle) -> tuple[str, str]:
    with pytest.raises(StepFailedError) as caught:
        handle.wait(WAIT_S)
    return caught.value.error_type, caught.value.error_text
