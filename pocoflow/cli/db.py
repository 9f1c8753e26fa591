"""`pocoflow db`: look after the database that keeps the runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pocoflow.db.connect import database_url, shown
from pocoflow.db.fsck import INVARIANTS, Report, examine
from pocoflow.settings import Settings

SHOWN_RUNS = 10


@click.group()
def command() -> None:
    """Look after the database that keeps the runs."""


@command.command()
@click.option(
    "--database", metavar="URL", help="SQLite file or database URL; POCOFLOW_DATABASE_URL by default."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, with every run.")
def check(database: str | None, as_json: bool) -> None:
    """Check that the history of every run keeps all promises.

    Reads one moment of the database in one transaction and changes nothing, so workers may be at work
    meanwhile. Runs that were written by hand, through WorkflowDB, are left out. Set POCOFLOW_MAX_CRASHES
    as for the workers.

    The exit code is 0 if all is well, and 1 if a promise is broken or the database cannot be checked.

    A URL with a password is better off in POCOFLOW_DATABASE_URL: everybody on a machine can see its
    command lines.

    \b
    Examples:
      pocoflow db check
      pocoflow db check --database runs.db --json
    """
    settings = Settings.load()
    url = database_url(database or settings.database_url)
    report = examine(url, max_crashes=settings.max_crashes)
    if as_json:
        found = {"database": shown(url), "promises": len(INVARIANTS), **asdict(report)}
        click.echo(json.dumps(found, indent=2))
    else:
        _show(shown(url), report)
    if report.violations:
        raise SystemExit(1)


def _show(database: str, report: Report) -> None:
    console = Console(highlight=False, markup=False)
    console.print(f"database  {database}", soft_wrap=True)
    by_hand = f"; left out: {_count(report.by_hand, 'run')} written by hand" if report.by_hand else ""
    looked_at = ((report.runs, "run"), (report.steps, "step"), (report.events, "event"))
    console.print(f"checked   {', '.join(_count(*what) for what in looked_at)}{by_hand}", soft_wrap=True)
    broken = {
        promise: [violation.run_id for violation in violations]
        for promise, violations in groupby(report.violations, lambda violation: violation.promise)
    }
    if not broken:
        console.print(f"all {len(INVARIANTS)} promises kept")
        return
    console.print(f"{len(broken)} of {len(INVARIANTS)} promises broken", style="bold red")
    table = Table(show_lines=True)
    table.add_column("promise", ratio=1)
    table.add_column("runs", ratio=1, overflow="fold")
    for promise, run_ids in broken.items():
        table.add_row(Text(promise), Text(_names(run_ids)))
    console.print(table)


def _names(run_ids: Sequence[str]) -> str:
    # A row that somebody forged may hold what would steer a terminal.
    names = [run_id if run_id.isprintable() else repr(run_id) for run_id in run_ids[:SHOWN_RUNS]]
    more = len(run_ids) - len(names)
    return "\n".join([*names, *([f"and {more:,} more"] if more else [])])


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
