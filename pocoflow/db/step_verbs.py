"""The verbs of whoever holds a step, as SQLAlchemy Core expressions, the same for both databases.

A `Change` is a guarded update of one run's row, and the history rows that go with it. How the two become
one transaction is the ledger's business: one statement in Postgres, a short transaction in SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Insert,
    Update,
    and_,
    bindparam,
    case,
    false,
    func,
    insert,
    null,
    or_,
    select,
    tuple_,
    update,
)

from pocoflow.db.schema import Timestamp, checkpoints, runs
from pocoflow.db.words import (
    CANCELLED,
    COMPLETED,
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
    flag,
    integer,
    log,
    one_of,
    pause_event,
    r,
    seconds,
    text_,
    wake_by,
)
from pocoflow.engine.records import ENDED, LIVE, Position, Status, before

History = Callable[[FromClause], Sequence[Insert]]


@dataclass(frozen=True, slots=True)
class Change:
    """One verb. `history` builds its rows from the run as it is after the update.

    Attributes:
        graph: Whether the run's graph, parameter `p_graph`, is to be kept along with it.
    """

    update: Update
    history: History
    graph: bool = False


# The token: only the owner of this very claim may go on. A lease that ran out but that nobody took
# (status "queued" again, same epoch and owner) still counts, so a long outage throws no work away.
held = and_(
    r.run_id == P_RUN,
    r.step == integer("p_step"),
    r.epoch == bindparam("p_epoch", type_=BigInteger),
    r.owner == text_("p_owner"),
    one_of(r.status, LIVE),
)
expected = NOW + seconds("p_wait_s")
after = (r.run_id, r.status, r.step)


def _commit_history(source: FromClause) -> Sequence[Insert]:
    checkpoint = select(
        source.c.run_id,
        integer("p_step"),
        text_("p_node"),
        text_("p_action"),
        text_("p_next"),
        text_("p_queue"),
        text_("p_text"),
        integer("p_depth"),
        text_("p_named"),
        bindparam("p_epoch", type_=BigInteger),
        STAMP,
    )
    step = {"step": integer("p_step"), "node_name": text_("p_node"), "attempt": integer("p_attempt")}
    step["worker"] = text_("p_worker")
    elapsed_ms = seconds("p_elapsed_s") * const(1000.0)
    return (
        insert(checkpoints).from_select(
            [
                *("run_id", "step", "node_name", "action", "next_node", "next_queue"),
                *("store_json", "depth", "blobs", "epoch", "created_at"),
            ],
            checkpoint,
        ),
        log(
            event(source, "node_start", **{**step, "ts": Timestamp(seconds("p_elapsed_s"))}),
            event(source, "node_end", **step, action=text_("p_action"), elapsed_ms=elapsed_ms),
            end_event(source),
            pause_event(source),
        ),
    )


def _commit() -> Change:
    then = text_("p_then")
    ends = or_(one_of(then, ENDED), WANTS_CANCEL)
    goes_on = and_(then == RUNNING, r.want.is_(None))
    stmt = (
        update(runs)
        .where(held)
        .values(
            step=r.step + const(1),
            node=func.coalesce(text_("p_next"), r.node),
            queue=text_("p_queue"),
            status=case(
                (WANTS_CANCEL, CANCELLED), (one_of(then, ENDED), then), (WANTS_PAUSE, PAUSED), else_=then
            ),
            owner=case((goes_on, r.owner)),
            attempt=case((goes_on, const(1)), else_=const(0)),
            crashes=const(0),
            dispatches=const(1),
            want=null(),
            due_at=NOW,
            wake_at=case((or_(ends, WANTS_PAUSE), null()), else_=wake_by(expected)),
            unroutable_at=null(),
            error_type=text_("p_error_type"),
            error_msg=text_("p_error_msg"),
            completed_at=case((ends, STAMP)),
        )
        .returning(*after)
    )
    return Change(stmt, _commit_history)


def _fail_history(source: FromClause) -> Sequence[Insert]:
    elapsed_s = seconds("p_elapsed_s")
    step = {"node_name": text_("p_node"), "attempt": integer("p_attempt"), "worker": text_("p_worker")}
    began = event(source, "node_start", **step, ts=Timestamp(elapsed_s)).where(elapsed_s.is_not(None))
    kind = {"event": text_("p_event"), "error_msg": text_("p_error_msg")}
    failed = event(source, "", **step, **kind, elapsed_ms=elapsed_s * const(1000.0))
    return (log(began, failed, end_event(source), pause_event(source)),)


def _fail() -> Change:
    then, delay = text_("p_then"), seconds("p_delay_s")
    ends = or_(then == FAILED, WANTS_CANCEL)
    pauses = and_(WANTS_PAUSE, then != FAILED)
    holds = and_(then == RUNNING, r.want.is_(None))
    stmt = (
        update(runs)
        .where(held, r.attempt == integer("p_attempt"))
        .values(
            status=case((WANTS_CANCEL, CANCELLED), (pauses, PAUSED), else_=then),
            owner=case((holds, r.owner)),
            want=null(),
            attempt=r.attempt + case((holds, const(1)), else_=const(0)),
            dispatches=const(0),
            error_type=case((pauses, null()), else_=text_("p_error_type")),
            error_msg=case((pauses, null()), else_=text_("p_error_msg")),
            due_at=NOW + delay,
            wake_at=case((or_(ends, pauses), null()), else_=wake_by(expected + delay)),
            completed_at=case((ends, STAMP)),
        )
        .returning(*after)
    )
    return Change(stmt, _fail_history)


def only_stop(source: FromClause) -> Sequence[Insert]:
    return (log(end_event(source), pause_event(source)),)


def _release(done: ColumnElement[bool], **more: Any) -> Change:
    """Give a step back; a run that is `done` has none left."""
    delay = seconds("p_delay_s")
    stmt = (
        update(runs)
        .where(held, r.status == RUNNING)
        .values(
            status=case((WANTS_CANCEL, CANCELLED), (done, COMPLETED), (WANTS_PAUSE, PAUSED), else_=QUEUED),
            owner=null(),
            want=null(),
            attempt=r.attempt - const(1),
            # With a delay, nobody sends a hint for it but a sweep.
            dispatches=case((delay > const(0.0), const(0)), else_=r.dispatches),
            error_type=case((WANTS_PAUSE, null()), else_=r.error_type),
            error_msg=case((WANTS_PAUSE, null()), else_=r.error_msg),
            due_at=NOW + delay,
            wake_at=case(
                (or_(r.want.is_not(None), done), null()),
                else_=wake_by(case((delay > const(0.0), NOW + delay), else_=expected)),
            ),
            unroutable_at=case(
                (flag("p_unroutable"), func.coalesce(r.unroutable_at, NOW)), else_=r.unroutable_at
            ),
            completed_at=case((or_(WANTS_CANCEL, done), STAMP)),
            **more,
        )
        .returning(*after)
    )
    return Change(stmt, only_stop)


_computed = {
    "unroutable_s": (NOW - r.unroutable_at).label("unroutable_s"),
    "left_s": (r.deadline_at - NOW).label("left_s"),
}
POSITION_NAMES = tuple(field.name for field in fields(Position))
POSITION = tuple(_computed[name] if name in _computed else r[name] for name in POSITION_NAMES)
CLAIM = (
    update(runs)
    .where(
        r.run_id == P_RUN,
        r.step == integer("p_step"),
        one_of(r.status, before(Status.RUNNING)),
        r.due_at <= NOW,
    )
    .values(
        status=RUNNING,
        owner=text_("p_owner"),
        epoch=r.epoch + const(1),
        attempt=r.attempt + const(1),
        wake_at=wake_by(expected),
        started_at=func.coalesce(r.started_at, STAMP),
    )
    .returning(*POSITION)
)
HEARTBEAT = (
    update(runs)
    .where(
        tuple_(r.run_id, r.epoch, r.owner).in_(bindparam("p_held", expanding=True)),
        one_of(r.status, LIVE),
    )
    # Also takes back a step whose lease ran out and that nobody has claimed since: that was no crash.
    .values(
        status=RUNNING,
        crashes=r.crashes - case((r.status == QUEUED, const(1)), else_=const(0)),
        wake_at=wake_by(expected),
    )
    .returning(r.run_id, r.want)
)
COMMIT = _commit()
FAIL = _fail()
RELEASE = _release(false())
_NEXT = text_("p_next")
PLACE = _release(_NEXT.is_(None), node=func.coalesce(_NEXT, r.node), queue=text_("p_queue"), stands=null())
