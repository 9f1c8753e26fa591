"""How the main process of a worker notices that a child has died, and says so."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pocoflow.broker import make_app, report_death
from pocoflow.settings import Settings
from pocoflow.workers.deaths import Lookout


class Timer:
    """Remembers what it is to call, and every how many seconds."""

    def __init__(self) -> None:
        self.calls: dict[Any, float] = {}

    def call_repeatedly(self, seconds: float, call: Any) -> Any:
        self.calls[call] = seconds
        return SimpleNamespace(cancel=lambda: self.calls.pop(call))


def maintain_pool() -> None:
    """Stands for Celery's look at all children."""


@pytest.fixture
def consumer() -> Any:
    return SimpleNamespace(timer=Timer(), pool=SimpleNamespace(maintain_pool=maintain_pool))


def test_the_children_are_looked_after_several_times_a_second(consumer: Any) -> None:
    Lookout(consumer).start(consumer)

    assert consumer.timer.calls[maintain_pool] < 0.5


def test_nobody_is_looked_after_any_more_when_the_worker_has_stopped(consumer: Any) -> None:
    lookout = Lookout(consumer)

    lookout.stop(consumer)
    lookout.start(consumer)
    lookout.stop(consumer)

    assert consumer.timer.calls == {}


def test_a_death_that_cannot_be_reported_is_logged_in_a_moment(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(Settings(), "redis://127.0.0.1:1/0")
    began = time.monotonic()

    report_death(app, ("run", 0), "host:1")

    assert time.monotonic() - began < 10
    assert "death of a process not reported, broker is away" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING
