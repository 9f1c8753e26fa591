"""Secrets cross real workers, and are found in clear nowhere outside their memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography.fernet import Fernet
from sqlalchemy import text

from pocoflow import SecretKeyError, StepFailedError, Store
from pocoflow.db.connect import database_url, engine_for
from pocoflow.db.schema import metadata
from tests.integration.secret_flows import log_in
from tests.support.wait import wait_until
from tests.support.workers import Cluster, MakeCluster, events_of

WAIT_S = 60.0
SECRET = "sk-live-4711"
KEY = Fernet.generate_key().decode()


@pytest.fixture
def secret_cluster(make_cluster: MakeCluster, redis_url: str, database_url: str) -> Cluster:
    """No worker yet, and the key in the environment of the test."""
    settings = {"FLOWS": "tests.integration.secret_flows", "UNROUTABLE_S": "60", "SECRET_KEY": KEY}
    return make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, **settings)


def given(**data: Any) -> Store:
    usual = {"api_key": SECRET, "left": 1, "pids": [], "fails": False}
    return Store({**usual, **data}, secret={"api_key", "token"})


def all_that_is_kept(cluster: Cluster) -> str:
    """What workers logged, what Redis has, and the database: its rows, and its files as they lie on disk."""
    logs = [worker.log for worker in cluster.workers]
    broker = redis.Redis.from_url(str(cluster.settings["BROKER_URL"]))
    dump = [str(broker.dump(key)) for key in broker.scan_iter()]
    url = database_url(str(cluster.settings["DATABASE_URL"]))
    with engine_for(url).connect() as connection:
        rows = [connection.execute(text(f"select * from {name}")).all() for name in metadata.tables]
    files = []
    if url.get_backend_name() == "sqlite":
        file = Path(str(url.database))
        files = [path.read_bytes().decode("latin-1") for path in file.parent.glob(f"{file.name}*")]
    return "\n".join([*logs, *dump, str(rows), *files])


def assert_kept_secret(cluster: Cluster) -> None:
    kept = all_that_is_kept(cluster)
    assert "log_in" in kept
    assert not [clear for clear in (SECRET, KEY) if clear in kept]


def test_a_secret_crosses_two_workers_and_is_in_clear_nowhere(secret_cluster: Cluster) -> None:
    secret_cluster.start_workers(2)

    handle = log_in.run_background(given(left=50))
    result = handle.wait(WAIT_S)

    assert len(set(result["pids"])) == 2
    assert result["api_key"] == SECRET
    assert result["token"] == f"token-of-{SECRET}-{result['pids'][-1]}"
    assert_kept_secret(secret_cluster)


def test_an_error_that_quotes_a_secret_is_in_clear_nowhere(secret_cluster: Cluster) -> None:
    secret_cluster.start_worker()

    handle = log_in.run_background(given(fails=True))
    with pytest.raises(StepFailedError, match=r"ConnectionError: no answer to Authorization: Bearer \*\*\*"):
        handle.wait(WAIT_S)

    assert [event["error_msg"] for event in events_of(handle, "node_retry")] == [
        "no answer to Authorization: Bearer ***"
    ]
    assert_kept_secret(secret_cluster)


@pytest.mark.parametrize("other", [None, Fernet.generate_key().decode()], ids=["no key", "another key"])
def test_a_worker_without_the_key_leaves_the_steps_to_one_that_has_it(
    secret_cluster: Cluster, other: str | None
) -> None:
    blind = secret_cluster.start_worker(SECRET_KEY=other)
    handle = log_in.run_background(given(left=10))
    wait_until(lambda: "no key here for a secret" in blind.log, timeout_s=WAIT_S)

    able = secret_cluster.start_worker()
    result = handle.wait(WAIT_S)

    assert result["token"] == f"token-of-{SECRET}-{able.children[0]}"
    assert set(result["pids"]) == set(able.children)
    assert_kept_secret(secret_cluster)


def test_a_run_that_no_worker_has_the_key_for_fails_and_names_the_setting(secret_cluster: Cluster) -> None:
    secret_cluster.start_worker(SECRET_KEY=None, UNROUTABLE_S="1")

    handle = log_in.run_background(given())
    with pytest.raises(StepFailedError, match=r"'api_key' is secret.*set POCOFLOW_SECRET_KEY") as caught:
        handle.wait(WAIT_S)

    assert caught.value.error_type == SecretKeyError.__name__
    assert events_of(handle, "node_start") == []
    assert handle.store["api_key"] == SECRET
    assert_kept_secret(secret_cluster)
