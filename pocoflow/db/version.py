"""Which tables a database has: one revision for each shape that they ever had in a release.

Says so without Alembic, which is slow to load and is needed only where tables have to change.
"""

from __future__ import annotations

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select

from pocoflow.db.schema import metadata, runs
from pocoflow.errors import DatabaseError
from pocoflow.settings import mask_url

# By revision, oldest first, the release that made such tables; one script in migrations/versions for each.
REVISIONS = {"0001": "PocoFlow 0.2", "0002": "PocoFlow 0.3"}
NEWEST = "0002"
# A name of its own: a database may belong to an application with migrations of its own.
versions = Table("pf_version", MetaData(), Column("version_num", String(32), primary_key=True))

_SEED = "0001"
_SEED_COLUMNS = {"run_id", "flow_name", "status", "started_at", "total_steps", "current_node", "error_msg"}
_OTHER = "choose another database"


def revision_of(connection: Connection) -> str | None:
    """Return the revision of the tables that are there, or None for no tables.

    Raises:
        DatabaseError: A newer PocoFlow made them, or none that was ever released.
    """
    made = inspect(connection).has_table(runs.name)
    noted = _noted(connection)
    if noted is not None or not made:
        return noted
    columns = {column["name"] for column in inspect(connection).get_columns(runs.name)}
    if columns >= _SEED_COLUMNS and runs.c.epoch.name not in columns:
        return _SEED  # 0.2 noted no revision.
    # Another process may have made or upgraded them between these looks.
    noted = _noted(connection)
    if noted is None:
        raise DatabaseError(
            f"database {_shown(connection)} has a table pf_runs that no release of PocoFlow made: {_OTHER}"
        )
    return noted


def require_newest(connection: Connection) -> str | None:
    """Return the revision of the tables, None for no tables; raises DatabaseError for older ones."""
    revision = revision_of(connection)
    if revision not in (None, NEWEST):
        raise older(connection, str(revision))
    return revision


def older(connection: Connection, revision: str) -> DatabaseError:
    """Return the error for tables that only `pocoflow db upgrade` may change."""
    name = _shown(connection)
    return DatabaseError(
        f"database {name} has the tables of {REVISIONS[revision]} (revision {revision}, needed is {NEWEST}): "
        "end the programs and workers that use it, then run: pocoflow db upgrade (with --database, or "
        "POCOFLOW_DATABASE_URL, for this one)"
    )


def set_up(connection: Connection) -> None:
    """Make the newest tables in a database that has none."""
    metadata.create_all(connection)
    versions.create(connection)
    connection.execute(insert(versions).values(version_num=NEWEST))


def _noted(connection: Connection) -> str | None:
    if not inspect(connection).has_table(versions.name):
        return None
    revision: str = connection.execute(select(versions.c.version_num)).scalar_one()
    if revision not in REVISIONS:
        raise DatabaseError(
            f"database {_shown(connection)} belongs to a newer PocoFlow (revision {revision}, the newest "
            f"known here is {NEWEST}): update PocoFlow here, or {_OTHER}"
        )
    return revision


def _shown(connection: Connection) -> str:
    return mask_url(connection.engine.url.render_as_string())
