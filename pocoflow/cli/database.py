"""Which database a command is about."""

from __future__ import annotations

import click
from sqlalchemy.engine import URL

from pocoflow.db.connect import database_url
from pocoflow.settings import Settings

database_option = click.option(
    "--database", metavar="URL", help="SQLite file or database URL; POCOFLOW_DATABASE_URL by default."
)


def url_of(given: str | None) -> URL:
    """Return what `--database` says, or else the settings; raises DatabaseError for what is no URL."""
    return database_url(given or Settings.load().database_url)
