"""`pocoflow db`: look after the database that keeps the runs, and bring its tables up to date."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from pocoflow.cli.database import database_option, url_of
from pocoflow.cli.wording import counted, printable
from pocoflow.db.connect import copy_name, current_revision
from pocoflow.db.connect import upgrade as upgrade_tables
from pocoflow.db.failures import shown
from pocoflow.db.fsck import INVARIANTS, Report, examine
from pocoflow.db.version import NEWEST, REVISIONS
from pocoflow.settings import Settings

SHOWN_RUNS = 10


@click.group()
def command() -> None:
    """Look after the database that keeps the runs."""


@command.command()
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, with every run.")
def check(database: str | None, as_json: bool) -> None:
    """Check that the history of every run keeps all promises.

    Reads one moment of the database in one transaction and changes nothing, so workers may be at work
    meanwhile. Runs that were written by hand, through WorkflowDB, or by PocoFlow 0.2 are left out. Set
    POCOFLOW_MAX_CRASHES as for the workers.

    The exit code is 0 if all is well, and 1 if a promise is broken or the database cannot be checked.

    A URL with a password is better off in POCOFLOW_DATABASE_URL: everybody on a machine can see its
    command lines.

    \b
    Examples:
      pocoflow db check
      pocoflow db check --database runs.db --json
    """
    url = url_of(database)
    report = examine(url, max_crashes=Settings.load().max_crashes)
    if as_json:
        found = {"database": shown(url), "promises": len(INVARIANTS), **asdict(report)}
        click.echo(json.dumps(found, indent=2))
    else:
        _show(shown(url), report)
    if report.violations:
        raise SystemExit(1)


@command.command()
@database_option
def upgrade(database: str | None) -> None:
    """Bring the tables up to date, or make them in a database that has none.

    End the programs and workers that use the database first. The upgrade happens whole or not at all: it
    can be repeated, also after it was killed. Of two that are started at once, one waits for the other.

    An SQLite file is copied first, to FILE.before-REVISION beside it. Of a Postgres database, make a backup.

    The exit code is 0 if the tables are up to date now, and else 1.

    \b
    Examples:
      pocoflow db upgrade
      pocoflow db upgrade --database runs.db
    """
    url = url_of(database)
    with _progress() as progress:
        bar = progress.add_task("upgrading", total=None)
        show = partial(progress.update, bar, refresh=True)
        before = upgrade_tables(url, lambda done, total: show(completed=done, total=total))
    click.echo(f"database  {shown(url)}")
    if before is None:
        click.echo(f"tables made, at revision {NEWEST}")
    elif before == NEWEST:
        click.echo(f"revision {NEWEST} is up to date")
    else:
        click.echo(f"upgraded from revision {before} ({REVISIONS[before]}) to {NEWEST} ({REVISIONS[NEWEST]})")
        if url.get_backend_name() == "sqlite":
            click.echo(f"the file as it was is {copy_name(url)}")


@command.command()
@database_option
def current(database: str | None) -> None:
    """Show the revision of the tables, and the newest one; changes nothing.

    The exit code is 0 if the tables are up to date. It is 1 if they have to be made or upgraded first, which
    an SQLite file is by whoever opens it, and a Postgres database by `pocoflow db upgrade`.

    \b
    Examples:
      pocoflow db current
      pocoflow db current --database runs.db
    """
    url = url_of(database)
    revision = current_revision(url)
    click.echo(f"database  {shown(url)}")
    click.echo(f"revision  {'none' if revision is None else f'{revision} ({REVISIONS[revision]})'}")
    click.echo(f"newest    {NEWEST} ({REVISIONS[NEWEST]})")
    if revision != NEWEST:
        raise SystemExit(1)


def _progress() -> Progress:
    """A line on a terminal, for an upgrade that takes its time; nothing in a log."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("runs"))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _show(database: str, report: Report) -> None:
    console = Console(highlight=False, markup=False)
    console.print(f"database  {database}", soft_wrap=True)
    left_out = f"; left out: {counted(report.by_hand, 'run')} written by hand or by 0.2"
    by_hand = left_out if report.by_hand else ""
    looked_at = ((report.runs, "run"), (report.steps, "step"), (report.events, "event"))
    console.print(f"checked   {', '.join(counted(*what) for what in looked_at)}{by_hand}", soft_wrap=True)
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
    names = [printable(run_id) for run_id in run_ids[:SHOWN_RUNS]]
    more = len(run_ids) - len(names)
    return "\n".join([*names, *([f"and {more:,} more"] if more else [])])
