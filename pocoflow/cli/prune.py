"""`pocoflow prune`: delete what ended long ago."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from sqlalchemy.engine import URL

from pocoflow.cli.database import database_option, url_of
from pocoflow.cli.duration import Duration
from pocoflow.cli.wording import counted
from pocoflow.db.failures import shown
from pocoflow.db.prune import Pruned, prune, would_prune
from pocoflow.engine.timing import Retention


@click.command()
@click.option(
    "--older-than", "older_than_s", type=Duration(), required=True, help="Time since the end: 12h, 30d, 8w."
)
@click.option("--keep-failed", is_flag=True, help="Leave runs that failed.")
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    older_than_s: float, keep_failed: bool, dry_run: bool, database: str | None, as_json: bool
) -> None:
    """Delete runs that ended long ago, with their checkpoints, events and large values.

    Only runs that have completed, failed or were cancelled go, never one that is queued, running or
    paused. Workers may be at work meanwhile; a large value goes when no run needs it any more. A file of
    SQLite gets smaller. To have workers do the same by themselves, set POCOFLOW_RETAIN_DAYS.

    \b
    Examples:
      pocoflow prune --older-than 30d --dry-run
      pocoflow prune --older-than 8w --keep-failed
    """
    url = url_of(database)
    retention = Retention(older_than_s=older_than_s, keep_failed=keep_failed)
    before, expected = _bytes(url), would_prune(url, retention)
    gone = expected if dry_run else _prune(url, retention, expected.runs)
    after = _bytes(url)
    if as_json:
        told = {"database": shown(url), "dry_run": dry_run, **asdict(gone), "bytes": after}
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"database  {shown(url)}")
    click.echo(f"{'would go' if dry_run else 'deleted '}  {_count(gone)}")
    if before is not None and after is not None and not dry_run:
        click.echo(f"file      {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now")


def _prune(url: URL, retention: Retention, expected: int) -> Pruned:
    gone = Pruned()
    columns = (TextColumn("deleting"), BarColumn(), MofNCompleteColumn(), TextColumn("runs"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=expected)
        for batch in prune(url, retention):
            gone += batch
            progress.update(task, completed=gone.runs)
    return gone


def _count(gone: Pruned) -> str:
    things = {name.removesuffix("s"): number for name, number in asdict(gone).items() if name != "blobs"}
    if gone.blobs:
        things["large value"] = gone.blobs
    return ", ".join(counted(number, thing) for thing, number in things.items())


def _bytes(url: URL) -> int | None:
    """The size of an SQLite file."""
    path = Path(str(url.database))
    return path.stat().st_size if url.get_backend_name() == "sqlite" and path.exists() else None
