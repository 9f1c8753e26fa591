"""Faults of the broker: it is gone, empty, full, silent, or not what it was. Redis here."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import pytest

from pocoflow.services import start_redis
from tests.chaos.arena import Arena, endure
from tests.chaos.conftest import Found, Tier
from tests.chaos.verify import verify
from tests.support.proxy import HOST

# Celery waits 2, 4, 6 ... s between its attempts to reach a broker again.
BACK_S = 30.0


@pytest.mark.fault("B1", "Redis crashes again and again, and comes back empty", short=("postgres",))
def test_runs_complete_although_redis_crashes_again_and_again(arena: Arena, tier: Tier, found: Found) -> None:
    runs, crashes = tier((30, 2), (200, 4))
    work = arena.workload(runs, over_s=tier(3, 40), pause_s=0.05, fails=("two",))

    for _ in work.moments(crashes):
        arena.broker.kill()
        arena.broker.restart()
    back_at = time.monotonic()
    arena.meet(within_s=10)
    consumed_s = time.monotonic() - back_at

    found(f"{crashes} crashes; all children at work {consumed_s:.1f} s after the last")
    found(verify(arena, work, within_s=BACK_S))


@pytest.mark.fault("B2", "FLUSHALL three times", short=("sqlite",))
def test_runs_complete_although_all_messages_are_lost_again_and_again(
    arena: Arena, tier: Tier, found: Found
) -> None:
    work = arena.workload(tier(60, 600), pause_s=0.02, fails=("three",))

    with arena.redis() as broker:
        for _ in work.moments(3):
            broker.flushall()

    found(verify(arena, work, within_s=BACK_S))


@pytest.mark.fault(
    "B4", "Redis becomes a replica of an empty one (-READONLY), and the first again", short=("postgres",)
)
def test_runs_complete_although_redis_becomes_a_replica_of_another(
    arena: Arena, tier: Tier, found: Found
) -> None:
    runs, failovers = tier((30, 1), (200, 3))
    work = arena.workload(runs, pause_s=0.05, fails=("two",))

    with start_redis() as other, arena.redis() as broker:
        for _ in work.moments(failovers):
            broker.replicaof(HOST, str(urlsplit(other.url).port))
            endure(tier(2, 10))
            broker.replicaof("NO", "ONE")

    found(f"{failovers} failovers")
    found(verify(arena, work, within_s=tier(BACK_S, 2 * BACK_S)))


@pytest.mark.fault("B6", "Redis is full (OOM on LPUSH)", short=("sqlite",))
def test_runs_complete_although_redis_was_full(arena: Arena, tier: Tier, found: Found) -> None:
    work = arena.workload(tier(30, 200), over_s=2, pause_s=0.05, fails=("two",))
    restarts = arena.supervisor.restarts

    with arena.redis() as broker:
        for _ in work.moments(1):
            broker.config_set("maxmemory", 1)
            endure(tier(3, 30))
            refused = broker.info("errorstats").get("errorstat_OOM", {}).get("count", 0)
            broker.config_set("maxmemory", 0)

    assert refused
    found(f"{refused} messages refused")
    found(verify(arena, work, within_s=BACK_S))
    assert arena.supervisor.restarts == restarts
