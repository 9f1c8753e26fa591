"""The ledger in an SQLite file: every verb is one short transaction that takes the write lock at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, FromClause, Row, bindparam, case, func, literal, select
from sqlalchemy.dialects.sqlite import insert, pysqlite

from pocoflow.db import graph_verbs, run_verbs, sweep_verbs, words
from pocoflow.db import step_verbs as verbs
from pocoflow.db.blob_verbs import keep
from pocoflow.db.connect import engine_for, write_transaction
from pocoflow.db.ledger import Moved, Params, SqlLedger
from pocoflow.db.prepared import compiled, cursor
from pocoflow.db.queries import changes
from pocoflow.db.schema import blobs, checkpoints, runs
from pocoflow.engine.history import Saved

_DIALECT = pysqlite.dialect(paramstyle="named")


class SqliteLedger(SqlLedger):
    """See `Ledger`. SQLite has no data-modifying CTEs, so a verb is an update and then its history."""

    def _start(self, params: Params) -> Any:
        with self._writing() as made:
            row = made.execute(_insert_sql(), params).fetchone()
            if row is None:
                return (False, *made.execute(_known_sql(), params).fetchone())
            for insert_rows in (*_start_history_sql(), *(_keep_sql() if params["p_blobs"] else ())):
                made.execute(insert_rows, params)
            return (True, *row)

    def _claim(self, params: Params) -> Sequence[Any] | None:
        with self._writing() as made:
            if made.execute(_claim_sql(), params).fetchone() is None:
                return None
            *position, schema, depth, text, digests = made.execute(_claimed_sql(), params).fetchone()
            older = made.execute(_older_sql(), params | {"p_depth": depth}).fetchall() if depth else []
            rows = [*older, (text, digests)]
            named = [digest for _, names in rows for digest in (names or "").split()]
            bodies = made.execute(_bodies_sql(), {"p_named": json.dumps(named)}).fetchall() if named else []
            return [*position, Saved([text for text, _ in rows], dict(bodies), schema, self.cipher)]

    def _change(self, change: verbs.Change, params: Params) -> Moved | None:
        update, *history = _change_sql(change)
        with self._writing() as made:
            row = made.execute(update, params).fetchone()
            if row is None:
                return None
            for insert_rows in (*history, *(_keep_sql() if params.get("p_blobs") else ())):
                made.execute(insert_rows, params)
            return Moved(*row)

    def _changes(self, params: Params) -> Sequence[Sequence[Any]]:
        with cursor(engine_for(self.url)) as made:
            # One JSON text: for each row the driver lets go of Python's lock, which a busy thread is slow to
            # give back.
            (rows,) = made.execute(_changes_sql(), params).fetchone()
            found: Sequence[Sequence[Any]] = json.loads(rows)
            return found

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        with cursor(engine_for(self.url)) as made:
            made.execute("begin immediate")
            try:
                yield made
                made.execute("commit")
            except BaseException:
                # A commit that failed has often rolled back by itself.
                if made.connection.in_transaction:
                    made.execute("rollback")
                raise

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
            became = {name: getattr(row, name) for name in ("status", "error_type", "error_msg")}
            was = _as_source(before[row.run_id]._asdict() | became)
            connection.execute(sweep_verbs.sweep_history(was))
        return after


@cache
def _insert_sql() -> str:
    returned = (runs.c.status, runs.c.input_hash, runs.c.error_type)
    return compiled(
        insert(runs).values(**run_verbs.new_run()).on_conflict_do_nothing().returning(*returned), _DIALECT
    )


@cache
def _known_sql() -> str:
    known = select(runs.c.status, runs.c.input_hash, runs.c.error_type).where(runs.c.run_id == words.P_RUN)
    return compiled(known, _DIALECT)


@cache
def _start_history_sql() -> tuple[str, ...]:
    history = (run_verbs.start_history(_this_run()), graph_verbs.keep(insert, _this_run()))
    return tuple(compiled(part, _DIALECT) for part in history)


@cache
def _claim_sql() -> str:
    return compiled(verbs.CLAIM, _DIALECT)


@cache
def _claimed_sql() -> str:
    r = runs.c
    c = checkpoints.c
    last = (c.run_id == r.run_id) & (c.step == r.step - words.const(1))
    is_first = c.step.is_(None)
    text, digests = (
        case((is_first, r.input), else_=c.store_json),
        case((is_first, r.input_blobs), else_=c.blobs),
    )
    claimed = select(*verbs.POSITION, r.schema, c.depth, text, digests).select_from(
        runs.outerjoin(checkpoints, last)
    )
    return compiled(claimed.where(r.run_id == words.P_RUN), _DIALECT)


@cache
def _older_sql() -> str:
    """What the checkpoint before this step builds on."""
    c, last = checkpoints.c, words.integer("p_step") - words.const(1)
    older = (c.run_id == words.P_RUN, c.step < last, c.step >= last - words.integer("p_depth"))
    return compiled(select(c.store_json, c.blobs).where(*older).order_by(c.step), _DIALECT)


@cache
def _bodies_sql() -> str:
    named = func.json_each(words.text_("p_named")).table_valued("value")
    b = blobs.c
    return compiled(select(b.digest, b.body).where(b.digest.in_(select(named.c.value))), _DIALECT)


@cache
def _keep_sql() -> tuple[str, ...]:
    pairs = func.json_each(words.text_("p_blobs")).table_valued("value")
    digest, body = (func.json_extract(pairs.c.value, words.const(place)) for place in ("$[0]", "$[1]"))
    return tuple(compiled(part, _DIALECT) for part in keep(insert, _this_run(), pairs, digest, body))


@cache
def _change_sql(change: verbs.Change) -> tuple[str, ...]:
    """The update, then one statement for each kind of history."""
    graph = (graph_verbs.keep(insert, _this_run()),) if change.graph else ()
    parts = (change.update, *change.history(_this_run()), *graph)
    return tuple(compiled(part, _DIALECT) for part in parts)


@cache
def _changes_sql() -> str:
    known = func.json_each(words.text_("p_known")).table_valued("value")
    run_id, mark = (func.json_extract(known.c.value, words.const(place)) for place in ("$[0]", "$[1]"))
    rows = changes(known, run_id, mark).subquery("changes")
    return compiled(select(func.json_group_array(func.json_array(*rows.c))), _DIALECT)


@cache
def _this_run() -> FromClause:
    return select(runs).where(runs.c.run_id == words.P_RUN).subquery("u")


@cache
def _due() -> Executable:
    return sweep_verbs.due()


@cache
def _wake() -> Executable:
    return sweep_verbs.wake(runs.c.run_id.in_(bindparam("p_runs", expanding=True)))


def _as_source(row: Mapping[str, Any]) -> FromClause:
    """One row of values as something to select from."""
    return select(*(literal(value).label(name) for name, value in row.items())).subquery("u")
