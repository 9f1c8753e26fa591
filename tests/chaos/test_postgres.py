"""Faults of Postgres itself: it restarts, it is locked, it is full, it refuses."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sqlalchemy import text

from tests.chaos.arena import Arena, endure
from tests.chaos.conftest import Found, Tier
from tests.chaos.echo import Echo
from tests.chaos.verify import verify

# Seconds until whoever waits for the database has tried it again, and what was given up is found by a sweep.
BACK_S = 60.0


@pytest.fixture
def arena(enter: Callable[..., Arena]) -> Arena:
    return enter(database="postgres")


@pytest.mark.fault(
    "D1", "Postgres restarts every few seconds, each second time by a crash", database="postgres"
)
def test_no_result_is_lost_although_postgres_restarts_again_and_again(
    arena: Arena, tier: Tier, found: Found
) -> None:
    runs, restarts = tier((40, 3), (1000, 12))
    work = arena.workload(runs, over_s=tier(3, 60), pause_s=0.03, fails=("two",))
    pick = random.Random(1)

    for number in work.moments(restarts):
        if number % 2:
            arena.postgres.kill()
            endure(pick.uniform(0, 2))
        arena.postgres.restart()

    found(f"{restarts} restarts")
    # A crash of Postgres may forget the claims of its last moments: such a step is executed again.
    found(verify(arena, work, within_s=BACK_S, lost_claims=(restarts + 1) // 2))


_LOCKED = ("D5", "each statement meets a lock and a timeout for a while")


@pytest.mark.parametrize(
    "timeout",
    [
        pytest.param("statement_timeout", marks=pytest.mark.fault(*_LOCKED, database="postgres")),
        pytest.param("lock_timeout", marks=pytest.mark.fault(*_LOCKED, database="postgres", short=())),
    ],
)
def test_runs_complete_although_statements_time_out(
    arena: Arena, tier: Tier, found: Found, timeout: str
) -> None:
    runs, locked_s = tier((30, 3.0), (200, 20.0))
    arena.alter_role(f"SET {timeout} = '300ms'")
    work = arena.workload(runs, over_s=tier(3, 20), pause_s=0.05, fails=("two",))

    for _ in work.moments(1):
        with arena.admin() as admin:
            admin.execute(text("begin"))
            admin.execute(text("lock table pf_runs in access exclusive mode"))
            endure(locked_s)
            admin.execute(text("commit"))
    proof = verify(arena, work, within_s=BACK_S)
    arena.alter_role(f"RESET {timeout}")

    found(f"{timeout} 0.3 s, locked for {locked_s:.0f} s; {proof}")


@pytest.mark.fault("D5", "too many connections", database="postgres")
def test_runs_complete_although_postgres_has_no_connection_left(
    arena: Arena, tier: Tier, found: Found
) -> None:
    runs, full_s = tier((30, 3.0), (200, 20.0))
    work = arena.workload(runs, over_s=tier(3, 20), pause_s=0.05, fails=("two",))

    for _ in work.moments(1):
        arena.alter_role("CONNECTION LIMIT 1")
        endure(full_s)
        arena.alter_role("CONNECTION LIMIT -1")
    proof = verify(arena, work, within_s=BACK_S)

    refused = arena.postgres_log().count("too many connections")
    assert refused
    found(f"one connection for all for {full_s:.0f} s, {refused} refused; {proof}")


@pytest.mark.fault("D5", "serialization failures", database="postgres")
def test_runs_complete_although_transactions_are_serializable(arena: Arena, tier: Tier, found: Found) -> None:
    arena.alter_role("SET default_transaction_isolation = 'serializable'")

    # Copies of all messages, for claims of one step to meet.
    with Echo(arena.broker.url, seed=5):
        work = arena.workload(tier(20, 300), pause_s=0.0, fails=("two",))
        proof = verify(arena, work, within_s=BACK_S)

    arena.alter_role("RESET default_transaction_isolation")
    refused = arena.postgres_log().count("could not serialize")
    assert refused
    found(f"{refused} transactions refused; {proof}")
