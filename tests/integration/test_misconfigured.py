"""What is set up wrong says so: which setting, which value (no password), and what to do."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from pocoflow import DatabaseError, Flow, RunHandle, UnknownFlowError, runner
from pocoflow.services import Service
from tests.integration import flows
from tests.support.wait import wait_until
from tests.support.workers import MakeCluster, Trace

WAIT_S = 60.0
MYSTERY = Flow(flows.Step(name="first"), flow_name="mystery")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port at which nobody answers, and nobody else will as long as the test lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def with_password(url: str) -> str:
    return make_url(url).set(password="s3cret").render_as_string(hide_password=False)


def masked(url: str) -> str:
    return make_url(url).render_as_string()


def warning_of(handle: RunHandle, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the handle has to say when no worker takes the run."""
    monkeypatch.setattr(runner, "UNCLAIMED_AFTER_S", 0.0)
    with pytest.warns(UserWarning, match="not taken by any worker") as caught, pytest.raises(TimeoutError):
        handle.wait(0.2)
    return str(caught[0].message)


def test_a_worker_that_does_not_know_the_flow_leaves_it_to_one_that_does(
    make_cluster: MakeCluster, redis_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=sqlite_url)
    ignorant = cluster.start_worker(FLOWS=None)
    handle = trace.start(flows.gather, numbers=[3])
    wait_until(lambda: "flow unknown here" in ignorant.log, timeout_s=WAIT_S)

    cluster.start_worker()

    assert handle.wait(WAIT_S)["result"] == [9]
    assert "POCOFLOW_FLOWS" in ignorant.log


def test_a_run_gets_on_beside_an_idle_worker_that_does_not_know_its_flow(
    make_cluster: MakeCluster, redis_url: str, sqlite_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=sqlite_url, SWEEP_S="0.3")
    cluster.start_worker(FLOWS="examples.hello")
    cluster.start_worker()

    handles = [trace.start(flows.chain) for _ in range(6)]

    for handle in handles:
        handle.wait(WAIT_S)
    assert {handle.status for handle in handles} == {"completed"}


def test_a_run_whose_flow_nobody_knows_fails_in_time_and_names_flow_and_setting(
    make_cluster: MakeCluster, redis_url: str, postgres_url: str, trace: Trace
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=postgres_url, UNROUTABLE_S="1.5")
    cluster.start_worker()
    handle = trace.start(MYSTERY)

    with pytest.raises(UnknownFlowError, match=r"'mystery'.*POCOFLOW_FLOWS='tests.integration.flows'"):
        handle.wait(WAIT_S)

    assert handle.status == "failed"
    assert trace.of(handle.run_id) == []


def test_a_worker_on_another_database_says_so_and_so_does_the_handle(
    make_cluster: MakeCluster,
    redis_url: str,
    postgres_url: str,
    sqlite_url: str,
    trace: Trace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = with_password(postgres_url)
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=ours)
    stray = cluster.start_worker(DATABASE_URL=sqlite_url)

    handle = trace.start(flows.chain)
    wait_until(lambda: "another database" in stray.log, timeout_s=WAIT_S)
    warning = warning_of(handle, monkeypatch)

    assert all(url in stray.log and url in warning for url in (masked(ours), sqlite_url))
    assert "POCOFLOW_DATABASE_URL" in warning
    assert "s3cret" not in stray.log + warning


def test_a_worker_on_another_database_masks_its_own_password(
    make_cluster: MakeCluster, redis_url: str, postgres_url: str, sqlite_url: str, trace: Trace
) -> None:
    theirs = with_password(postgres_url)
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=sqlite_url)
    stray = cluster.start_worker(DATABASE_URL=theirs)

    trace.start(flows.chain)
    wait_until(lambda: "another database" in stray.log, timeout_s=WAIT_S)

    assert masked(theirs) in stray.log
    assert "s3cret" not in stray.log


