"""The coroutine of an `AsyncNode` is cancelled at its next await, soon after its step should stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from pocoflow import AsyncNode, Flow, RunCancelledError, RunTimeoutError, StepTimeoutError

LONG_S = 600.0
WAIT_S = 60.0
# A cancel is seen within about one second; a slow machine needs more, and LONG_S is far beyond.
PROMPT_S = 5.0


class Sleeper(AsyncNode):
    """Awaits what does not come, and keeps the moment at which it was cancelled."""

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout
        self.awaits = threading.Event()
        self.until: float | None = None
        self.cancelled_at = 0.0

    async def exec_async(self, prepared: Any) -> None:
        self.until = self.deadline
        self.awaits.set()
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            self.cancelled_at = monotonic()
            raise


class StubbornSleeper(Sleeper):
    """Makes something of its cancel."""

    async def exec_async(self, prepared: Any) -> None:
        try:
            await super().exec_async(prepared)
        except asyncio.CancelledError:
            return


@pytest.fixture(params=["no database", "database"])
def db_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "runs.db" if request.param == "database" else None


@pytest.mark.parametrize("kind", [Sleeper, StubbornSleeper])
def test_a_coroutine_is_cancelled_when_its_deadline_has_passed(
    kind: Callable[[float], Sleeper], db_path: Path | None
) -> None:
    node = kind(0.2)

    with pytest.raises(StepTimeoutError):
        Flow(node, db_path=db_path).run({})

    assert node.until is not None
    assert node.until <= node.cancelled_at < node.until + PROMPT_S


def test_a_coroutine_is_cancelled_when_the_time_of_its_run_is_over(db_path: Path | None) -> None:
    node = Sleeper()

    with pytest.raises(RunTimeoutError):
        Flow(node, timeout=0.2, db_path=db_path).run({})

    assert node.until is not None
    assert node.until <= node.cancelled_at < node.until + PROMPT_S


@pytest.mark.parametrize("timeout", [None, LONG_S])
def test_a_coroutine_is_cancelled_soon_after_its_run(timeout: float | None) -> None:
    node = Sleeper(timeout)
    handle = Flow(node).run_background({})
    assert node.awaits.wait(WAIT_S)

    asked_at = monotonic()
    handle.cancel()

    with pytest.raises(RunCancelledError):
        handle.wait(WAIT_S)
    assert asked_at <= node.cancelled_at < asked_at + PROMPT_S
    assert handle.status == "cancelled"


class Replaceable(Sleeper):
    """Has something else for when it fails."""

    fell_back = False

    def exec_fallback(self, prepared: Any, exc: BaseException) -> None:
        self.fell_back = True


def test_nothing_stands_in_for_what_was_cancelled() -> None:
    node = Replaceable()
    handle = Flow(node).run_background({})
    assert node.awaits.wait(WAIT_S)

    handle.cancel()

    with pytest.raises(RunCancelledError):
        handle.wait(WAIT_S)
    assert not node.fell_back
