"""How a sweep finds and wakes what was lost, as SQLAlchemy Core expressions for both databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Insert,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal,
    null,
    or_,
    select,
    true,
    update,
)

from pocoflow.db.schema import runs
from pocoflow.db.words import (
    CANCELLED,
    FAILED,
    NOW,
    P_RUN,
    PAUSED,
    QUEUED,
    RUNNING,
    STAMP,
    WANTS_CANCEL,
    WANTS_PAUSE,
    const,
    end_event,
    event,
    integer,
    log,
    one_of,
    pause_event,
    r,
    seconds,
    text_,
    wake_by,
)
from pocoflow.engine.records import INTERRUPTED, LIVE, OVERDUE, POISON
from pocoflow.engine.timing import CROWD_PATIENCE_S, MAX_BACKOFF_DOUBLINGS, MAX_BACKOFF_S, OVERDUE_S
from pocoflow.engine.wording import INTERRUPTED_TEXT, OVERDUE_TEXT, POISON_TEXT

SWEEP_LIMIT = 500
DOUBLINGS, LONGEST = const(MAX_BACKOFF_DOUBLINGS), const(MAX_BACKOFF_S)


def _filled(template: str, **columns: ColumnElement[Any]) -> Any:
    filled: Any = literal(template, Text)
    for name, column in columns.items():
        filled = func.replace(filled, f"{{{name}}}", cast(column, Text))
    return filled


def due() -> Select[Any]:
    """The overdue rows of one home, or of all workers, and long overdue rows of any home that has gone."""
    long_ago = r.wake_at < NOW - seconds("p_lease_s")
    hinted = and_(r.status == QUEUED, r.dispatches > const(0), func.coalesce(r.deadline_at > NOW, true()))
    in_crowd = and_(hinted, func.coalesce(r.queue, const("")).in_(bindparam("p_crowded", expanding=True)))
    return (
        select(
            r.run_id, r.step.label("step"), r.node.label("node"), r.status.label("was"), r.owner, r.attempt
        )
        .where(r.wake_at < NOW, or_(_at_home(), and_(r.home.is_not(None), long_ago)))
        .where(or_(~in_crowd, r.wake_at < NOW - const(CROWD_PATIENCE_S)))
        .order_by(r.wake_at)
        .limit(SWEEP_LIMIT)
    )


def _at_home() -> ColumnElement[bool]:
    return r.home.is_not_distinct_from(text_("p_home"))


def wake(which: ColumnElement[bool]) -> Update:
    """What a sweep does to them: send again, take back, or end."""
    running, overdue = r.status == RUNNING, func.coalesce(r.deadline_at <= NOW, false())
    cancelled, paused = and_(running, WANTS_CANCEL), and_(running, WANTS_PAUSE)
    lost = and_(running, ~overdue)
    orphaned = ~_at_home()
    interrupted = and_(orphaned, r.want.is_(None))
    poison = and_(lost, ~orphaned, r.crashes >= integer("p_max_crashes"))
    stops = or_(cancelled, overdue, orphaned, poison, paused)
    doublings = case((r.dispatches < DOUBLINGS, r.dispatches), else_=DOUBLINGS)
    backoff = seconds("p_grace_s") * const(1).bitwise_lshift(doublings)
    pause = case((backoff < LONGEST, backoff), else_=LONGEST)
    poison_msg = _filled(POISON_TEXT, crashes=r.crashes + const(1), step=r.step, node=r.node)
    return (
        update(runs)
        .where(which)
        .values(
            status=case(
                (cancelled, CANCELLED),
                (overdue, FAILED),
                (poison, FAILED),
                (or_(orphaned, paused), PAUSED),
                else_=QUEUED,
            ),
            want=null(),
            owner=case((stops, null()), else_=r.owner),
            crashes=r.crashes + case((lost, const(1)), else_=const(0)),
            epoch=r.epoch + case((stops, const(1)), else_=const(0)),
            due_at=case((lost, NOW), else_=r.due_at),
            wake_at=case((stops, null()), else_=wake_by(NOW + pause)),
            dispatches=r.dispatches + const(1),
            error_type=case(
                (cancelled, r.error_type),
                (overdue, const(OVERDUE)),
                (poison, const(POISON)),
                (interrupted, const(INTERRUPTED)),
                (paused, null()),
                else_=r.error_type,
            ),
            error_msg=case(
                (cancelled, r.error_msg),
                (overdue, const(OVERDUE_TEXT)),
                (poison, poison_msg),
                (interrupted, _filled(INTERRUPTED_TEXT, run_id=r.run_id)),
                (paused, null()),
                else_=r.error_msg,
            ),
            completed_at=case((or_(cancelled, overdue, poison), STAMP)),
        )
        .returning(r.run_id, r.step, r.status, r.queue, r.error_type, r.error_msg)
    )


def sweep_history(source: FromClause) -> Insert:
    """What a sweep writes; `source` is a row of `due` with the new status and error."""
    s = source.c
    step = {"node_name": s.node, "attempt": s.attempt, "worker": worker_of(s.owner)}
    overdue = s.error_type == const(OVERDUE)
    lost = event(source, "step_lost", **step).where(s.was == RUNNING, func.coalesce(~overdue, true()))
    poisoned = event(source, "node_error", **step, error_msg=s.error_msg).where(s.status == FAILED)
    return log(lost, poisoned, *_pauses(source), end_event(source))


def _pauses(source: FromClause) -> tuple[Select[Any], Select[Any]]:
    """A run that is paused without a reason was paused by its user."""
    why = source.c.error_msg
    interrupted = event(source, "run_interrupted", error_msg=why).where(source.c.status == PAUSED)
    return interrupted.where(why.is_not(None)), pause_event(source).where(why.is_(None))


def worker_of(owner: ColumnElement[str]) -> ColumnElement[str]:
    """The process that an owner token names: all but the last 33 characters, ":" and 32 hex digits."""
    return func.substr(owner, 1, func.length(owner) - 33)


def expire() -> Update:
    """Have a sweep look at once at a step that this very process holds, or whose hint it may have had."""
    held = and_(r.status == RUNNING, worker_of(r.owner) == text_("p_worker"))
    hinted = and_(r.status == QUEUED, r.dispatches == const(1), r.due_at <= NOW)
    over = NOW - const(OVERDUE_S)
    return (
        update(runs)
        .where(r.run_id == P_RUN, r.step >= integer("p_step"), or_(held, hinted))
        # Nothing is to be looked at before it is due.
        .values(wake_at=over, due_at=case((r.due_at < over, r.due_at), else_=over))
        .returning(r.run_id)
    )


def interrupt() -> Update:
    """Pause what lives in a home that is about to go."""
    return (
        update(runs)
        .where(r.home == text_("p_home"), one_of(r.status, LIVE))
        .values(
            status=case((WANTS_CANCEL, CANCELLED), else_=PAUSED),
            epoch=r.epoch + const(1),
            owner=null(),
            want=null(),
            wake_at=null(),
            error_type=case((WANTS_CANCEL, r.error_type), (WANTS_PAUSE, null()), else_=const(INTERRUPTED)),
            error_msg=case(
                (WANTS_CANCEL, r.error_msg),
                (WANTS_PAUSE, null()),
                else_=_filled(INTERRUPTED_TEXT, run_id=r.run_id),
            ),
            completed_at=case((WANTS_CANCEL, STAMP)),
        )
        .returning(r.run_id, r.step.label("step"), r.status, r.error_msg)
    )


def interrupt_history(source: FromClause) -> Sequence[Insert]:
    return (log(*_pauses(source), end_event(source)),)
