"""A step ends in the time that its node has, a run in that of its flow, where nobody can end them by force.

A prefork worker can; that is tested with real workers.
"""

from __future__ import annotations

import re
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from pocoflow import (
    Flow,
    Node,
    RunTimeoutError,
    StepFailedError,
    StepTimeoutError,
    Store,
    WorkflowDB,
)
from tests.support.wait import wait_until

RUN = "run-1"
SHORT_S = 0.05
TOO_LONG = f"step 0 (node 'Overruns') exceeded its timeout of {SHORT_S:g} s"
LONG_S = 600.0
WAIT_S = 60.0
# What a slow machine needs for what is done at once; LONG_S is far beyond.
PROMPT_S = 5.0


class Overruns(Node):
    """Takes longer than it may, each time or so often, and returns a result all the same."""

    def __init__(self, times: int = 100, **policy: Any) -> None:
        self.times, self.tries = times, 0
        for name, value in policy.items():
            setattr(self, name, value)

    def exec(self, prepared: Any) -> str:
        self.tries += 1
        if self.tries <= self.times:
            assert self.cancelled is False
            wait_until(lambda: self.cancelled, timeout_s=WAIT_S, every_s=0.005)
        return f"result {self.tries}"

    def post(self, store: Store, prepared: Any, result: str) -> None:
        store["result"] = result


class Looks(Node):
    """Keeps the deadline that it sees in each of its methods."""

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout
        self.seen: list[float | None] = []

    def prep(self, store: Store) -> None:
        self.seen.append(self.deadline)

    def exec(self, prepared: None) -> None:
        self.seen.append(self.deadline)

    def post(self, store: Store, prepared: None, result: None) -> None:
        self.seen.append(self.deadline)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture(params=["no database", "database"])
def db_path(request: pytest.FixtureRequest, path: Path) -> Path | None:
    return path if request.param == "database" else None


def told(path: Path) -> list[tuple[str, int | None, str | None]]:
    """What history says about the tries of the run."""
    return [
        (event["event"], event["attempt"], event["error_msg"])
        for event in WorkflowDB(path).get_events(RUN)
        if event["event"] in ("node_retry", "node_end", "node_error")
    ]


def test_a_step_that_overran_fails_the_run_when_it_returns(db_path: Path | None) -> None:
    with pytest.raises(StepTimeoutError, match=re.escape(TOO_LONG)) as caught:
        Flow(Overruns(timeout=SHORT_S), db_path=db_path).run({}, run_id=RUN)

    assert caught.value.run_id == RUN


def test_what_a_step_returned_too_late_does_not_count(path: Path) -> None:
    with pytest.raises(StepTimeoutError):
        Flow(Overruns(timeout=SHORT_S), db_path=path).run({}, run_id=RUN)

    row = WorkflowDB(path).get_run(RUN)
    assert row is not None
    assert (row["status"], row["error_type"], row["total_steps"]) == ("failed", "StepTimeoutError", 0)
    assert told(path) == [("node_error", 1, TOO_LONG)]
    assert WorkflowDB(path).get_checkpoints(RUN) == []


@pytest.mark.parametrize("phase", ["prep", "post"])
def test_the_time_of_prep_and_post_counts(phase: str, db_path: Path | None) -> None:
    node = Node()
    node.timeout = SHORT_S

    def overrun(*arguments: Any) -> None:
        wait_until(lambda: node.cancelled, timeout_s=WAIT_S, every_s=0.005)

    setattr(node, phase, overrun)

    with pytest.raises(StepTimeoutError):
        Flow(node, db_path=db_path).run({})


def test_an_error_that_is_raised_too_late_counts_as_a_timeout(db_path: Path | None) -> None:
    class Late(Overruns):
        def exec(self, prepared: Any) -> str:
            super().exec(prepared)
            raise ConnectionError("after all that time")

    with pytest.raises(StepTimeoutError):
        Flow(Late(timeout=SHORT_S), db_path=db_path).run({})


