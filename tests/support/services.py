"""Redis, Postgres and RabbitMQ for tests.

One server of each kind per session (under xdist: per worker), started when the first test asks for it, or the
one that POCOFLOW_TEST_REDIS_URL, POCOFLOW_TEST_PG_URL or POCOFLOW_TEST_AMQP_URL names. Every test gets an
empty database or virtual host of its own on it. Nothing that was on a given server is touched.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit

import pytest
import redis
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from pocoflow.errors import BackendError
from pocoflow.services import Service, start_postgres, start_rabbitmq, start_redis


@dataclass(frozen=True, slots=True)
class GivenServer:
    """A server that somebody else runs, and may use for other things too."""

    url: str


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Iterator[Service | GivenServer]:
    yield from _given_or_started(pytestconfig, "POCOFLOW_TEST_REDIS_URL", start_redis)


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[Service | GivenServer]:
    yield from _given_or_started(pytestconfig, "POCOFLOW_TEST_PG_URL", start_postgres)


@pytest.fixture(scope="session")
def rabbitmq_server(pytestconfig: pytest.Config) -> Iterator[Service | GivenServer]:
    yield from _given_or_started(pytestconfig, "POCOFLOW_TEST_AMQP_URL", start_rabbitmq)


@pytest.fixture
def private_redis(pytestconfig: pytest.Config) -> Iterator[Service]:
    """A server for one test, which may kill it."""
    with _started(pytestconfig, start_redis) as service:
        yield service


@pytest.fixture
def private_postgres(pytestconfig: pytest.Config) -> Iterator[Service]:
    """A server for one test, which may kill it."""
    with _started(pytestconfig, start_postgres) as service:
        yield service


@pytest.fixture
def private_rabbitmq(pytestconfig: pytest.Config) -> Iterator[Service]:
    """A server for one test, which may kill it."""
    with _started(pytestconfig, start_rabbitmq) as service:
        yield service


@pytest.fixture
def redis_url(redis_server: Service | GivenServer) -> Iterator[str]:
    """An empty Redis database."""
    with _redis_database(redis_server) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: Service | GivenServer) -> Iterator[str]:
    """An empty Postgres database, as a SQLAlchemy url."""
    server = make_url(postgres_server.url)
    name = f"pocoflow_test_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet, as a SQLAlchemy url."""
    return f"sqlite:///{tmp_path / 'pocoflow.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind that PocoFlow supports."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def amqp_url(rabbitmq_server: Service | GivenServer) -> Iterator[str]:
    """An empty RabbitMQ virtual host; a given server needs its management plugin for that."""
    owned = isinstance(rabbitmq_server, Service)
    hosts = _HostsByCommand(rabbitmq_server.folder) if owned else _HostsByHttp(rabbitmq_server.url)
    name = f"pocoflow-test-{uuid.uuid4().hex}"
    hosts.add(name)
    yield urlsplit(rabbitmq_server.url)._replace(path=f"/{name}").geturl()
    hosts.drop(name)


def _given_or_started(
    config: pytest.Config, variable: str, start: Callable[[], Service]
) -> Iterator[Service | GivenServer]:
    if url := os.environ.get(variable):
        yield GivenServer(url)
        return
    with _started(config, start) as service:
        yield service


@contextmanager
def _started(config: pytest.Config, start: Callable[[], Service]) -> Iterator[Service]:
    try:
        service = start()
    except BackendError as exc:
        missing = str(exc)
    else:
        with service:
            yield service
        return
    leave_out(config, missing)


def leave_out(config: pytest.Config, missing: str) -> NoReturn:
    """Skip the test, or fail it where all services must be there."""
    if config.getoption("--require-services") or os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


_turns = itertools.count()


@contextmanager
def _redis_database(server: Service | GivenServer) -> Iterator[str]:
    """Lend one of the databases 1 to 15: of our own server any, in turn; of a given one an empty one.

    The loan is noted in the database of the server's url, so that xdist workers do not meet; the note lasts
    an hour at most.
    """
    first = next(_turns)
    with redis.Redis.from_url(server.url) as notes:
        for number in (1 + (first + offset) % 15 for offset in range(15)):
            note = f"pocoflow-test-uses-db-{number}"
            if not notes.set(note, os.getpid(), nx=True, ex=3600):
                continue
            url = urlsplit(server.url)._replace(path=f"/{number}").geturl()
            with redis.Redis.from_url(url) as database:
                if isinstance(server, Service):
                    database.flushdb()
                if database.dbsize() == 0:
                    yield url
                    database.flushdb()
                    notes.delete(note)
                    return
            notes.delete(note)
    pytest.fail(f"none of the databases 1 to 15 at {server.url} is empty and free: flush one", pytrace=False)


class _HostsByCommand:
    """Virtual hosts of a server of ours."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str) -> None:
        permission = {"user": "guest", "vhost": name, "configure": ".*", "write": ".*", "read": ".*"}
        definitions = self._folder / f"{name}.json"
        definitions.write_text(json.dumps({"vhosts": [{"name": name}], "permissions": [permission]}))
        rabbitmqctl(self._folder, "import_definitions", str(definitions))

    def drop(self, name: str) -> None:
        rabbitmqctl(self._folder, "delete_vhost", name)


def rabbitmqctl(folder: Path, *args: str) -> None:
    """Give an order to the private server in this folder."""
    # Not Debian's wrapper, which is on PATH and knows the system's own node only.
    places = os.pathsep.join(["/usr/lib/rabbitmq/bin", os.environ.get("PATH", "")])
    program = shutil.which("rabbitmqctl", path=places) or "rabbitmqctl"
    command = ["sh", "-c", '. ./env; exec "$0" "$@"', program, *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class _HostsByHttp:
    """Virtual hosts of a given server, by the API of its management plugin."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._api = os.environ.get("POCOFLOW_TEST_AMQP_API_URL") or f"http://{parts.hostname}:15672/api"
        self._user = unquote(parts.username or "guest")
        self._password = unquote(parts.password or "guest")

    def add(self, name: str) -> None:
        self._call("PUT", f"vhosts/{name}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self._call("PUT", f"permissions/{name}/{quote(self._user, safe='')}", everything)

    def drop(self, name: str) -> None:
        self._call("DELETE", f"vhosts/{name}", {})

    def _call(self, method: str, path: str, body: dict[str, str]) -> None:
        login = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        request = urllib.request.Request(
            f"{self._api}/{path}",
            method=method,
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()
