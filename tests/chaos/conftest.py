"""How the chaos suite is chosen, scaled and reported; see README.md beside this file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pocoflow.errors import BackendError
from tests.chaos.arena import Arena, Arenas, Plan
from tests.chaos.report import Line, Report
from tests.support.services import leave_out
from tests.support.workers import trace

__all__ = ["trace"]

HERE = Path(__file__).parent
LIMIT_S = {"short": 120, "full": 900}
_report = pytest.StashKey[Report]()
_survived = pytest.StashKey[bool]()

T = TypeVar("T")
Found = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tier:
    """How much of it: the same code with small numbers in `make test`, with large ones in `make chaos`."""

    full: bool

    def __call__(self, short: T, full: T) -> T:
        return full if self.full else short


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_report] = Report(config.getoption("--chaos"))
    config.pluginmanager.register(config.stash[_report], "chaos-report")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and list, what the short tier has no time for."""
    tier = config.getoption("--chaos")
    kept, left_out = [], []
    for item in items:
        mark = item.get_closest_marker("fault") if HERE in item.path.parents else None
        if mark is None:
            kept.append(item)
            continue
        item.add_marker(pytest.mark.timeout(LIMIT_S[tier]))
        only = mark.kwargs.get("short", ("sqlite", "postgres"))
        (kept if tier == "full" or _database(item) in only else left_out).append(item)
    for item in left_out:
        config.stash[_report].left_out.append(Line(**_told(item), result="full only"))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if report.when == "call":
        item.stash[_survived] = report.passed
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("fault"):
        item.user_properties += list(_told(item).items())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    report = config.stash[_report]
    if not report.lines:
        return
    path = config.rootpath / "build" / f"chaos-{report.tier}.md"
    report.write(path, f"pytest {' '.join(config.invocation_params.args)}")
    terminalreporter.section("chaos")
    for line in (*report.summary(), f"table: {path}"):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def tier(pytestconfig: pytest.Config) -> Tier:
    return Tier(pytestconfig.getoption("--chaos") == "full")


@pytest.fixture(scope="package")
def arenas(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arenas]:
    made = Arenas(tmp_path_factory.mktemp("chaos"), pytestconfig.stash[_report].servers)
    yield made
    made.close()


@pytest.fixture
def found(request: pytest.FixtureRequest) -> Found:
    """Note for the table what was asserted or measured."""
    return lambda words: request.node.user_properties.append(("found", words))


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    """Each kind of database; all tests of a module with one, then all with the other."""
    return str(request.param)


@pytest.fixture
def enter(
    request: pytest.FixtureRequest, arenas: Arenas, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Arena]]:
    """Enter an arena made to this `Plan`; one that the test before has survived is used again."""
    entered: list[tuple[Arena, dict[int, int]]] = []

    def enter(**plan: Any) -> Arena:
        try:
            arena = arenas.get(Plan(**plan))
        except BackendError as missing:
            leave_out(request.config, str(missing))
        arena.cluster.adopt(monkeypatch)
        entered.append((arena, arena.log_mark()))
        return arena

    yield enter
    for arena, before in entered:
        arena.cluster.show_logs(since=before)
    if not request.node.stash.get(_survived, False):
        arenas.close()


@pytest.fixture
def arena(enter: Callable[..., Arena], database: str) -> Arena:
    return enter(database=database)


def _told(item: pytest.Item) -> dict[str, str]:
    mark = item.get_closest_marker("fault")
    assert mark is not None
    fault, injected = mark.args
    return {"fault": fault, "injected": injected, "database": _database(item)}


def _database(item: pytest.Item) -> str:
    mark, callspec = item.get_closest_marker("fault"), getattr(item, "callspec", None)
    named = mark.kwargs.get("database") if mark else None
    return str(named or (callspec.params.get("database", "-") if callspec else "-"))
