"""Faults of the messages themselves: nonsense in the queue, and hints that nobody takes for long."""

from __future__ import annotations

import hashlib
import json
import math
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from pocoflow.broker import KEY_PREFIX
from tests.chaos.arena import GRACE_S, PASSWORD, Arena, endure
from tests.chaos.conftest import Found, Tier
from tests.chaos.verify import verify, verify_runs
from tests.support.messages import MALFORMED, NO_MESSAGES, message
from tests.support.wait import wait_until

QUEUE = f"{KEY_PREFIX}pocoflow"
SECRET = "sk-0123456789"
# A forger, or another program that was given our queue by mistake.
WITH_SECRETS = (
    message(["nobody", {"api_key": SECRET}]),
    message([SECRET, -1]),
    message([{"api_key": SECRET}], task="other.task"),
    message([], body=SECRET),
)


@pytest.mark.fault("B7", "nonsense in the queue", short=("postgres",))
def test_nonsense_writes_nothing_tells_nothing_and_ends_no_worker_twice(
    enter: Callable[..., Arena], database: str, tier: Tier, found: Found
) -> None:
    arena = enter(database=database, password=True)
    work = arena.workload(10)
    verify(arena, work, within_s=60)
    past = [message([run_id, step]) for run_id in work.run_ids for step in (0, 4, 5, 6)]
    big = tier(5, 50) * 1_000_000
    bad = [*MALFORMED.values(), *past, *WITH_SECRETS, message(["x" * big, 0])]
    before, marked = fingerprint(arena), arena.log_mark()

    with arena.redis() as broker:
        push(broker, bad)
        # A worker that ends with half of a message on its way to a child waits for ever: that is Celery's.
        wait_until(lambda: f"of {big} characters" in arena.logs(since=marked), timeout_s=60)
        push(broker, NO_MESSAGES)
        wait_until(lambda: broker.llen(QUEUE) == 0, timeout_s=60, what="workers to take the messages")
    assert fingerprint(arena) == before
    proof = verify(arena, arena.workload(10), within_s=60)

    log = arena.logs(since=marked)
    assert arena.supervisor.restarts <= len(NO_MESSAGES)
    assert SECRET not in log
    assert PASSWORD not in log
    assert len(log) < 1_000_000
    found(f"{len(bad) + len(NO_MESSAGES)} bad messages, no row changed, nothing secret in the log; {proof}")


@pytest.mark.fault("B8", "nobody takes the hints, while sweeps go on", short=("sqlite",))
def test_hints_that_nobody_takes_are_sent_again_ever_more_seldom(
    enter: Callable[..., Arena], database: str, tier: Tier, found: Found
) -> None:
    # They wait for hints of another queue, and sweep for all.
    arena = enter(database=database, children=1, options=("-Q", "another"))
    runs, waits_s = tier((25, 5.0), (1200, 120.0))

    work = arena.workload(runs, pause_s=0.0)
    work.wait_until_started()
    began = time.monotonic()
    endure(waits_s)
    with arena.redis() as broker:
        waiting = Counter(hinted(item) for item in broker.lrange(QUEUE, 0, -1))
    waited_s = time.monotonic() - began + max(work.starts_s) * runs
    taker = arena.cluster.start_worker("-c", "2")
    proof = verify_runs(arena, work, within_s=tier(60, 300))
    taker.kill()

    allowed = 1 + math.ceil(math.log2(1 + waited_s / GRACE_S))
    assert set(waiting) == set(work.run_ids)
    assert max(waiting.values()) <= allowed
    found(
        f"{max(waiting.values())} hints for a run at most after {waited_s:.0f} s, {allowed} allowed; {proof}"
    )


def push(broker: redis.Redis, items: Iterable[str]) -> None:
    for item in items:
        broker.lpush(QUEUE, item)


def hinted(item: bytes) -> str:
    """The run that a message is about."""
    (run_id, _), *_ = json.loads(b64decode(json.loads(item)["body"]))
    return str(run_id)


def fingerprint(arena: Arena, runs: str = "%") -> str:
    """Changes with any row of the history of these runs."""
    sums = []
    with create_engine(arena.own_url, poolclass=NullPool).connect() as connection:
        for table in ("pf_runs", "pf_checkpoints", "pf_events"):
            rows = sorted(
                map(
                    repr,
                    connection.execute(
                        text(f"select * from {table} where run_id like :runs"), {"runs": runs}
                    ),
                )
            )
            sums.append(hashlib.sha256("\n".join(rows).encode()).hexdigest())
    return " ".join(sums)
