"""The table of what was broken and what came of it, as Markdown to be kept with the guarantees."""

from __future__ import annotations

import os
import platform
import sqlite3
from dataclasses import dataclass
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

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.fault, self.injected, self.database, self.result, self.seconds, self.found)


class Report:
    """Collects a line from each test with the marker `fault`.

    Attributes:
        servers: Names and versions of the servers that were broken.
        left_out: Lines for what this tier has no time for.
    """

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.servers: set[str] = set()
        self.lines: list[Line] = []
        self.left_out: list[Line] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = dict(report.user_properties)
        if "fault" not in told or (report.when != "call" and report.passed):
            return
        if report.when == "teardown":
            # There is a line already, from the call: it did not survive after all.
            self.lines.pop()
        self.lines.append(
            Line(
                fault=str(told["fault"]),
                injected=str(told["injected"]),
                database=str(told["database"]),
                result="ok" if report.passed else f"**{report.outcome}**",
                seconds=f"{report.duration:.0f}",
                found="; ".join(str(text) for name, text in report.user_properties if name == "found"),
            )
        )

    def summary(self) -> list[str]:
        """A few lines for the terminal."""
        left_out = sorted({f"{line.fault}/{line.database}" for line in self.left_out})
        return [self._sum(), *([f"only with --chaos=full: {', '.join(left_out)}"] if left_out else [])]

    def write(self, path: Path, command: str) -> None:
        """Write the table, and all that is needed to make it again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        head = [f"`{command}`, {datetime.now(UTC):%Y-%m-%d}: {self._sum()}.", "", self._surroundings(), ""]
        path.write_text("\n".join([*head, *_table(self.lines + self.left_out)]) + "\n")

    def _sum(self) -> str:
        survived = sum(line.result == "ok" for line in self.lines)
        return f"{survived} of {len(self.lines)} scenarios survived"

    def _surroundings(self) -> str:
        libraries = [f"{name} {version(name)}" for name in TESTED]
        servers = [*sorted(self.servers), f"SQLite {sqlite3.sqlite_version}"]
        own = ", ".join([f"Python {platform.python_version()}", *libraries, *servers])
        return f"{own}; {platform.system()}, {os.cpu_count()} processors."


def _table(lines: list[Line]) -> list[str]:
    ordered = sorted(lines, key=lambda line: (line.fault[0], int(line.fault[1:]), line.cells))
    rows = [" | ".join(cell.replace("|", "\\|") for cell in line.cells) for line in ordered]
    return [f"| {row} |" for row in (" | ".join(TITLES), " | ".join(["---"] * len(TITLES)), *rows)]
