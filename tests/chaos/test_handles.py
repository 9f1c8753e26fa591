"""Many wait in one process for the ends of runs, while all that could tell them of it breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import pytest

from pocoflow import WaitTimeoutError, client
from pocoflow.db.postgres import PostgresLedger
from pocoflow.engine.waiting import LONGEST_PAUSE_S
from tests.chaos.arena import Arena, endure
from tests.chaos.conftest import Found, Tier
from tests.chaos.verify import verify

BACK_S = 60.0
# Ten thousand stacks of the usual size are more than there is room for on a small machine.
STACK_BYTES = 256 << 10


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When this process has asked the database for all who wait."""
    asked_at: list[float] = []
    ask = PostgresLedger._changes

    def noting(ledger: PostgresLedger, params: dict[str, Any]) -> Sequence[Sequence[Any]]:
        asked_at.append(time.monotonic())
        return ask(ledger, params)

    monkeypatch.setattr(PostgresLedger, "_changes", noting)
    return asked_at


@pytest.mark.fault(
    "S9", "worker, Redis and Postgres die while thousands of handles wait", database="postgres"
)
def test_all_who_wait_hear_of_the_end_whatever_died_meanwhile(
    enter: Callable[..., Arena], looks: list[float], tier: Tier, found: Found
) -> None:
    arena = enter(database="postgres")
    handles, looks_s, away_s = tier((200, 2.0, 1.0), (10_000, 15.0, 20.0))
    # Each of them is being executed: one that nobody takes is looked at once more, to say so.
    work = arena.workload(arena.children, hold="two")
    work.wait_for_executions(2 * arena.children)
    waiting = [client.handle(run_id) for run_id in islice(cycle(work.run_ids), handles)]

    with crowd(handles) as pool:
        entered = threading.Semaphore(0)

        def wait(handle: Any) -> int:
            entered.release()
            return int(handle.wait(10 * BACK_S)["sum"])

        results = [pool.submit(wait, handle) for handle in waiting]
        for _ in results:
            assert entered.acquire(timeout=BACK_S)
        with pytest.raises(WaitTimeoutError, match="is still running at step 1"):
            client.handle(work.run_ids[0]).wait(1.0)
        rate = looks_per_second(looks, looks_s)
        arena.supervisor.workers[0].kill()
        arena.broker.kill()
        arena.postgres.kill()
        work.open_gate()
        endure(away_s)
        arena.postgres.restart()
        arena.broker.restart()
        sums = {result.result(5 * BACK_S) for result in results}
    # A crash of Postgres may forget the claims of its last moments.
    proof = verify(arena, work, within_s=BACK_S, lost_claims=1)

    assert sums == {work.sum}
    # One for each tick, and none of them twice.
    assert rate <= 1 / LONGEST_PAUSE_S + 1 / looks_s
    found(f"{handles} handles, {rate:.1f} queries a second for all; all were told; {proof}")


@contextmanager
def crowd(size: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads with small stacks."""
    usual = threading.stack_size(STACK_BYTES)
    with ThreadPoolExecutor(size) as pool:
        yield pool
    threading.stack_size(usual)


def looks_per_second(looks: list[float], seconds: float) -> float:
    """Count for a while, when all have entered and nothing happens."""
    before, began = len(looks), time.monotonic()
    endure(seconds)
    return (len(looks) - before) / (time.monotonic() - began)