def test_a_try_that_overran_is_followed_by_another(path: Path) -> None:
    # The second try has to return within the timeout on a slow machine, too.
    node = Overruns(times=1, timeout=1.0, max_retries=2)

    store = Flow(node, db_path=path).run({}, run_id=RUN)

    assert store["result"] == "result 2"
    assert [(event, attempt) for event, attempt, _ in told(path)] == [("node_retry", 1), ("node_end", 2)]


def test_a_step_that_overruns_each_time_is_tried_as_often_as_any_other(db_path: Path | None) -> None:
    node = Overruns(timeout=SHORT_S, max_retries=3)

    with pytest.raises(StepTimeoutError):
        Flow(node, db_path=db_path).run({})

    assert node.tries == 3


@pytest.mark.parametrize("policy", [{"retry_on": ConnectionError}, {"give_up_on": TimeoutError}])
def test_a_node_may_leave_timeouts_out_of_what_is_tried_again(policy: dict[str, Any]) -> None:
    node = Overruns(timeout=SHORT_S, max_retries=3, **policy)

    with pytest.raises(StepTimeoutError):
        Flow(node).run({})

    assert node.tries == 1


def test_a_step_in_the_background_that_overruns_fails_its_run() -> None:
    handle = Flow(Overruns(timeout=SHORT_S)).run_background({})

    with pytest.raises(StepFailedError, match="exceeded its timeout") as caught:
        handle.wait(WAIT_S)

    assert (caught.value.error_type, handle.status) == ("StepTimeoutError", "failed")


def test_a_node_without_a_timeout_has_no_deadline(db_path: Path | None) -> None:
    node = Looks()

    Flow(node, db_path=db_path).run({})

    assert node.seen == [None] * 3
    assert Looks(timeout=LONG_S).deadline is None


def test_the_deadline_is_one_moment_for_all_of_a_try(db_path: Path | None) -> None:
    node, before = Looks(timeout=LONG_S), monotonic()

    Flow(node, db_path=db_path).run({})

    (deadline,) = set(node.seen)
    assert deadline is not None
    assert before + LONG_S <= deadline <= monotonic() + LONG_S


def test_each_try_has_a_deadline_of_its_own() -> None:
    class TwoTries(Looks):
        max_retries = 2

        def exec(self, prepared: None) -> None:
            super().exec(prepared)
            if len(self.seen) == 2:
                raise ConnectionError("busy")

    node = TwoTries(timeout=LONG_S)

    Flow(node).run({})

    first, _, second, last = (moment or 0.0 for moment in node.seen)
    assert 0.0 < first < second == last


def test_a_step_is_cancelled_once_its_deadline_has_passed(db_path: Path | None) -> None:
    class Notes(Node):
        timeout = SHORT_S

        def exec(self, prepared: Any) -> None:
            wait_until(lambda: self.cancelled, every_s=0.005)
            moments.append((self.deadline or 0.0, monotonic()))
            assert self.cancelled

    moments: list[tuple[float, float]] = []
    with pytest.raises(StepTimeoutError):
        Flow(Notes(), db_path=db_path).run({})

    ((deadline, cancelled_at),) = moments
    assert deadline <= cancelled_at < deadline + PROMPT_S


def test_a_run_that_is_not_done_in_time_fails_and_its_step_is_not_tried_again(db_path: Path | None) -> None:
    node = Overruns(max_retries=9)

    with pytest.raises(RunTimeoutError, match="not done within the timeout of its flow") as caught:
        Flow(node, timeout=SHORT_S, db_path=db_path).run({}, run_id=RUN)

    assert node.tries <= 1
    assert caught.value.run_id == RUN


def test_history_tells_that_the_run_was_not_done_in_time(path: Path) -> None:
    with pytest.raises(RunTimeoutError):
        Flow(Overruns(), timeout=SHORT_S, db_path=path).run({}, run_id=RUN)

    row = WorkflowDB(path).get_run(RUN)
    assert row is not None
    assert (row["status"], row["error_type"], row["total_steps"]) == ("failed", "RunTimeoutError", 0)


