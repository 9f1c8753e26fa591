"""Faults of the network between workers, broker and database, let loose on the wire itself."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from tests.chaos.arena import Arena, endure
from tests.chaos.conftest import Found, Tier
from tests.chaos.echo import Echo
from tests.chaos.verify import verify, verify_nobody_waited

BACK_S = 60.0
NEVER = "100000"
SHORT_LEASE_S = 2.0


@pytest.fixture
def arena(enter: Callable[..., Arena], database: str) -> Arena:
    """Its wires go through proxies."""
    return enter(database=database, wired=True)


@pytest.mark.fault("B3", "Redis takes connections and commands and never answers", short=("sqlite",))
def test_a_silent_broker_holds_nobody_up(arena: Arena, tier: Tier, found: Found) -> None:
    before = arena.log_mark()
    work = arena.workload(tier(30, 150), over_s=tier(6, 40), pause_s=0.05)

    for _ in work.moments(1):
        arena.broker_proxy.freeze()
        endure(tier(10, 60))
        arena.broker_proxy.thaw()

    found(verify_nobody_waited(arena, work, within_s=BACK_S, since=before))


@pytest.mark.fault(
    "B5", "each message three times, and for the step before and after, all shuffled", short=("postgres",)
)
def test_messages_without_number_and_order_change_nothing(arena: Arena, tier: Tier, found: Found) -> None:
    runs, asked = tier(15, 200), count()
    if arena.database_proxy is not None:
        arena.database_proxy.seen = lambda sent: next(asked) if b"chaos-" in sent else None

    with Echo(arena.broker.url, seed=1) as echo:
        work = arena.workload(runs, pause_s=0.0, fails=("two",))
        proof = verify(arena, work, within_s=BACK_S)
    executions = len(work.executions())
    # Each run takes one round trip to start, each execution two, to claim and to commit or to fail.
    surplus = (next(asked) - runs - 2 * executions) / echo.added

    assert executions == work.steps + runs
    assert surplus < 1.7
    found(f"{echo.added} messages too many; {proof}")
    if arena.database_proxy is not None:
        found(f"{surplus:.1f} round trips for each of them")


class LosesAnswers:
    """Lets half of all verbs do their work and loses what they answered; the second try gets through."""

    # What tells one verb from another: the owner of its claim, and whether it carries a store.
    _owner = re.compile(rb":([0-9a-f]{32})")

    def __init__(self, run_ids: bytes, *, seed: int) -> None:
        self._run_ids = run_ids
        self._known: set[tuple[bytes, bool]] = set()
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def __call__(self, sent: bytes) -> bool:
        owner = self._owner.search(sent)
        if owner is None or self._run_ids not in sent:
            return False
        verb = (owner[1], b'"trail"' in sent)
        with self._lock:
            if verb in self._known:
                return False
            self._known.add(verb)
            return self._random.random() < 0.5


@pytest.mark.fault("D2", "the connection breaks after a COMMIT, before its answer", database="postgres")
def test_what_was_committed_is_known_although_the_answer_was_lost(
    enter: Callable[..., Arena], tier: Tier, found: Found
) -> None:
    # No lease ends and no hint is sent again: what is not resolved at once stays open and fails the test.
    patience = (("LEASE_S", NEVER), ("GRACE_S", NEVER))
    arena = enter(database="postgres", wired=True, settings=patience)
    runs = tier(15, 200)
    arena.database_proxy.loses_answer = LosesAnswers(b"chaos-", seed=2)

    work = arena.workload(runs, pause_s=0.01)
    proof = verify(arena, work, within_s=BACK_S)

    assert arena.database_proxy.answers_lost > runs
    assert len(work.executions()) == work.steps
    found(f"{arena.database_proxy.answers_lost} answers lost; {proof}")


@pytest.mark.fault(
    "D3", "Postgres is away for longer than the lease, with a step in execution", database="postgres"
)
def test_a_finished_step_is_committed_when_its_database_comes_back(
    enter: Callable[..., Arena], tier: Tier, found: Found
) -> None:
    # One child: nobody is free to take the step over.
    settings = (("LEASE_S", str(SHORT_LEASE_S)),)
    arena = enter(database="postgres", wired=True, workers=1, children=1, settings=settings)
    work = arena.workload(1, hold="two", pause_s=0.0)
    work.wait_for_executions(2)

    with quietly_without_postgres(arena, found):
        work.open_gate()
        endure(tier(2 * SHORT_LEASE_S, 60.0))
    proof = verify(arena, work, within_s=BACK_S)

    assert len(work.executions()) == work.steps
    found(proof)


@pytest.mark.fault(
    "D3", "Postgres is away, and the workers have nothing to do", database="postgres", short=()
)
def test_idle_workers_wait_quietly_for_their_database(
    enter: Callable[..., Arena], tier: Tier, found: Found
) -> None:
    arena = enter(database="postgres", wired=True)
    arena.meet(within_s=BACK_S)

    with quietly_without_postgres(arena, found):
        endure(tier(5.0, 60.0))

    found(verify(arena, arena.workload(10), within_s=BACK_S))


@contextmanager
def quietly_without_postgres(arena: Arena, found: Found) -> Iterator[None]:
    """Take Postgres away meanwhile; fails when a worker ends, spins, or fills its log."""
    arena.database_proxy.take_down()
    restarts, marked, began = arena.supervisor.restarts, arena.log_mark(), arena.supervisor.used()
    yield
    used = arena.supervisor.used() - began
    lines = arena.logs(since=marked).count("\n")
    arena.database_proxy.put_up()

    assert arena.supervisor.restarts == restarts
    assert used.processor_s < 0.25 * used.passed_s
    assert lines < 20 * used.passed_s
    found(f"away for {used.passed_s:.0f} s, {used.processor_s:.1f} s of processor time, {lines} log lines")
