"""What becomes of a run whose graph is another one now, as SQLAlchemy Core expressions for both databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import FromClause, Insert, case, null, select, update

from pocoflow.db.schema import events, graphs, runs
from pocoflow.db.step_verbs import Change, held
from pocoflow.db.words import (
    CANCELLED,
    NOW,
    P_RUN,
    PAUSED,
    RUNNING,
    STAMP,
    WANTS_CANCEL,
    const,
    end_event,
    event,
    integer,
    log,
    r,
    text_,
)


def keep(insert: Callable[..., Any], source: FromClause) -> Insert:
    """Insert the graph of the run in `source`, if it was given and is not there yet.

    Args:
        insert: The one of the database's dialect.
    """
    new = select(source.c.flow_hash, text_("p_graph"), NOW).select_from(source)
    given = new.where(text_("p_graph").is_not(None))
    rows: Insert = insert(graphs).from_select(["fingerprint", "text", "seen_at"], given)
    kept: Insert = rows.on_conflict_do_nothing()  # type: ignore[attr-defined]
    return kept


def _adopt() -> Change:
    stmt = (
        update(runs)
        .where(held, r.status == RUNNING)
        .values(flow_hash=text_("p_hash"))
        .returning(r.run_id, r.status, r.step, r.queue, r.flow_hash)
    )
    return Change(stmt, _adopt_history, graph=True)


def _adopt_history(source: FromClause) -> Sequence[Insert]:
    e = events.c
    noted = select(e.id).where(
        e.run_id == P_RUN, e.event == const("flow_changed"), e.action == text_("p_hash")
    )
    who = {"node_name": text_("p_node"), "attempt": integer("p_attempt"), "worker": text_("p_worker")}
    changed = event(source, "flow_changed", **who, action=text_("p_hash"))
    return (log(changed.where(~noted.exists())),)


def _strand() -> Change:
    wanted = r.want.is_not(None)
    stmt = (
        update(runs)
        .where(held, r.status == RUNNING)
        .values(
            status=case((WANTS_CANCEL, CANCELLED), else_=PAUSED),
            owner=null(),
            want=null(),
            attempt=r.attempt - const(1),
            wake_at=null(),
            error_type=case((WANTS_CANCEL, r.error_type), (wanted, null()), else_=text_("p_error_type")),
            error_msg=case((WANTS_CANCEL, r.error_msg), (wanted, null()), else_=text_("p_error_msg")),
            completed_at=case((WANTS_CANCEL, STAMP)),
        )
        .returning(r.run_id, r.status, r.step, r.queue, r.error_msg)
    )
    return Change(stmt, _strand_history)


def _strand_history(source: FromClause) -> Sequence[Insert]:
    paused = event(source, "run_paused", error_msg=source.c.error_msg).where(source.c.status == PAUSED)
    return (log(paused, end_event(source)),)


ADOPT = _adopt()
STRAND = _strand()
