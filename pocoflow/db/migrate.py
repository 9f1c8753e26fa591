"""Bring older tables up to date, by Alembic.

Within the caller's transaction: a process that dies on the way leaves the tables as they were.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from pocoflow.errors import DatabaseError

SCRIPTS = Path(__file__).parent / "migrations"

Report = Callable[[int, int], None]


def upgrade(connection: Connection, *, to: str = "head", report: Report | None = None) -> None:
    """Run the scripts that lead from the tables of this database to a revision, by default the newest.

    Args:
        connection: In a transaction, which nobody else can begin at the same time.
        report: Told how many of how many runs are done.
    """
    command.upgrade(configuration(connection, report), to)


def configuration(connection: Connection, report: Report | None = None) -> Config:
    """Return what Alembic asks for, to work on this connection with the scripts of this package."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes.update(connection=connection, report=report)
    return config


def keep_copy(file: Path, copy: Path) -> None:
    """Copy an SQLite file as it is before an upgrade, while nobody writes to it.

    A copy of an earlier try is replaced; it holds nothing that this one does not.

    Raises:
        DatabaseError: There is no room for it, or its folder cannot be written.
    """
    part = copy.with_name(f"{copy.name}.part")
    try:
        part.unlink(missing_ok=True)
        # What must not be read in the file must not be read in its copy either.
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        shutil.copymode(file, part)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(part)) as target:
            source.backup(target)
        os.replace(part, copy)
    except (OSError, sqlite3.Error) as exc:
        part.unlink(missing_ok=True)
        raise DatabaseError(
            f"database {str(file)!r} was not upgraded, because it cannot be copied to {copy.name!r} beside "
            f"it first ({exc}): make room there, or let this user write in that folder"
        ) from exc
