"""Real Celery worker processes for tests, in the surroundings that they share with the test itself.

A `Cluster` is a broker, a database and the settings that name them. Its workers end with the test, or with
the test process, however that ends; what they logged is printed, for pytest to show when the test fails.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from pocoflow.db.workflow_db import WorkflowDB
from pocoflow.engine.rows import EventRow
from pocoflow.flow import Flow
from pocoflow.guard import GuardedProcess, guarded_popen
from pocoflow.runner import RunHandle
from tests.support.services import _redis_database
from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "POCOFLOW_"
START_S = 60.0
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
# Short, for what is late to be noticed soon; the lease is as long as a busy machine may be silent.
SETTINGS = {"FLOWS": "tests.integration.flows", "LEASE_S": "10", "SWEEP_S": "0.3", "GRACE_S": "1"}


def environment(settings: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment with these settings and no other; None leaves one out."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    chosen = {PREFIX + name: value for name, value in settings.items() if value is not None}
    return {**inherited, **chosen}


class WorkerProcess:
    """One `celery -A pocoflow.workers worker`, with its log in a file."""

    def __init__(self, log: Path, options: tuple[str, ...], environ: Mapping[str, str]) -> None:
        self._log = log
        command = [sys.executable, "-m", "celery", "-A", "pocoflow.workers", "worker"]
        pool = () if {"-c", "-P"} & set(options) else ("-c", "1")
        name = ("-n", f"{log.stem}@%h")
        with log.open("wb") as output:
            self._process: GuardedProcess = guarded_popen(
                [*command, "-l", "info", *QUIET, *name, *pool, *options],
                grace_s=0.1,
                env=environ,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the main process, which executes steps only with `-P solo` or `-P threads`."""
        return self._process.command_pid

    @property
    def log(self) -> str:
        """All that it wrote so far."""
        return self._log.read_text(errors="replace")

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def children(self) -> list[int]:
        """The processes that execute steps for a prefork worker; none when the main process has ended."""
        try:
            pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in pids.split()]

    def wait_until_ready(self) -> None:
        wait_until(self._is_ready, timeout_s=START_S, what=f"{self._log.stem} to get ready")

    def wait_until_ended(self) -> int:
        return self._process.wait(START_S)

    def send_signal(self, number: int) -> None:
        """Signal the main process alone."""
        os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stop all its processes in their tracks, until `thaw`."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def unguarded(self) -> Iterator[None]:
        """While nobody notices that the main process has ended, and ends what it has left behind."""
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """kill -9 of the main process and all its children; safe to repeat."""
        self._process.end(signal.SIGKILL, limit_s=START_S)

    def _is_ready(self) -> bool:
        if self.exit_code is not None:
            raise AssertionError(f"{self._log.stem} ended with exit code {self.exit_code}:\n{self.log}")
        return re.search(r" ready\.$", self.log, re.MULTILINE) is not None


