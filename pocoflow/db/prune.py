"""Deletes runs that ended long ago, with all that only they needed; none that is alive or may go on.

Safe beside running workers: each batch is one transaction that looks once more before it deletes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, delete, func, select
from sqlalchemy.engine import URL

from pocoflow.db.connect import engine_for, snapshot, write_transaction
from pocoflow.db.failures import translated
from pocoflow.db.schema import Timestamp, blob_uses, blobs, checkpoints, events, runs
from pocoflow.db.words import NOW, const, one_of, r, seconds
from pocoflow.engine.records import ENDED, Status
from pocoflow.engine.timing import Retention

BATCH = 200
# A blob that was named so recently may belong to a run whose commit is on its way.
BLOB_REST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much is gone, or would be; blobs that no run needs any more are counted when they are gone."""

    runs: int = 0
    steps: int = 0
    events: int = 0
    blobs: int = 0

    def __add__(self, more: Pruned) -> Pruned:
        return Pruned(
            self.runs + more.runs,
            self.steps + more.steps,
            self.events + more.events,
            self.blobs + more.blobs,
        )


def would_prune(url: URL, retention: Retention) -> Pruned:
    """Count what `prune` would delete now, blobs left out; raises DatabaseError, also where there is none."""
    old = select(r.run_id).where(_is_old(retention))
    counts = [
        select(func.count()).select_from(table).where(table.c.run_id.in_(old)).scalar_subquery()
        for table in (runs, checkpoints, events)
    ]
    with snapshot(url) as connection:
        return Pruned(*connection.execute(select(*counts), _params(retention)).one())


def prune(url: URL, retention: Retention) -> Iterator[Pruned]:
    """Delete batch after batch, and tell of each, until nothing is left to delete.

    Raises:
        DatabaseError: The database cannot be reached; what was deleted until then is gone.
    """
    more = True
    while more:
        gone, more = prune_some(url, retention)
        yield gone


def prune_some(url: URL, retention: Retention) -> tuple[Pruned, bool]:
    """Delete the runs that ended first, `BATCH` at most; returns also whether there are more."""
    with translated(url), engine_for(url).connect() as connection:
        with write_transaction(connection):
            gone, more = _delete_runs(connection, retention)
        if gone.runs and not more:
            with write_transaction(connection):
                gone += Pruned(blobs=_delete_blobs(connection))
            if url.get_backend_name() == "sqlite":
                _shrink(connection)
    return gone, more


def _delete_runs(connection: Connection, retention: Retention) -> tuple[Pruned, bool]:
    old = select(r.run_id).where(_is_old(retention)).order_by(r.completed_at).limit(BATCH)
    # Not a subquery of the DELETE: Postgres may run that once per row, each time with a LIMIT of its own.
    run_ids = connection.execute(_unlocked(old, runs), _params(retention)).scalars().all()
    _, steps, entries, _ = (
        connection.execute(delete(table).where(table.c.run_id.in_(run_ids))).rowcount
        for table in (runs, checkpoints, events, blob_uses)
    )
    more = len(run_ids) == BATCH and connection.execute(old, _params(retention)).first() is not None
    return Pruned(len(run_ids), steps, entries), more


def _delete_blobs(connection: Connection) -> int:
    b = blobs.c
    unused = ~select(blob_uses.c.run_id).where(blob_uses.c.digest == b.digest).exists()
    idle = select(b.digest).where(b.used_at < NOW - const(BLOB_REST_S), unused)
    return connection.execute(delete(blobs).where(b.digest.in_(_unlocked(idle, blobs)))).rowcount


def _is_old(retention: Retention) -> ColumnElement[bool]:
    goes = ENDED - {Status.FAILED} if retention.keep_failed else ENDED
    return and_(one_of(r.status, goes), r.completed_at < Timestamp(seconds("p_older_than_s")))


def _params(retention: Retention) -> dict[str, Any]:
    return {"p_older_than_s": retention.older_than_s}


def _unlocked(rows: Select[Any], table: Table) -> Select[Any]:
    """Only rows that nobody is just changing: they are not waited for, so nobody waits for each other."""
    return rows.with_for_update(skip_locked=True, of=table)  # SQLite has one writer, and ignores it


def _shrink(connection: Connection) -> None:
    """Give the room in an SQLite file back to the disk; Postgres gives it to later rows by itself."""
    driver: Any = connection.connection.driver_connection
    # As a script: `execute` would stop after the first page.
    driver.executescript("pragma incremental_vacuum; pragma wal_checkpoint(truncate)")
