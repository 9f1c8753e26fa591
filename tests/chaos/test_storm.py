"""Several processes do anything to anything at once: nobody waits for somebody who waits for him."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from pocoflow.services import Service
from tests.chaos.actors import PROCESSES, storm
from tests.chaos.conftest import Found, Tier
from tests.chaos.verify import assert_no_promise_broken

STORMS = 2


@pytest.fixture
def hasty_postgres(private_postgres: Service) -> Service:
    """A server that looks for deadlocks ten times as soon as others do."""
    engine = create_engine(private_postgres.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET deadlock_timeout = '100ms'"))
        connection.execute(text("ALTER SYSTEM SET log_lock_waits = on"))
        connection.execute(text("select pg_reload_conf()"))
    return private_postgres


@pytest.mark.fault("D6", "all verbs at once, from several processes", database="postgres")
def test_a_storm_of_processes_meets_no_deadlock(hasty_postgres: Service, tier: Tier, found: Found) -> None:
    committed, retries = rage(hasty_postgres.url, tier(1, 30))
    log = (hasty_postgres.folder / "server.log").read_text()

    assert_no_promise_broken(hasty_postgres.url)
    assert set(Counter(committed).values()) == {1}
    assert "deadlock detected" not in log
    assert retries == []
    waits = log.count("still waiting for")
    found(f"{len(committed)} commits, each once; no deadlock and no retry, {waits} waits over 0.1 s")


@pytest.mark.fault("D6", "all verbs at once, from several processes", database="sqlite", short=())
def test_a_storm_of_processes_meets_no_locked_file(sqlite_url: str, tier: Tier, found: Found) -> None:
    committed, retries = rage(sqlite_url, tier(1, 10))

    assert_no_promise_broken(sqlite_url)
    assert set(Counter(committed).values()) == {1}
    assert retries == []
    found(f"{len(committed)} commits, each once; no retry")


def rage(url: str, rounds: int) -> tuple[list[tuple[str, int]], list[float]]:
    """Let several processes storm; returns all that they committed, and all pauses before a second try."""
    with PROCESSES.Pool(STORMS) as pool:
        told = pool.starmap(storm, [(url, seed, rounds) for seed in range(STORMS)])
    return [commit for commits, _ in told for commit in commits], [
        pause for _, pauses in told for pause in pauses
    ]
