"""However many wait in a process, its ledger is asked once at a time, and each hears of his run in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pocoflow import RunNotFoundError, WaitTimeoutError, runner
from pocoflow.control import RedisFlags
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.local import LocalFlags
from pocoflow.engine.rows import Standing, is_settled
from pocoflow.engine.waiting import LONGEST_PAUSE_S, Waiter, WaitingRoom
from pocoflow.errors import DatabaseError
from pocoflow.runner import RunHandle
from tests.contract.builders import record, take
from tests.contract.network import BlackHole
from tests.support.wait import wait_until
from tests.support.waiting import SOON_S, Waiting

MANY = 10_000
Waits = Callable[[RunHandle], "Future[Any]"]


class DeafFlags(LocalFlags):
    """No announcement gets through."""

    def announce_end(self, run_id: str) -> None:
        pass


@pytest.fixture
def here() -> Iterator[Waiting]:
    here = Waiting()
    yield here
    here.ledger.answers.set()


@pytest.fixture
def waits() -> Iterator[Waits]:
    """Begin to wait in a thread."""
    with ThreadPoolExecutor(64) as pool:
        yield lambda handle: pool.submit(handle.wait, SOON_S)


def settled(row: Standing, now: float) -> bool:
    return is_settled(row)


def woken(waiter: Waiter, room: WaitingRoom) -> Standing:
    row = waiter.sleep()
    room.leave(waiter)
    assert row is not None
    return row


def test_ten_thousand_who_wait_cost_one_read_at_a_time_and_all_of_them_hear(here: Waiting) -> None:
    run_ids = [f"run-{number:05d}" for number in range(MANY)]
    here.start(*run_ids)
    waiters = [here.room.enter(run_id, until=settled) for run_id in run_ids]
    here.until_looks_are_rare(*run_ids)

    began, before = time.monotonic(), len(here.ledger.reads)
    wait_until(lambda: len(here.ledger.reads) >= before + 4, what="some looks")
    reads, took_s = here.ledger.reads[before:], time.monotonic() - began
    here.end(*run_ids)
    ended = [woken(waiter, here.room) for waiter in waiters]

    assert all(read == run_ids for read in reads)
    assert len(reads) <= took_s / LONGEST_PAUSE_S + 1
    assert {row["status"] for row in ended} == {"completed"}


def test_many_threads_wait_and_each_gets_its_own_result(here: Waiting, waits: Waits) -> None:
    run_ids = [f"run-{number}" for number in range(60)]
    here.start(*run_ids)
    results = [waits(here.handle(run_id)) for run_id in run_ids]
    wait_until(lambda: here.ledger.were_all_read(run_ids), what="all to wait")

    for number, run_id in enumerate(run_ids):
        here.ledger.commit(take(here.ledger, run_id=run_id), record(None, state=f'{{"n":{number}}}'))
        here.flags.announce_end(run_id)

    assert [result.result()["n"] for result in results] == list(range(60))


def test_who_comes_while_others_wait_is_served_at_once_and_alone(here: Waiting, waits: Waits) -> None:
    here.start("old", "new")
    here.end("new")
    old = waits(here.handle("old"))
    here.until_looks_are_rare("old")

    here.handle("new").wait(SOON_S)

    assert ["new"] in here.ledger.reads
    here.end("old")
    old.result()


def test_an_announcement_makes_the_room_look_at_this_run_alone(here: Waiting, waits: Waits) -> None:
    here.start("a", "b")
    a, b = (waits(here.handle(run_id)) for run_id in ("a", "b"))
    here.until_looks_are_rare("a", "b")
    seen = len(here.ledger.reads)

    here.end("a")
    here.flags.announce_end("nobody waits for this one")
    here.flags.announce_end("a")
    a.result()

    assert here.ledger.reads[seen] == ["a"]
    here.end("b")
    b.result()


def test_runs_that_are_not_announced_are_looked_at_however_many_others_are(
    here: Waiting, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.start("noisy", "silent")
    noisy, silent = (waits(here.handle(run_id)) for run_id in ("noisy", "silent"))
    here.until_looks_are_rare("noisy", "silent")
    look = here.ledger.get_changes

    def look_and_hear(known: Mapping[str, str]) -> Any:
        here.flags.announce_end("noisy")
        return look(known)

    with monkeypatch.context() as endless:
        endless.setattr(here.ledger, "get_changes", look_and_hear)
        wait_until(lambda: here.ledger.reads[-1] == ["noisy"], what="the noise")
        here.end("silent")
        silent.result(runner.UNCLAIMED_AFTER_S / 2)  # after that, who waits for "noisy" looks up for a moment

    here.end("noisy")
    noisy.result()


def test_an_end_that_nobody_announces_is_seen_at_the_next_look(waits: Waits) -> None:
    here = Waiting(DeafFlags())
    here.start("a")
    result = waits(here.handle("a"))
    here.until_looks_are_rare("a")

    here.end("a")
    seen = len(here.ledger.reads)
    result.result()

    assert len(here.ledger.reads) - seen <= 1
    assert LONGEST_PAUSE_S <= 0.5


def test_without_redis_an_end_is_heard_all_the_same(waits: Waits) -> None:
    with BlackHole() as hole:
        nobody_there = f"redis://{hole.address}/0"
    here = Waiting(RedisFlags(nobody_there))
    here.start("a")
    result = waits(here.handle("a"))
    here.until_looks_are_rare("a")

    here.end("a")

    assert result.result()["n"] == 1


def test_a_look_that_began_before_somebody_came_is_not_his(here: Waiting, waits: Waits) -> None:
    here.start("a")
    first = waits(here.handle("a"))
    here.ledger.answers.clear()
    seen = len(here.ledger.reads)
    wait_until(lambda: len(here.ledger.reads) > seen, what="a look that has read and not answered yet")
    here.end("a")

    late = here.room.enter("a", until=lambda row, now: True)
    here.ledger.answers.set()

    assert woken(late, here.room)["status"] == "completed"
    first.result()


def test_a_deadline_is_kept_while_the_ledger_does_not_answer(here: Waiting) -> None:
    here.start("a")
    here.ledger.answers.clear()

    began = time.monotonic()
    with pytest.raises(WaitTimeoutError, match=r"'a' has not ended after 1\.5 s.*database has not answered"):
        here.handle("a").wait(1.5)

    assert 1.5 <= time.monotonic() - began < SOON_S / 2


def test_what_was_seen_before_the_ledger_fell_silent_is_told_at_the_deadline(
    here: Waiting, waits: Waits
) -> None:
    here.start("a")
    deadline = SystemClock().monotonic() + 1.0
    waiter = here.room.enter("a", until=settled, deadline=deadline)
    wait_until(lambda: len(here.ledger.reads) > 1, every_s=0.001, what="a second look")
    here.ledger.answers.clear()

    row = woken(waiter, here.room)

    assert row["status"] == "queued"
    assert deadline <= SystemClock().monotonic() < deadline + SOON_S / 2


def test_a_run_that_goes_on_is_told_at_the_deadline(here: Waiting) -> None:
    here.start("a")

    with pytest.raises(WaitTimeoutError, match=r"still queued at step 0 \(A\) after 0 s"):
        here.handle("a").wait(0)


@pytest.mark.parametrize("timeout", [0, -1, 1e-9, 1e12, float("inf"), None])
def test_a_run_that_has_ended_needs_no_time(here: Waiting, timeout: float | None) -> None:
    here.start("a")
    here.end("a")

    assert here.handle("a").wait(timeout)["n"] == 1


def test_nobody_waits_for_a_run_that_is_not_there(here: Waiting) -> None:
    with pytest.raises(RunNotFoundError, match="'nobody'"):
        here.handle("nobody").wait()


def test_an_outage_is_waited_through_and_logged_once(
    here: Waiting, waits: Waits, caplog: pytest.LogCaptureFixture
) -> None:
    run_ids = sorted(f"run-{number}" for number in range(40))
    here.start(*run_ids)
    here.ledger.error = DatabaseError("gone")
    results = [waits(here.handle(run_id)) for run_id in run_ids]
    wait_until(lambda: run_ids in here.ledger.reads, what="a look at all")

    here.end(*run_ids)
    here.ledger.error = None

    assert {result.result()["n"] for result in results} == {1}
    lines = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert [line.split(" runs=")[0] for line in lines] == ["database is away, still waiting"]


def test_a_database_that_is_away_at_the_deadline_is_told(here: Waiting) -> None:
    here.start("a")
    here.ledger.error = DatabaseError("database postgresql://db failed: start it")

    with pytest.raises(DatabaseError, match="start it") as caught:
        here.handle("a").wait(0.05)

    assert caught.value.__cause__ is here.ledger.error


def test_nobody_is_left_waiting_by_an_error_that_nobody_expects(here: Waiting, waits: Waits) -> None:
    here.start("a", "b")
    both = [waits(here.handle(run_id)) for run_id in ("a", "b")]
    wait_until(lambda: ["a", "b"] in here.ledger.reads, what="a look at both")

    here.ledger.error = ZeroDivisionError("a bug")
    errors = [result.exception() for result in both]
    here.ledger.error = None
    here.end("a")

    assert [type(error) for error in errors] == [ZeroDivisionError] * 2
    assert here.handle("a").wait(SOON_S)["n"] == 1
