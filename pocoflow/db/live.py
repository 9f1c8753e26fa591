"""The runs of a database that are not over, with the graphs that have led them to where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import and_, or_, select
from sqlalchemy.engine import URL

from pocoflow.db.connect import snapshot
from pocoflow.db.schema import graphs, runs
from pocoflow.db.words import FAILED, PAUSED

_BATCH = 500


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A run that will go on, or may be resumed.

    Attributes:
        node: The one that comes next.
        graph: `Graph.text` of what has led it there; None if nobody has kept it.
    """

    run_id: str
    flow_name: str
    status: str
    step: int
    node: str
    graph: str | None


def live_runs(url: URL, *, failed: bool = False) -> Iterator[LiveRun]:
    """Yield the runs that are queued, running or paused at one moment, oldest first.

    Runs that a program wrote by hand, through WorkflowDB, are left out: nobody goes on with them.

    Args:
        failed: Those that have failed too, since they can be resumed.

    Raises:
        DatabaseError: There is no such database, or it has the tables of another version.
    """
    r = runs.c
    stopped = [PAUSED, FAILED] if failed else [PAUSED]
    goes_on = or_(r.wake_at.is_not(None), r.status.in_(stopped))
    both = runs.outerjoin(graphs, graphs.c.fingerprint == r.flow_hash)
    found = (
        select(r.run_id, r.flow_name, r.status, r.step, r.node, graphs.c.text)
        .select_from(both)
        .where(and_(goes_on, r.node.is_not(None)))
        .order_by(r.created_at, r.run_id)
        .execution_options(yield_per=_BATCH)
    )
    with snapshot(url) as connection:
        for row in connection.execute(found):
            yield LiveRun(*row)
