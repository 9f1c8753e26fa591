"""The ledger in Postgres: every verb is one statement, one round trip, one commit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import JSON, Executable, Row, and_, cast, false, func, select, true
from sqlalchemy.dialects.postgresql import insert, psycopg
from sqlalchemy.engine import Dialect

from pocoflow.db import step_verbs as verbs
from pocoflow.db import sweep_verbs, words
from pocoflow.db.connect import engine_for
from pocoflow.db.ledger import Moved, Params, SqlLedger
from pocoflow.db.prepared import compiled, cursor
from pocoflow.db.queries import changes
from pocoflow.db.schema import checkpoints, runs

_DIALECT: Dialect = psycopg.dialect()  # type: ignore[no-untyped-call]
_SWEEP_LOCK = 774411
# No wait for the disk where losing the write costs nothing: after a crash of the database the step is
# claimed anew, and the first owner's token no longer fits.
_ASYNC = func.set_config(words.const("synchronous_commit"), words.const("off"), true()).label("async_commit")


class PostgresLedger(SqlLedger):
    """See `Ledger`. Data-modifying CTEs keep a run and its history in one statement."""

    def _start(self, params: Params) -> Any:
        while True:
            row = self._fetch(_start_sql(), params)
            # None: another process inserts the same run_id just now; its row is there in a moment.
            if row is not None:
                return row

    def _claim(self, params: Params) -> Sequence[Any] | None:
        return self._fetch(_claim_sql(), params)

    def _change(self, change: verbs.Change, params: Params) -> Moved | None:
        row = self._fetch(_change_sql(change), params)
        return None if row is None else Moved(*row)

    def _changes(self, params: Params) -> Sequence[Sequence[Any]]:
        with cursor(engine_for(self.url)) as made:
            rows: Sequence[Sequence[Any]] = made.execute(_changes_sql(), params).fetchall()
            return rows

    def _interrupt(self, params: Params) -> Sequence[Row[Any]]:
        return self._all(_interrupt_statement(), params)

    def _sweep(self, params: Params) -> Sequence[Row[Any]]:
        return self._all(_sweep_statement(), params)

    def _fetch(self, sql: str, params: Params) -> Sequence[Any] | None:
        with cursor(engine_for(self.url)) as made:
            row: Sequence[Any] | None = made.execute(sql, params).fetchone()
            return row


@cache
def _start_sql() -> str:
    new = insert(runs).values(**verbs.new_run()).on_conflict_do_nothing().returning(runs).cte("u")
    known = runs.c
    before = select(false(), known.status, known.input_hash, known.error_type).where(
        known.run_id == words.P_RUN, ~select(new.c.run_id).exists()
    )
    history = verbs.start_history(new).cte("h")
    created = select(true(), new.c.status, new.c.input_hash, new.c.error_type)
    return compiled(created.union_all(before).add_cte(history), _DIALECT)


@cache
def _claim_sql() -> str:
    claimed = verbs.CLAIM.returning(runs.c.input, runs.c.schema, _ASYNC).cte("u")
    c = claimed.c
    last = and_(checkpoints.c.run_id == c.run_id, checkpoints.c.step == c.step - words.const(1))
    position = [c[name] for name in verbs.POSITION_NAMES]
    state = func.coalesce(checkpoints.c.store_json, c.input)
    saved = select(*position, state, c.schema).select_from(claimed.outerjoin(checkpoints, last))
    return compiled(saved, _DIALECT)


@cache
def _change_sql(change: verbs.Change) -> str:
    after = change.update.cte("u")
    history = [rows.cte(f"h{index}") for index, rows in enumerate(change.history(after))]
    return compiled(select(after).add_cte(*history), _DIALECT)


@cache
def _changes_sql() -> str:
    # As JSON, which goes out faster than two arrays, and lets Postgres expect few: it looks each run up in
    # the index, however many there are.
    known = func.json_array_elements(cast(words.text_("p_known"), JSON)).table_valued("value")
    run_id, mark = (known.c.value.op("->>")(words.const(place)) for place in (0, 1))
    return compiled(changes(known, run_id, mark), _DIALECT)


@cache
def _interrupt_statement() -> Executable:
    after = sweep_verbs.interrupt().cte("u")
    history = [rows.cte(f"h{index}") for index, rows in enumerate(sweep_verbs.interrupt_history(after))]
    return select(after).add_cte(*history)


@cache
def _sweep_statement() -> Executable:
    # One sweep at a time; the others go home at once instead of waiting.
    lock = select(func.pg_try_advisory_xact_lock(words.const(_SWEEP_LOCK)).label("ok")).cte("g")
    due = (
        sweep_verbs.due()
        .where(select(lock.c.ok).scalar_subquery())
        .with_for_update(skip_locked=True, of=runs)
        .cte("d")
    )
    after = sweep_verbs.wake(runs.c.run_id.in_(select(due.c.run_id))).cte("u")
    both = (
        select(due, after.c.status, after.c.error_type, after.c.error_msg)
        .join(after, after.c.run_id == due.c.run_id)
        .cte("b")
    )
    return select(after).add_cte(sweep_verbs.sweep_history(both).cte("h"))
