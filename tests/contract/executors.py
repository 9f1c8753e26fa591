"""Every way to execute a flow, on every kind of ledger, as one function that tells what became of the run.

What may differ from one to another is taken away here and nowhere else: see `_comparable` and `_told`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pocoflow import Flow, RunHandle, StepFailedError, client
from tests.contract import flows
from tests.contract.builders import Entry, history
from tests.support.workers import Cluster, lasting_cluster, lent

RUN_ID = "<run>"
TIMEOUT_S = 60.0
# How a Celery worker is started; one process makes all the tries of a step, as `flows.Flaky` asks for.
POOLS = {"prefork": ("-P", "prefork", "-c", "1"), "threads": ("-P", "threads", "-c", "2")}
EXECUTORS = [
    ("inline", "sqlite"),
    ("inline", "postgres"),
    ("embedded", "memory"),
    ("embedded", "sqlite"),
    ("embedded", "postgres"),
    ("threads", "sqlite"),
    ("threads", "postgres"),
    ("prefork", "sqlite"),
    ("prefork", "postgres"),
]


@dataclass(frozen=True)
class Outcome:
    """What became of a run; the error is its type and text."""

    status: str
    store: dict[str, Any]
    history: list[Entry]
    error: tuple[str, str] | None = None


Run = Callable[[Flow, dict[str, Any], str], tuple[RunHandle, Exception | None]]
Execute = Callable[[Flow, dict[str, Any]], Outcome]


def _run_inline(flow: Flow, store: dict[str, Any], run_id: str) -> tuple[RunHandle, Exception | None]:
    """Run it here; the handle looks at what its ledger has of it."""
    try:
        flow.run(store, run_id=run_id)
    except Exception as error:
        return client.handle(run_id, flow.db_path), error
    return client.handle(run_id, flow.db_path), None


def _run_background(flow: Flow, store: dict[str, Any], run_id: str) -> tuple[RunHandle, Exception | None]:
    """Run it where the settings say: in a thread of this process, or on the workers of a cluster."""
    handle = flow.run_background(store, run_id=run_id)
    try:
        handle.wait(TIMEOUT_S)
    except Exception as error:
        return handle, error
    return handle, None


@dataclass(frozen=True)
class Executor:
    """A way to run a flow, the database to keep it in, and the processes in which its steps must run."""

    run: Run
    database: str | None
    pids: frozenset[int]
    cluster: Cluster | None = None

    def execute(self, flow: Flow, store: dict[str, Any]) -> Outcome:
        run_id = f"run-{uuid4().hex}"
        handle, error = self.run(flow, store, run_id)
        entries = [_comparable(entry, self.pids) for entry in history(handle._ledger, run_id)]
        return Outcome(handle.status, dict(handle.store), entries, _told(error, run_id))


def _comparable(entry: Entry, pids: frozenset[int]) -> Entry:
    """Leave out how long it took, and in which process, once that is seen to be the right one."""
    assert entry.worker is None or int(entry.worker.rpartition(":")[2]) in pids
    return replace(entry, worker=None, elapsed_ms=None)


def _told(error: Exception | None, run_id: str) -> tuple[str, str] | None:
    """Return type and text of what the node raised, here or elsewhere."""
    if error is None:
        return None
    if isinstance(error, StepFailedError):
        return error.error_type, error.error_text
    return type(error).__name__, str(error).replace(run_id, RUN_ID)


@pytest.fixture(scope="module", params=EXECUTORS, ids="-".join)
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """One for all tests of a module, since a worker takes longer to start than to do all their steps."""
    kind, database = request.param
    folder = tmp_path_factory.mktemp(f"{kind}-{database}")
    if kind in POOLS:
        with lasting_cluster(request, database, folder, FLOWS=flows.__name__) as cluster:
            yield _on_worker(cluster, kind)
    else:
        run = _run_inline if kind == "inline" else _run_background
        yield Executor(run, _database(request, database, folder), frozenset({os.getpid()}))


def _on_worker(cluster: Cluster, pool: str) -> Executor:
    worker = cluster.start_worker(*POOLS[pool])
    pids = worker.children if pool == "prefork" else [worker.pid]
    return Executor(_run_background, cluster.settings["DATABASE_URL"], frozenset(pids), cluster)


def _database(request: pytest.FixtureRequest, kind: str, folder: Path) -> str | None:
    if kind == "memory":
        return None
    if kind == "sqlite":
        return f"sqlite:///{folder / 'pocoflow.db'}"
    url: str = request.getfixturevalue("shared_postgres_url")
    return url


@pytest.fixture
def execute(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Execute]:
    """Execute a flow by this executor, with its surroundings for as long as the test lasts."""

    def execute(flow: Flow, store: dict[str, Any]) -> Outcome:
        monkeypatch.setattr(flow, "db_path", executor.database)
        return executor.execute(flow, store)

    with nullcontext() if executor.cluster is None else lent(executor.cluster, monkeypatch):
        yield execute
