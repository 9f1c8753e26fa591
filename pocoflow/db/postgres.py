"""The ledger in Postgres: every verb is one statement, one round trip, one commit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    JSON,
    Executable,
    FromClause,
    Insert,
    Row,
    Select,
    and_,
    case,
    cast,
    false,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import insert, psycopg
from sqlalchemy.engine import Dialect

from pocoflow.db import graph_verbs, run_verbs, sweep_verbs, words
from pocoflow.db import step_verbs as verbs
from pocoflow.db.blob_verbs import keep
from pocoflow.db.connect import engine_for
from pocoflow.db.ledger import Moved, Params, SqlLedger
from pocoflow.db.prepared import compiled, cursor
from pocoflow.db.queries import changes
from pocoflow.db.schema import blobs, checkpoints, runs
from pocoflow.engine.history import Saved

_DIALECT: Dialect = psycopg.dialect()  # type: ignore[no-untyped-call]
_SWEEP_LOCK = 774411
_DIGEST_CHARS = 64
# No wait for the disk where losing the write costs nothing: after a crash of the database the step is
# claimed anew, and the first owner's token no longer fits.
_ASYNC = func.set_config(words.const("synchronous_commit"), words.const("off"), true()).label("async_commit")


class PostgresLedger(SqlLedger):
    """See `Ledger`. Data-modifying CTEs keep a run and its history in one statement."""

    def _start(self, params: Params) -> Any:
        while True:
            row = self._fetch(_start_sql(keeps=params["p_blobs"] is not None), params)
            # None: another process inserts the same run_id just now; its row is there in a moment.
            if row is not None:
                return row

    def _claim(self, params: Params) -> Sequence[Any] | None:
        row = self._fetch(_claim_sql(), params)
        if row is None:
            return None
        *position, schema, text, older, bodies = row
        blobs = {body[:_DIGEST_CHARS]: body[_DIGEST_CHARS:] for body in bodies or ()}
        return [*position, Saved([*(older or ()), text], blobs, schema, self.cipher)]

    def _change(self, change: verbs.Change, params: Params) -> Moved | None:
        row = self._fetch(_change_sql(change, keeps=params.get("p_blobs") is not None), params)
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
def _start_sql(*, keeps: bool) -> str:
    new = insert(runs).values(**run_verbs.new_run()).on_conflict_do_nothing().returning(runs).cte("u")
    known = runs.c
    before = select(false(), known.status, known.input_hash, known.error_type).where(
        known.run_id == words.P_RUN, ~select(new.c.run_id).exists()
    )
    graph = graph_verbs.keep(insert, new)
    history = _ctes(run_verbs.start_history(new), graph, *(_keep(new) if keeps else ()))
    created = select(true(), new.c.status, new.c.input_hash, new.c.error_type)
    return compiled(created.union_all(before).add_cte(*history), _DIALECT)


@cache
def _claim_sql() -> str:
    claimed = verbs.CLAIM.returning(runs.c.schema, runs.c.input, runs.c.input_blobs, _ASYNC).cte("u")
    u, last, c = claimed.c, checkpoints.alias("last"), checkpoints.c
    is_last = and_(last.c.run_id == u.run_id, last.c.step == u.step - words.const(1))
    is_first = last.c.step.is_(None)
    text = case((is_first, u.input), else_=last.c.store_json)
    digests = case((is_first, u.input_blobs), else_=last.c.blobs)
    is_older = and_(c.run_id == u.run_id, c.step < last.c.step, c.step >= last.c.step - last.c.depth)
    builds = last.c.depth > words.const(0)
    # What most steps do not need is not looked for either.
    older = case((builds, _array(select(c.store_json).where(is_older).order_by(c.step))))
    space = words.const(" ")
    of_older = select(func.string_agg(c.blobs, space)).where(is_older).scalar_subquery()
    named = func.string_to_array(func.concat_ws(space, digests, of_older), space)
    body = blobs.c.digest.op("||")(blobs.c.body)
    wanted = select(body).where(blobs.c.digest == func.any(named))
    bodies = case((or_(builds, digests.is_not(None)), _array(wanted)))
    position = [u[name] for name in verbs.POSITION_NAMES]
    whole = select(*position, u.schema, text, older, bodies).select_from(claimed.outerjoin(last, is_last))
    return compiled(whole, _DIALECT)


def _array(rows: Select[Any]) -> Any:
    return func.array(rows.scalar_subquery())


@cache
def _change_sql(change: verbs.Change, *, keeps: bool) -> str:
    after = change.update.cte("u")
    graph = (graph_verbs.keep(insert, after),) if change.graph else ()
    history = _ctes(*change.history(after), *graph, *(_keep(after) if keeps else ()))
    return compiled(select(after).add_cte(*history), _DIALECT)


def _ctes(*history: Insert) -> list[CTE]:
    return [rows.cte(f"h{index}") for index, rows in enumerate(history)]


def _keep(source: FromClause) -> Sequence[Insert]:
    pairs = func.json_array_elements(cast(words.text_("p_blobs"), JSON)).table_valued("value")
    digest, body = (pairs.c.value.op("->>")(words.const(place)) for place in (0, 1))
    return keep(insert, source, pairs, digest, body)


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