def test_a_run_that_no_worker_takes_warns_with_database_setting_and_command(
    make_cluster: MakeCluster,
    redis_url: str,
    postgres_url: str,
    trace: Trace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = with_password(postgres_url)
    make_cluster(BROKER_URL=redis_url, DATABASE_URL=ours)

    warning = warning_of(trace.start(flows.chain), monkeypatch)

    assert masked(ours) in warning
    assert "celery -A pocoflow.workers worker" in warning
    assert "s3cret" not in warning


TWINS = "from pocoflow import Flow, Node\n{} = Flow(Node(), flow_name='twin')\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"BROKER_URL": None}, "POCOFLOW_BROKER_URL is not set"),
        ({"LEASE_S": "ten"}, "POCOFLOW_LEASE_S='ten'"),
        ({"BROKER_URL": "http://user:s3cret@localhost"}, "POCOFLOW_BROKER_URL=http://user:***@localhost"),
        (
            {"DATABASE_URL": "mysql://me:s3cret@localhost/x"},
            "POCOFLOW_DATABASE_URL=mysql://me:***@localhost/x",
        ),
        ({"FLOWS": "no.such.module"}, "POCOFLOW_FLOWS names 'no.such.module'"),
        ({"FLOWS": "left,right"}, "two flows are named 'twin', in left and in right"),
        ({"FAULTS": "in_exce=kill9"}, "POCOFLOW_FAULTS: 'in_exce=kill9' names no point 'in_exce'"),
        ({"EFFECT_LOG": "/no/folder/log"}, "POCOFLOW_EFFECT_LOG=/no/folder/log: cannot be written"),
    ],
    ids=[
        "no broker",
        "no number",
        "broker scheme",
        "database scheme",
        "no module",
        "two flows of one name",
        "no fault",
        "no folder",
    ],
)
def test_a_worker_with_a_wrong_setting_does_not_start_and_names_it(
    make_cluster: MakeCluster,
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str | None],
    said: str,
) -> None:
    for name in ("left", "right"):
        (tmp_path / f"{name}.py").write_text(TWINS.format(name))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cluster = make_cluster(BROKER_URL="redis://127.0.0.1:1/0", DATABASE_URL=sqlite_url)

    worker = cluster.start_worker(wait=False, **settings)
    exit_code = worker.wait_until_ended()

    assert exit_code != 0
    assert said in re.sub(r"\s+", " ", worker.log)
    assert "s3cret" not in worker.log


def test_a_run_cannot_be_started_without_its_database_and_the_error_names_url_and_command(
    make_cluster: MakeCluster, redis_url: str, trace: Trace, closed_port: int
) -> None:
    url = f"postgresql+psycopg://me:s3cret@127.0.0.1:{closed_port}/runs"
    make_cluster(BROKER_URL=redis_url, DATABASE_URL=url)
    began = time.monotonic()

    with pytest.raises(DatabaseError) as caught:
        trace.start(flows.chain)

    assert time.monotonic() - began < 10
    assert masked(url) in str(caught.value)
    assert "docker compose up -d postgres" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_database_that_goes_away_between_two_starts_is_named_with_a_command(
    make_cluster: MakeCluster, redis_url: str, private_postgres: Service, trace: Trace
) -> None:
    url = with_password(private_postgres.url)
    make_cluster(BROKER_URL=redis_url, DATABASE_URL=url)
    trace.start(flows.chain)
    private_postgres.kill()

    with pytest.raises(DatabaseError) as caught:
        trace.start(flows.chain)

    assert masked(url) in str(caught.value)
    assert "docker compose up -d postgres" in str(caught.value)


def test_a_sqlite_file_that_cannot_be_made_is_named(
    make_cluster: MakeCluster, redis_url: str, tmp_path: Path, trace: Trace
) -> None:
    (tmp_path / "file").touch()
    make_cluster(BROKER_URL=redis_url, DATABASE_URL=f"sqlite:///{tmp_path}/file/runs.db")

    with pytest.raises(DatabaseError, match=f"{tmp_path}/file/runs.db"):
        trace.start(flows.chain)
