"""`pocoflow import`: a run from a file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pocoflow.cli.database import database_option
from pocoflow.db.workflow_db import WorkflowDB
from pocoflow.errors import RunFileError
from pocoflow.settings import Settings


@click.command()
@click.argument("file")
@click.option("--as", "new_id", metavar="NEW_ID", help="What to call the run here.")
@database_option
def command(file: str, new_id: str | None, database: str | None) -> None:
    """Read a run from a file that `pocoflow export` wrote; - is the standard input.

    Format, checksum, values and history are checked first, and the run is written whole or not at all. A
    run of this id that is there already stays, and this one is refused: give it another id with --as.

    No worker picks an imported run up. One that had not ended is paused here, and goes on when somebody
    resumes it. Where it came from it may go on as well, so its steps may then be done twice.
    """
    target = WorkflowDB(database or Settings.load().database_url)
    run_id = target.import_run(_read(file), new_id=new_id)
    row = target.get_run(run_id)
    if row is not None:
        steps = row["total_steps"]
        click.echo(f"imported run {run_id!r}: {row['status']}, {steps} step{'' if steps == 1 else 's'}")


def _read(file: str) -> str:
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return content.decode("ascii")
    except OSError as exc:
        raise RunFileError(f"{file} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise RunFileError(f"{file} is no export of a run: {exc}") from exc
