"""The read side of the run history. Rows are plain dicts, times ISO 8601 texts in UTC."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Executable,
    FromClause,
    Integer,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    case,
    func,
    select,
)
from sqlalchemy import cast as cast_

from pocoflow.db.schema import blobs, checkpoints, events, graphs, runs
from pocoflow.db.words import const
from pocoflow.engine.history import Saved
from pocoflow.engine.placing import AT
from pocoflow.engine.records import ForkPoint, KeptGraph, Position, Status
from pocoflow.engine.rows import EventRow, RunRow, Sighting, Standing
from pocoflow.engine.secrecy import Cipher

r = runs.c
_RUN_COLUMNS = tuple(column for column in runs.c if column.name not in ("input", "input_blobs", "schema"))
_STANDING = tuple(column for column in runs.c if column.name in Standing.__annotations__)
_SIGHTING = [*(column.name for column in _STANDING), "mark"]
_BY_RUN: BindParameter[str] = bindparam("run")


class Queries:
    """Short reads, each on a connection that it gives back at once.

    Args:
        cipher: What decrypts secrets; without it they stay closed.
    """

    def __init__(
        self, connection: Callable[[], AbstractContextManager[Connection]], cipher: Cipher | None = None
    ) -> None:
        self._connection = connection
        self._cipher = cipher

    def get_run(self, run_id: str) -> RunRow | None:
        rows = self._rows(_RUN, run=run_id)
        return cast(RunRow, rows[0]) if rows else None

    def list_runs(self, limit: int) -> list[RunRow]:
        return cast(list[RunRow], self._rows(_RUNS, limit=limit))

    def get_checkpoints(self, run_id: str) -> list[dict[str, Any]]:
        return self._rows(_CHECKPOINTS, run=run_id)

    def get_checkpoint(self, run_id: str, step: int) -> Saved | None:
        """Return the store after a step, or for step -1 the input; None if that is not there."""
        with self._connection() as connection:
            run = connection.execute(_INPUT, {"run": run_id}).one_or_none()
            if step == -1:
                return None if run is None else self._input(connection, run)
            rows = connection.execute(_CHAIN, {"run": run_id, "step": step}).all()
            return self._saved(connection, rows, run and run.schema) if rows else None

    def get_fork_point(self, run_id: str, step: int, node: str | None) -> ForkPoint | None:
        """Return where a new run can go on; None if there is no such checkpoint."""
        saved = self.get_checkpoint(run_id, step)
        rows = self._rows(_BRANCHING, run=run_id, step=step)
        if saved is None or not rows:
            return None
        point = ForkPoint(run_id=run_id, step=step, saved=saved, **rows[0])
        if node is None or node == point.node:
            return point
        return replace(point, node=node, queue=self._scalar(_QUEUE, run=run_id, node=node))

    def get_events(self, run_id: str, *, after: int = 0) -> list[EventRow]:
        return cast(list[EventRow], self._rows(_EVENTS, run=run_id, after=after))

    def get_saved(self, run_id: str) -> Saved | None:
        """Return the store after the last step, or before the first; None for an unknown run."""
        with self._connection() as connection:
            run = connection.execute(_INPUT, {"run": run_id}).one_or_none()
            if run is None:
                return None
            rows = connection.execute(_CHAIN, {"run": run_id, "step": run.step - 1}).all()
            return self._saved(connection, rows, run.schema) if rows else self._input(connection, run)

    def get_graph(self, fingerprint: str) -> KeptGraph | None:
        """Return the graph of runs with this fingerprint."""
        rows = self._rows(_GRAPH, fingerprint=fingerprint)
        return KeptGraph(**rows[0]) if rows else None

    def status_if_committed(self, position: Position) -> Status | None:
        """The run's status if this very claim has written the step's checkpoint, else None."""
        status = self._scalar(_COMMITTED, run=position.run_id, step=position.step, epoch=position.epoch)
        return None if status is None else Status(status)

    def _input(self, connection: Connection, run: Any) -> Saved | None:
        """The store that a run began with; PocoFlow 0.2 kept none."""
        if run.input is None:
            return None
        return self._saved(connection, [(run.input, run.input_blobs)], run.schema)

    def _saved(self, connection: Connection, rows: Sequence[Any], schema: str | None) -> Saved:
        """What these rows of text and digests say, with the blobs that they name."""
        named = {digest for _, digests in rows for digest in (digests or "").split()}
        bodies = connection.execute(_BODIES, {"digests": list(named)}).all() if named else []
        texts, blobs_ = [text for text, _ in rows], {row.digest: row.body for row in bodies}
        return Saved(texts, blobs_, schema, self._cipher)

    def _rows(self, statement: Select[Any], **params: Any) -> list[dict[str, Any]]:
        with self._connection() as connection:
            return [plain(row) for row in connection.execute(statement, params)]

    def _scalar(self, statement: Executable, **params: Any) -> Any:
        with self._connection() as connection:
            return connection.execute(statement, params).scalar()


def changes(known: FromClause, run_id: ColumnElement[str], known_mark: ColumnElement[str]) -> Select[Any]:
    """Select the runs that stand otherwise than is known, and what is known of runs that are not there."""
    fields = (r.status, cast_(r.step, Text), cast_(r.attempt, Text), func.coalesce(r.error_type, const("")))
    mark = functools.reduce(lambda text, field: text + const(" ") + field, fields)
    both = known.outerjoin(runs, r.run_id == run_id)
    return select(run_id, *_STANDING, mark).select_from(both).where(mark.is_distinct_from(known_mark))


def sightings(rows: Iterable[Sequence[Any]]) -> dict[str, Sighting | None]:
    """Return what `changes` has found, by run_id; None for a run that is not there."""
    found = ((run_id, dict(zip(_SIGHTING, row, strict=True))) for run_id, *row in rows)
    return {run_id: cast(Sighting, row) if row["mark"] is not None else None for run_id, row in found}


def plain(row: Row[Any]) -> dict[str, Any]:
    """Return the row as a dict, its moments as ISO 8601 texts in UTC."""
    return {
        name: _iso(value) if isinstance(value, datetime) else value for name, value in row._asdict().items()
    }


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


# Columns come back under the names that they have in the database, not under their short keys.
_named = [column.label(column.name) for column in _RUN_COLUMNS]
_RUN = select(*_named).where(r.run_id == _BY_RUN)
_RUNS = select(*_named).order_by(r.created_at.desc(), r.run_id).limit(bindparam("limit"))
_c, _last = checkpoints.c, checkpoints.alias("last").c
_CHECKPOINTS = (
    select(_c.id, _c.run_id, _c.step, _c.node_name, _c.action, _c.epoch, _c.created_at)
    .where(_c.run_id == _BY_RUN)
    .order_by(_c.step)
)
# A checkpoint, after those that it builds on.
_CHAIN = (
    select(_c.store_json, _c.blobs)
    .join(_last.step.table, _last.run_id == _c.run_id)
    .where(_last.run_id == _BY_RUN, _last.step == bindparam("step"))
    .where(_c.step <= _last.step, _c.step >= _last.step - _last.depth)
    .order_by(_c.step)
)
_BODIES = select(blobs.c.digest, blobs.c.body).where(blobs.c.digest.in_(bindparam("digests", expanding=True)))
_INPUT = select(r.step, r.input, r.input_blobs, r.schema).where(r.run_id == _BY_RUN)
_step, _following = bindparam("step", type_=Integer), checkpoints.alias("following").c
_is_input = _step == const(-1)
# A run of PocoFlow 0.2 does not say what follows a step, only what has followed, or has begun after it.
_has_begun = and_(
    r.flow_hash.is_(None),
    r.status != const(Status.COMPLETED.value),
    r.step == _step + const(1),
    func.coalesce(r.stands, const(AT)) == const(AT),
)
_BRANCHING = (
    select(
        r.flow_name,
        r.flow_hash,
        r.timeout_s,
        func.coalesce(
            case((_is_input, r.first_node), else_=_c.next_node),
            _following.node_name,
            case((_has_begun, r.node)),
        ).label("node"),
        case((_is_input, r.first_queue), else_=_c.next_queue).label("queue"),
    )
    .outerjoin(checkpoints, and_(_c.run_id == r.run_id, _c.step == _step))
    .outerjoin(
        _following.step.table, and_(_following.run_id == r.run_id, _following.step == _step + const(1))
    )
    .where(r.run_id == _BY_RUN)
)
_is_node: BindParameter[str] = bindparam("node")
_QUEUE = (
    select(_c.next_queue)
    .where(_c.run_id == _BY_RUN, _c.next_node == _is_node)
    .union_all(select(r.first_queue).where(r.run_id == _BY_RUN, r.first_node == _is_node))
    .limit(1)
)
_EVENTS = (
    select(events).where(events.c.run_id == _BY_RUN, events.c.id > bindparam("after")).order_by(events.c.id)
)
_GRAPH = select(graphs.c.text, graphs.c.seen_at).where(graphs.c.fingerprint == bindparam("fingerprint"))
_COMMITTED = (
    select(r.status)
    .join(checkpoints, checkpoints.c.run_id == r.run_id)
    .where(
        r.run_id == _BY_RUN,
        checkpoints.c.step == bindparam("step"),
        checkpoints.c.epoch == bindparam("epoch"),
    )
)
