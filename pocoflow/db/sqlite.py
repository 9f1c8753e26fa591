"""The ledger in an SQLite file: every verb is one short transaction that takes the write lock at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, FromClause, Row, bindparam, func, literal, select
from sqlalchemy.dialects.sqlite import insert

from pocoflow.db import step_verbs as verbs
from pocoflow.db import sweep_verbs, words
from pocoflow.db.connect import write_transaction
from pocoflow.db.ledger import Params, SqlLedger
from pocoflow.db.schema import checkpoints, runs


class SqliteLedger(SqlLedger):
    """See `Ledger`. SQLite has no data-modifying CTEs, so a verb is an update and then its history."""

    def _start(self, params: Params) -> Any:
        with self.connection() as connection, write_transaction(connection):
            row = connection.execute(_insert_run(), params).one_or_none()
            if row is None:
                known = connection.execute(_known_run(), params).one()
                return False, known.status, known.input_hash, known.error_type
            connection.execute(_start_history(), params)
            return True, row.status, row.input_hash, None

    def _claim(self, params: Params) -> Row[Any] | None:
        with self.connection() as connection, write_transaction(connection):
            if connection.execute(verbs.CLAIM, params).one_or_none() is None:
                return None
            return connection.execute(_claimed(), params).one()

    def _change(self, change: verbs.Change, params: Params) -> Row[Any] | None:
        with self.connection() as connection, write_transaction(connection):
            row = connection.execute(change.update, params).one_or_none()
            if row is not None:
                for rows in _history(change):
                    connection.execute(rows, params)
            return row

    def _interrupt(self, params: Params) -> Sequence[Row[Any]]:
        with self.connection() as connection, write_transaction(connection):
            rows = connection.execute(sweep_verbs.interrupt(), params).all()
            for row in rows:
                for history in sweep_verbs.interrupt_history(_as_source(row._asdict())):
                    connection.execute(history)
            return rows

    def _sweep(self, params: Params) -> Sequence[Row[Any]]:
        with self.connection() as connection:
            # Look before taking the write lock: mostly there is nothing to do.
            if connection.execute(_due(), params).first() is None:
                return ()
            with write_transaction(connection):
                return self._wake(connection, params)

    def _wake(self, connection: Connection, params: Params) -> Sequence[Row[Any]]:
        before = {row.run_id: row for row in connection.execute(_due(), params)}
        after = connection.execute(_wake(), {**params, "p_runs": list(before)}).all()
        for row in after:
            was = before[row.run_id]._asdict() | {"status": row.status, "error_msg": row.error_msg}
            connection.execute(sweep_verbs.sweep_history(_as_source(was)))
        return after


@cache
def _insert_run() -> Executable:
    return (
        insert(runs)
        .values(**verbs.new_run())
        .on_conflict_do_nothing()
        .returning(runs.c.status, runs.c.input_hash)
    )


@cache
def _known_run() -> Executable:
    return select(runs.c.status, runs.c.input_hash, runs.c.error_type).where(runs.c.run_id == words.P_RUN)


@cache
def _this_run() -> Any:
    return select(runs).where(runs.c.run_id == words.P_RUN).subquery("u")


@cache
def _start_history() -> Executable:
    return verbs.start_history(_this_run())


@cache
def _history(change: verbs.Change) -> Sequence[Executable]:
    return change.history(_this_run())


@cache
def _claimed() -> Executable:
    r = runs.c
    last = (checkpoints.c.run_id == r.run_id) & (checkpoints.c.step == r.step - words.const(1))
    state = func.coalesce(checkpoints.c.store_json, r.input).label("state")
    unroutable_s = (words.NOW - r.unroutable_at).label("unroutable_s")
    return (
        select(
            r.run_id, r.flow_name, r.step, r.node, r.epoch, r.owner, r.attempt, r.crashes, unroutable_s, state
        )
        .select_from(runs.outerjoin(checkpoints, last))
        .where(r.run_id == words.P_RUN)
    )


@cache
def _due() -> Executable:
    return sweep_verbs.due()


@cache
def _wake() -> Executable:
    return sweep_verbs.wake(runs.c.run_id.in_(bindparam("p_runs", expanding=True)))


def _as_source(row: Mapping[str, Any]) -> FromClause:
    """One row of values as something to select from."""
    return select(*(literal(value).label(name) for name, value in row.items())).subquery("u")
