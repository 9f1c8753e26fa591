"""Each ledger that we ship, empty, for tests that ask for it; its history is checked after each test."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import fakeredis
import pytest
import redis
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from pocoflow.engine.ports import Ledger
from tests.contract.subjects import MemorySubject, PassTime, SqlSubject, Subject
from tests.support.services import GivenServer, Service
from tests.support.soundness import assert_sound


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_server: Service | GivenServer) -> Iterator[str]:
    """One database for all tests of contracts: to make one takes longer than most of them."""
    server = make_url(postgres_server.url)
    name = f"pocoflow_contract_{uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def postgres_subject(shared_postgres_url: str) -> Iterator[Subject]:
    subject = SqlSubject(shared_postgres_url)
    yield subject
    subject.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    subject: Subject
    if request.param == "memory":
        subject = MemorySubject()
    elif request.param == "sqlite":
        subject = SqlSubject(request.getfixturevalue("sqlite_url"))
    else:
        subject = request.getfixturevalue("postgres_subject")
    try:
        yield subject
        assert_sound(subject.ledger)
    finally:
        subject.wipe()


@pytest.fixture(params=["sqlite", "postgres"])
def sql_subject(request: pytest.FixtureRequest) -> Iterator[SqlSubject]:
    """A ledger in a database, whose history may end up in any shape."""
    if request.param == "sqlite":
        subject = SqlSubject(request.getfixturevalue("sqlite_url"))
    else:
        subject = request.getfixturevalue("postgres_subject")
    yield subject
    subject.wipe()


@pytest.fixture
def ledger(subject: Subject) -> Ledger:
    return subject.ledger


@pytest.fixture
def pass_time(subject: Subject) -> PassTime:
    """Let time pass for the ledger without waiting for it."""
    return subject.pass_time


@pytest.fixture
def fake_redis(monkeypatch: pytest.MonkeyPatch) -> str:
    server = fakeredis.FakeServer()
    monkeypatch.setattr(
        redis.Redis, "from_url", lambda url, **options: fakeredis.FakeRedis(server=server, **options)
    )
    return "redis://fake:6379/0"


@pytest.fixture(params=["fake_redis", "redis_url"])
def any_redis(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url
