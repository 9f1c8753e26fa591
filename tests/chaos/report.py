"""The table of what was broken and what came of it, as Markdown to be kept with the guarantees."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

TITLES = ("fault", "what is done", "database", "result", "s", "what was found")
TESTED = ("celery", "kombu", "redis", "SQLAlchemy", "psycopg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One scenario on one database."""

    fault: str
    injected: str
    database: str
    result: str
    seconds: str = ""
    found: str = ""
    date: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.fault, self.injected, self.database, self.result, self.seconds, self.found)


class Report:
    """Collects a line from each test with the marker `fault`.

    The results of earlier calls are kept beside the table, so that a part can be done again, or one part
    after the other.

    Attributes:
        servers: Names and versions of the servers that were broken.
        lines: By the id of the test.
        left_out: Lines for what this tier has no time for.
    """

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.servers: set[str] = set()
        self.lines: dict[str, Line] = {}
        self.left_out: list[Line] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = dict(report.user_properties)
        if "fault" not in told or (report.when != "call" and report.passed):
            return
        # If there is a line already, from the call, it did not survive after all.
        self.lines[report.nodeid] = Line(
            fault=str(told["fault"]),
            injected=str(told["injected"]),
            database=str(told["database"]),
            result="ok" if report.passed else f"**{report.outcome}**",
            seconds=f"{report.duration:.0f}",
            found="; ".join(str(text) for name, text in report.user_properties if name == "found"),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
        )

    def summary(self) -> list[str]:
        """A few lines for the terminal."""
        left_out = sorted({f"{line.fault}/{line.database}" for line in self.left_out})
        return [
            _sum(self.lines.values()),
            *([f"only with --chaos=full: {', '.join(left_out)}"] if left_out else []),
        ]

    def write(self, path: Path, command: str) -> None:
        """Write the table, and all that is needed to make it again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines, servers = self._with_earlier(path.with_suffix(".json"))
        dates = sorted({line.date for line in lines.values()})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        head = [f"`{command}`, {when}: {_sum(lines.values())}.", "", _surroundings(servers), ""]
        path.write_text("\n".join([*head, *_table([*lines.values(), *self.left_out])]) + "\n")

    def _with_earlier(self, path: Path) -> tuple[dict[str, Line], list[str]]:
        """Add what was found to what earlier calls have left in this file."""
        earlier = json.loads(path.read_text()) if path.exists() else {"lines": {}, "servers": []}
        lines = {name: Line(**line) for name, line in earlier["lines"].items()} | self.lines
        servers = sorted({*earlier["servers"], *self.servers})
        kept = {"lines": {name: asdict(line) for name, line in lines.items()}, "servers": servers}
        path.write_text(json.dumps(kept, indent=1))
        return lines, servers


def _sum(lines: Collection[Line]) -> str:
    survived = sum(line.result == "ok" for line in lines)
    return f"{survived} of {len(lines)} scenarios survived"


def _surroundings(servers: Sequence[str]) -> str:
    libraries = [f"{name} {version(name)}" for name in TESTED]
    own = ", ".join(
        [f"Python {platform.python_version()}", *libraries, *servers, f"SQLite {sqlite3.sqlite_version}"]
    )
    return f"{own}; {platform.system()}, {os.cpu_count()} processors."


def _table(lines: list[Line]) -> list[str]:
    ordered = sorted(lines, key=lambda line: (line.fault[0], int(line.fault[1:]), line.cells))
    rows = [" | ".join(cell.replace("|", "\\|") for cell in line.cells) for line in ordered]
    return [f"| {row} |" for row in (" | ".join(TITLES), " | ".join(["---"] * len(TITLES)), *rows)]
