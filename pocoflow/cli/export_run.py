"""`pocoflow export`: a run as one file."""

from __future__ import annotations

from pathlib import Path

import click

from pocoflow.cli.database import database_option, url_of
from pocoflow.db.run_transfer import export_run
from pocoflow.errors import RunFileError
from pocoflow.files import write_whole


@click.command()
@click.argument("run_id")
@click.option("--output", "-o", metavar="FILE", help="Where to; printed when left out.")
@database_option
def command(run_id: str, output: str | None, database: str | None) -> None:
    """Write a run with its whole history into a file.

    The file is JSON, holds one moment of the run, also while workers are at it, and is there whole or not
    at all. All that the store of the run has ever held is in it: treat it like the database.

    \b
    Examples:
      pocoflow export order-17 --output order-17.json
      pocoflow export order-17 --database runs.db | gzip > order-17.json.gz
    """
    text = export_run(url_of(database), run_id)
    if output is None:
        click.echo(text, nl=False)
        return
    _write(Path(output), text)
    click.echo(f"exported run {run_id!r} to {output}")


def _write(target: Path, text: str) -> None:
    try:
        write_whole(target, text)
    except OSError as exc:
        raise RunFileError(f"{target} cannot be written: {exc.strerror}") from exc