@dataclass
class Cluster:
    """A broker, a database and workers; `settings` are without the prefix POCOFLOW_."""

    settings: dict[str, str | None]
    folder: Path
    workers: list[WorkerProcess] = field(default_factory=list)

    @property
    def database(self) -> WorkflowDB:
        return WorkflowDB(str(self.settings["DATABASE_URL"]))

    def start_worker(self, *options: str, wait: bool = True, **settings: str | None) -> WorkerProcess:
        """Start a worker with one prefork child, unless the options say otherwise.

        Args:
            options: For Celery's command line.
            wait: Return when it is ready for steps.
            settings: Where it differs from the cluster; None leaves one out.
        """
        log = self.folder / f"worker{len(self.workers) + 1}-{uuid4().hex[:6]}.log"
        worker = WorkerProcess(log, options, environment({**self.settings, **settings}))
        self.workers.append(worker)
        if wait:
            worker.wait_until_ready()
        return worker

    def start_workers(self, count: int, *options: str) -> list[WorkerProcess]:
        """Start several at the same time."""
        started = [self.start_worker(*options, wait=False) for _ in range(count)]
        for worker in started:
            worker.wait_until_ready()
        return started

    def adopt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give the test process the settings of this cluster."""
        for name, value in self.settings.items():
            if value is not None:
                monkeypatch.setenv(PREFIX + name, value)

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()

    def show_logs(self, since: Mapping[int, int] | None = None) -> None:
        """Print what the workers wrote; pytest shows it when the test has failed."""
        for worker in self.workers:
            print(f"----- {worker._log.name} -----\n{worker.log[(since or {}).get(worker.pid, 0) :]}")


@contextmanager
def _postgres_database(server_url: str) -> Iterator[str]:
    """An empty database for as long as the context lasts; the one of the fixture lasts for one test."""
    server = make_url(server_url)
    name = f"pocoflow_test_{uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@dataclass(frozen=True)
class Effect:
    """One execution of a step, as the step itself wrote it down outside the database."""

    run_id: str
    node: str
    pid: int


@dataclass
class Trace:
    """The files that the steps of a test write to and wait for; see `tests.integration.flows`."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "effects.log"

    @property
    def gate(self) -> Path:
        return self.folder / "gate"

    def start(self, flow: Flow, *, run_id: str | None = None, **data: object) -> RunHandle:
        """Start a run whose steps write to this trace; `hold="two"` keeps node two waiting for the gate."""
        run_id = run_id or f"{flow.flow_name}-{uuid4().hex[:8]}"
        paths = {"log": str(self.path), "gate": str(self.gate)}
        return flow.run_background({"run": run_id, **paths, **data}, run_id=run_id)

    def open_gate(self) -> None:
        self.gate.touch()

    def of(self, run_id: str, node: str | None = None) -> list[Effect]:
        """Executions so far, oldest first."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        found = [Effect(run, name, int(pid)) for run, name, pid in map(str.split, lines)]
        return [one for one in found if one.run_id == run_id and node in (None, one.node)]

    def wait_for(self, run_id: str, node: str, *, count: int = 1) -> Effect:
        """Wait until a node was executed so many times, and return the last one."""
        wait_until(
            lambda: len(self.of(run_id, node)) >= count,
            timeout_s=START_S,
            what=f"execution {count} of {node} in {run_id}",
        )
        return self.of(run_id, node)[count - 1]


def events_of(handle: RunHandle, kind: str) -> list[EventRow]:
    return [event for event in handle.events() if event["event"] == kind]


def committed_steps(handle: RunHandle, database: WorkflowDB) -> list[int]:
    """Return the steps with a checkpoint, after making sure that history tells of the same ones."""
    steps = [row["step"] for row in database.get_checkpoints(handle.run_id)]
    assert [event["step"] for event in events_of(handle, "node_end")] == steps
    return steps


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


class MakeCluster:
    """Makes clusters for one test; the test process gets the settings of the newest."""

    def __init__(self, test: pytest.Item, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._test = test
        self._folder = folder
        self._monkeypatch = monkeypatch

    def __call__(self, **settings: str | None) -> Cluster:
        made = Cluster({**SETTINGS, **settings}, self._folder)
        # Not when this fixture ends: the database and the broker may end before it, with workers on them.
        self._test.addfinalizer(made.show_logs)
        self._test.addfinalizer(made.stop)
        made.adopt(self._monkeypatch)
        return made


@pytest.fixture
def make_cluster(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeCluster:
    return MakeCluster(request.node, tmp_path, monkeypatch)


@contextmanager
def lasting_cluster(
    request: pytest.FixtureRequest, database: str, folder: Path, **settings: str | None
) -> Iterator[Cluster]:
    """A cluster on this kind of database, with no workers yet; those of `make_cluster` last for one test."""
    with ExitStack() as stack:
        broker = stack.enter_context(_redis_database(request.getfixturevalue("redis_server")))
        url = f"sqlite:///{folder / 'pocoflow.db'}"
        if database == "postgres":
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(_postgres_database(server.url))
        made = Cluster({**SETTINGS, "BROKER_URL": broker, "DATABASE_URL": url, **settings}, folder)
        stack.callback(made.stop)
        yield made


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def shared_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two workers for all tests of a module that leave them alive, on each kind of database."""
    with lasting_cluster(request, request.param, tmp_path_factory.mktemp("shared")) as made:
        made.start_workers(2)
        yield made


@contextmanager
def lent(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster for one test of several: its settings in the environment, what its workers log printed."""
    cluster.adopt(monkeypatch)
    before = {worker.pid: len(worker.log) for worker in cluster.workers}
    yield cluster
    cluster.show_logs(since=before)


@pytest.fixture
def cluster(shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The shared cluster, its settings in the environment."""
    with lent(shared_cluster, monkeypatch):
        yield shared_cluster