def test_the_timeout_of_a_flow_is_for_all_its_steps_together(db_path: Path | None) -> None:
    class Slow(Looks):
        def exec(self, prepared: None) -> None:
            began = (self.deadline or 0.0) - LONG_S
            wait_until(lambda: monotonic() > began + 1.0)

    first, second = Slow(), Looks()

    Flow(first.then("default", second), timeout=LONG_S, db_path=db_path).run({})

    # The second step begins one second later and has as much less.
    assert second.seen == pytest.approx([first.seen[0]] * 3, abs=0.5)


def test_no_delay_before_a_try_goes_beyond_the_end_of_the_run(db_path: Path | None) -> None:
    class Busy(Node):
        max_retries = 2
        retry_delay = LONG_S

        def exec(self, prepared: Any) -> None:
            raise ConnectionError("busy")

    began = monotonic()
    with pytest.raises(RunTimeoutError):
        Flow(Busy(), timeout=SHORT_S, db_path=db_path).run({})

    assert monotonic() - began < PROMPT_S + SHORT_S


def test_a_run_in_the_background_that_is_not_done_in_time_fails() -> None:
    node = Overruns(max_retries=9)
    handle = Flow(node, timeout=0.5).run_background({})

    with pytest.raises(RunTimeoutError, match="not done within the timeout of its flow"):
        handle.wait(WAIT_S)

    assert handle.status == "failed"
    assert node.tries <= 1


@pytest.mark.parametrize(
    ("step_s", "run_s", "error"),
    [
        (SHORT_S, LONG_S, StepTimeoutError),
        (LONG_S, SHORT_S, RunTimeoutError),
        (SHORT_S, None, StepTimeoutError),
        (None, SHORT_S, RunTimeoutError),
    ],
)
def test_the_timeout_that_ends_sooner_is_the_one_that_counts(
    step_s: float | None, run_s: float | None, error: type[Exception], db_path: Path | None
) -> None:
    node = Overruns(timeout=step_s)

    with pytest.raises(error):
        Flow(node, timeout=run_s, db_path=db_path).run({})


@pytest.mark.parametrize(("step_s", "run_s"), [(LONG_S, 2 * LONG_S), (2 * LONG_S, LONG_S)])
def test_the_deadline_is_the_sooner_of_both(step_s: float, run_s: float) -> None:
    node, before = Looks(timeout=step_s), monotonic()

    Flow(node, timeout=run_s).run({})

    assert all(before + LONG_S <= (moment or 0.0) <= monotonic() + LONG_S for moment in node.seen)


class PostsSlowly(Node):
    """Changes the store and takes too long over it, the first time."""

    timeout, max_retries = SHORT_S, 3

    def __init__(self) -> None:
        self.posts = 0

    def post(self, store: Store, prepared: Any, result: Any) -> None:
        self.posts += 1
        store["seen"].append(self.posts)
        if self.posts == 1:
            wait_until(lambda: self.cancelled, timeout_s=WAIT_S, every_s=0.005)


def test_a_post_that_overran_is_not_repeated_on_the_store_that_it_has_changed(db_path: Path | None) -> None:
    node, store = PostsSlowly(), Store({"seen": []})

    with pytest.raises(StepTimeoutError):
        Flow(node, db_path=db_path).run(store)

    assert node.posts == 1


def test_a_post_that_overran_in_a_worker_is_repeated_on_the_last_checkpoint() -> None:
    result = Flow(PostsSlowly()).run_background({"seen": []}).wait(WAIT_S)

    assert result["seen"] == [2]


class TooLate(Node):
    """Returns from exec when its time is over."""

    timeout = SHORT_S

    def exec(self, prepared: Any) -> None:
        wait_until(lambda: self.cancelled, timeout_s=WAIT_S, every_s=0.005)

    def post(self, store: Store, prepared: Any, result: Any) -> None:
        store["posted"] = True


def test_what_exec_returned_too_late_is_not_posted(db_path: Path | None) -> None:
    store = Store({})

    with pytest.raises(StepTimeoutError):
        Flow(TooLate(), db_path=db_path).run(store)

    assert store == {}
