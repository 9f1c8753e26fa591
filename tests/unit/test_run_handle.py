"""What a handle makes of how its run stands, in whichever process and at whatever time it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocoflow import RunInterruptedError, runner
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.history import Saved
from pocoflow.errors import DatabaseError
from tests.contract.builders import LAST, new_run, record, take
from tests.support.wait import wait_until
from tests.support.waiting import SOON_S, Waiting

HOME = "embedded:here"


class BusyClock(SystemClock):
    """Something happens while somebody sleeps."""

    def __init__(self, meanwhile: Callable[[], Any]) -> None:
        self._meanwhile = meanwhile

    def sleep(self, seconds: float) -> None:
        self._meanwhile()


@pytest.fixture
def here() -> Waiting:
    return Waiting()


def interrupted(here: Waiting) -> None:
    here.ledger.start(new_run("a", home=HOME))
    here.ledger.interrupt(HOME)


def test_an_interrupted_run_is_told_after_a_second_look(here: Waiting) -> None:
    interrupted(here)

    with pytest.raises(RunInterruptedError, match="'a' was interrupted"):
        here.handle("a", clock=BusyClock(lambda: None)).wait(SOON_S)

    assert here.ledger.reads == [["a"], ["a"]]


def test_a_run_that_was_only_being_taken_over_was_not_interrupted(here: Waiting) -> None:
    interrupted(here)

    def take_over() -> None:
        here.ledger.resume("a", home=HOME)
        here.end("a")

    assert here.handle("a", clock=BusyClock(take_over)).wait(SOON_S)["n"] == 1


def test_a_step_that_no_worker_takes_is_pointed_out_once_by_each_handle(
    here: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "UNCLAIMED_AFTER_S", 0.0)
    here.ledger.start(new_run("a", queue="gpu"))
    handle = here.handle("a", advice="start a worker")

    with pytest.warns(UserWarning, match="not taken") as caught, pytest.raises(TimeoutError):
        handle.wait(0.5)

    (warning,) = caught
    assert len(here.ledger.reads) > 2
    assert warning.filename == __file__
    assert str(warning.message) == (
        "step 0 of run 'a' was not taken by any worker so far (it waits in the queue 'gpu', for a worker "
        "with -Q gpu): start a worker"
    )


def test_a_result_is_read_again_when_the_database_goes_away_just_then(
    here: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.start("a")
    here.end("a")
    saved, answers = here.ledger.get_saved, iter([DatabaseError("gone")])

    def get_saved(run_id: str) -> Saved | None:
        for error in answers:
            raise error
        return saved(run_id)

    monkeypatch.setattr(here.ledger, "get_saved", get_saved)

    assert here.handle("a").wait(SOON_S)["n"] == 1


def test_followed_events_come_as_they_happen_and_end_with_the_run(here: Waiting) -> None:
    here.start("a")
    following = here.handle("a").events(follow=True)

    told = [next(following)["event"]]
    here.ledger.commit(take(here.ledger, run_id="a"), record())
    told += [next(following)["event"] for _ in range(2)]
    here.ledger.commit(take(here.ledger, 1, run_id="a"), LAST)
    told += [entry["event"] for entry in following]

    assert told == ["flow_start", *["node_start", "node_end"] * 2, "flow_end"]


def test_followed_events_go_on_after_an_outage(here: Waiting) -> None:
    here.start("a")

    def come_back() -> None:
        here.ledger.error = None
        here.end("a")

    following = here.handle("a", clock=BusyClock(come_back)).events(follow=True)
    told = [next(following)["event"]]
    here.ledger.error = DatabaseError("gone")
    told += [entry["event"] for entry in following]

    assert told == ["flow_start", "node_start", "node_end", "flow_end"]


def test_a_forked_process_waits_by_itself_whatever_its_parent_was_doing(here: Waiting) -> None:
    here.start("a", "b")
    here.end("b")
    waiter = threading.Thread(target=here.handle("a").wait, args=(SOON_S,))
    waiter.start()
    wait_until(lambda: ["a"] in here.ledger.reads, what="the parent to wait")

    with here.room._changed:
        child = os.fork()
        if child == 0:
            os._exit(0 if here.handle("b").wait(SOON_S)["n"] == 1 else 1)

    assert os.waitpid(child, 0)[1] == 0
    here.end("a")
    waiter.join(SOON_S)
    assert not waiter.is_alive()


ENDS = """
import threading
from tests.support.wait import wait_until
from tests.support.waiting import Waiting
here = Waiting()
here.start("a")
threading.Thread(target=here.handle("a").wait, daemon=True).start()
wait_until(lambda: here.ledger.reads)
print("done", flush=True)
"""


def test_a_process_ends_although_a_thread_of_it_waits() -> None:
    root = Path(__file__).resolve().parents[2]

    done = subprocess.run(
        [sys.executable, "-c", ENDS], cwd=root, capture_output=True, text=True, timeout=SOON_S, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
