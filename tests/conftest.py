"""What every test gets: services on demand, and no settings from the environment it happens to run in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pocoflow.db import connect

pytest_plugins = ["tests.support.services", "tests.support.seed"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-services",
        action="store_true",
        help="fail, not skip, where Redis, Postgres or RabbitMQ is missing (always so where CI is true)",
    )
    parser.addoption(
        "--chaos",
        choices=("short", "full"),
        default="short",
        help="how much of tests/chaos: a selection with few runs (default), or all of it (over an hour)",
    )


@pytest.fixture(autouse=True)
def _no_file_left_open() -> Iterator[None]:
    """Close the SQLite files of a test: thousands of tests would have thousands of them."""
    yield
    for (url, pid), engine in list(connect._engines.items()):
        if pid == os.getpid() and url.get_backend_name() == "sqlite":
            del connect._engines[url, pid]
            engine.dispose()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own POCOFLOW_* variables; POCOFLOW_TEST_* say where test services are and stay."""
    for name in list(os.environ):
        if name.startswith("POCOFLOW_") and not name.startswith("POCOFLOW_TEST_"):
            monkeypatch.delenv(name)
