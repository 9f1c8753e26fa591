"""Where a fault is let loose: a broker, a database and workers that belong to the test alone.

An arena outlives a scenario that it survived, because to go on working is what every scenario asks for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import redis
from kombu import Connection as BrokerConnection
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from pocoflow.services import Service, start_postgres, start_rabbitmq, start_redis
from tests.chaos.supervisor import Supervisor
from tests.chaos.workload import Workload
from tests.support.proxy import HOST, Proxy
from tests.support.wait import wait_until
from tests.support.workers import Cluster, WorkerProcess

LEASE_S, SWEEP_S, GRACE_S = 5.0, 0.3, 1.0
DEFAULTS = {
    "FLOWS": "tests.chaos.flows,tests.chaos.odd_flows",
    "LEASE_S": str(LEASE_S),
    "SWEEP_S": str(SWEEP_S),
    "GRACE_S": str(GRACE_S),
}
START = {"redis": start_redis, "rabbitmq": start_rabbitmq}
# Not a superuser: limits do not apply to those. Its password must never be seen in a log.
USER, PASSWORD = "pocoflow_app", "Gr33n-eggs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an arena is made of.

    Attributes:
        broker: "redis" or "rabbitmq".
        database: "sqlite" or "postgres".
        wired: Workers and test reach broker and Postgres through a proxy each.
        workers: How many worker processes, each with so many `children`; 0 when a test brings its own.
        options: For their command lines.
        password: Redis asks for one; Postgres always gets one.
        settings: Settings beside the usual ones, without the prefix POCOFLOW_.
    """

    broker: str = "redis"
    database: str = "sqlite"
    wired: bool = False
    workers: int = 2
    children: int = 2
    options: tuple[str, ...] = ()
    password: bool = False
    settings: tuple[tuple[str, str], ...] = ()


class Arena:
    """One of everything, in working order until somebody breaks it."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.postgres: Service | None = None
        # Only a wired arena has these, and a test that uses them asks for one.
        self.database_proxy: Any = None
        self.broker_proxy: Any = None
        self._undo = ExitStack()
        with ExitStack() as undo:
            self.broker: Service = undo.enter_context(START[plan.broker]())
            database_url = self._database(undo)
            settings = {"BROKER_URL": self._broker_url(undo), "DATABASE_URL": database_url}
            self.cluster = Cluster({**DEFAULTS, **settings, **dict(plan.settings)}, folder)
            undo.callback(self.cluster.stop)
            options = ("-c", str(plan.children), *plan.options)
            self.supervisor = Supervisor(self.cluster, plan.workers, *options)
            undo.callback(self.supervisor.stop)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    @property
    def children(self) -> int:
        """How many steps can be in execution at the same time."""
        return self.plan.workers * self.plan.children

    @property
    def database_url(self) -> str:
        return str(self.cluster.settings["DATABASE_URL"])

    def versions(self) -> Iterator[str]:
        """The names and versions of the servers."""
        if self.plan.broker == "redis":
            with self.redis() as broker:
                info = broker.info("server")
            name = str(info.get("server_name", "redis"))
            yield f"{name.capitalize()} {info[f'{name}_version']}"
        else:
            with BrokerConnection(self.broker.url) as connection:
                yield f"RabbitMQ {connection.connection.server_properties['version']}"
        if self.postgres is not None:
            with self.admin() as connection:
                yield f"Postgres {connection.execute(text('show server_version')).scalar_one().split()[0]}"

    def workload(self, count: int, **kind: Any) -> Workload:
        """Begin to start so many runs; see `Workload`."""
        return Workload(self.folder, count, **kind)

    @contextmanager
    def worker(self, *options: str, **settings: str) -> Iterator[WorkerProcess]:
        """A worker that nobody starts again, for as long as the context lasts; see `Cluster.start_worker`."""
        started = self.cluster.start_worker(*options, **settings)
        try:
            yield started
        finally:
            started.kill()

    def redis(self) -> redis.Redis:
        """A client of the broker itself, whatever is wrong with the wire."""
        return redis.Redis.from_url(self.broker.url, password=PASSWORD if self.plan.password else None)

    @property
    def own_url(self) -> str:
        """The database for the test itself: past the proxy, and past what limits the workers."""
        if self.postgres is None:
            return self.database_url
        return make_url(self.postgres.url).set(database="chaos").render_as_string(hide_password=False)

    def look(self) -> Connection:
        """A connection to see what is in the database, whatever is wrong with the wire."""
        return create_engine(self.own_url, poolclass=NullPool).connect()

    def admin(self) -> Connection:
        """A superuser's connection to the Postgres of this arena, whatever is wrong with the wire."""
        return create_engine(self.own_url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect()

    def postgres_log(self) -> str:
        """What Postgres has written since it was last started."""
        assert self.postgres is not None
        return (self.postgres.folder / "server.log").read_text(errors="replace")

    def alter_role(self, *options: str) -> None:
        """Change what Postgres allows the workers, and make them feel it: they must connect anew."""
        with self.admin() as connection:
            for option in options:
                connection.execute(text(f"ALTER ROLE {USER} {option}"))
            connection.execute(
                text("select pg_terminate_backend(pid) from pg_stat_activity where usename = :user"),
                {"user": USER},
            )

    def log_mark(self) -> dict[int, int]:
        """Where the logs of the workers are now, for `logs` to begin there."""
        return {worker.pid: len(worker.log) for worker in self.cluster.workers}

    def logs(self, since: dict[int, int] | None = None) -> str:
        """What all workers have written, also those that have ended."""
        return "".join(worker.log[(since or {}).get(worker.pid, 0) :] for worker in self.cluster.workers)

    def meet(self, *, within_s: float) -> None:
        """Make each child of each worker hold a step at the same time: none of them is dead or deaf."""
        work = self.workload(self.children, rounds=1, hold="one")
        try:
            wait_until(
                lambda: len({execution.pid for execution in work.executions()}) >= self.children,
                timeout_s=within_s,
                every_s=0.05,
                what=f"all {self.children} children of the workers to take a step",
            )
        finally:
            work.open_gate()
        work.wait_until_started()
        for handle in work.handles.values():
            handle.wait(within_s)

    def _broker_url(self, undo: ExitStack) -> str:
        parts = urlsplit(self.broker.url)
        login, port = parts.netloc.rpartition("@")[0], parts.port or 0
        if self.plan.password:
            redis.Redis.from_url(self.broker.url).config_set("requirepass", PASSWORD)
            login = f":{PASSWORD}"
        if self.plan.wired:
            self.broker_proxy = undo.enter_context(Proxy((HOST, port)))
            port = self.broker_proxy.port
        return parts._replace(netloc=f"{login}@{HOST}:{port}" if login else f"{HOST}:{port}").geturl()

    def _database(self, undo: ExitStack) -> str:
        if self.plan.database == "sqlite":
            return f"sqlite:///{self.folder / 'pocoflow.db'}"
        self.postgres = undo.enter_context(start_postgres())
        engine = create_engine(self.postgres.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'"))
            connection.execute(text(f"CREATE DATABASE chaos OWNER {USER}"))
        login = f"postgresql+psycopg://{USER}:{PASSWORD}@"
        if not self.plan.wired:
            return f"{login}/chaos?host={quote(str(self.postgres.folder))}"
        self.database_proxy = undo.enter_context(Proxy(f"{self.postgres.folder}/.s.PGSQL.5432"))
        return f"{login}{HOST}:{self.database_proxy.port}/chaos"


class Arenas:
    """One arena at a time, handed on from test to test as long as the tests want the same and survive."""

    def __init__(self, folder: Path, servers: set[str]) -> None:
        self._folder, self._servers = folder, servers
        self._current: Arena | None = None

    def get(self, plan: Plan) -> Arena:
        if self._current is None or self._current.plan != plan:
            self.close()
            folder = self._folder / uuid4().hex[:6]
            folder.mkdir()
            self._current = Arena(plan, folder)
            self._servers.update(self._current.versions())
        return self._current

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
        self._current = None


def endure(seconds: float) -> None:
    """Let a fault last for so long."""
    over_at = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= over_at, timeout_s=seconds + 60, what=f"{seconds} s to pass")
