"""The verbs of the step protocol as SQLAlchemy Core expressions, the same for both databases.

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
    Integer,
    Update,
    and_,
    bindparam,
    case,
    cast,
    exists,
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
from pocoflow.engine.records import ENDED, LIVE, SAME_HOME, STOPPED, Position, Status, before

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
_expected = NOW + seconds("p_wait_s")
_after = (r.run_id, r.status, r.step)


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
            wake_at=case((or_(ends, WANTS_PAUSE), null()), else_=wake_by(_expected)),
            unroutable_at=null(),
            error_type=text_("p_error_type"),
            error_msg=text_("p_error_msg"),
            completed_at=case((ends, STAMP)),
        )
        .returning(*_after)
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
            wake_at=case((or_(ends, pauses), null()), else_=wake_by(_expected + delay)),
            completed_at=case((ends, STAMP)),
        )
        .returning(*_after)
    )
    return Change(stmt, _fail_history)


def _only_stop(source: FromClause) -> Sequence[Insert]:
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
                else_=wake_by(case((delay > const(0.0), NOW + delay), else_=_expected)),
            ),
            unroutable_at=case(
                (flag("p_unroutable"), func.coalesce(r.unroutable_at, NOW)), else_=r.unroutable_at
            ),
            completed_at=case((or_(WANTS_CANCEL, done), STAMP)),
            **more,
        )
        .returning(*_after)
    )
    return Change(stmt, _only_stop)


def _unless(keeps: ColumnElement[bool], values: dict[str, Any]) -> dict[str, Any]:
    """These values, except for a run that keeps what it has."""
    return {name: case((keeps, r[name]), else_=value) for name, value in values.items()}


def _stop(then: Status, want: Any, *, at_once: bool = False, **more: Any) -> Change:
    """Stop a run that waits; the owner of a running one is asked to, unless it is to stop at once."""
    asked = false() if at_once else r.status == RUNNING
    stopped = {"status": const(then.value), "owner": null(), "epoch": r.epoch + const(1), "wake_at": null()}
    stmt = (
        update(runs)
        .where(r.run_id == P_RUN, one_of(r.status, before(then)))
        .values(want=case((asked, want)), **_unless(asked, {**stopped, **more}))
        .returning(*_after)
    )
    return Change(stmt, _only_stop)


def _resume() -> Change:
    home, overdue = text_("p_home"), r.deadline_at <= NOW
    goes_on = and_(r.status == RUNNING, WANTS_PAUSE)
    # PocoFlow 0.2 kept no input, so a run of it that has no checkpoint has nothing to go on from.
    last = (checkpoints.c.run_id == r.run_id, checkpoints.c.step == r.step - const(1))
    has_store = or_(r.input.is_not(None), exists().where(*last))
    # What is left of the delay before a retry is still waited for.
    early = r.due_at > NOW
    expected = case((early, r.due_at), else_=_expected)
    anew = {
        "status": QUEUED,
        "home": case((home == const(SAME_HOME), r.home), else_=home),
        "epoch": r.epoch + const(1),
        "owner": null(),
        "attempt": const(0),
        "crashes": const(0),
        # Where no hint is sent at once, a sweep sends the first one.
        "dispatches": case((or_(early, seconds("p_wait_s") <= const(0.0)), const(0)), else_=const(1)),
        "error_type": null(),
        "error_msg": null(),
        "completed_at": null(),
        "unroutable_at": null(),
        "due_at": case((early, r.due_at), else_=NOW),
        "wake_at": case((overdue, expected), else_=wake_by(expected)),
        # Who lets a run go on whose time is up wants it to go on.
        "deadline_at": case((overdue, null()), else_=r.deadline_at),
    }
    stmt = (
        update(runs)
        .where(r.run_id == P_RUN, or_(and_(one_of(r.status, STOPPED), has_store), goes_on))
        .values(want=null(), **_unless(goes_on, anew))
        .returning(*_after, r.queue)
    )
    return Change(stmt, lambda source: (log(event(source, "run_resumed").where(source.c.status == QUEUED)),))


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
        wake_at=wake_by(_expected),
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
        wake_at=wake_by(_expected),
    )
    .returning(r.run_id, r.want)
)
COMMIT = _commit()
FAIL = _fail()
RELEASE = _release(false())
_NEXT = text_("p_next")
PLACE = _release(_NEXT.is_(None), node=func.coalesce(_NEXT, r.node), queue=text_("p_queue"), stands=null())
CANCEL = _stop(Status.CANCELLED, const("cancel"), completed_at=STAMP)
CANCEL_AT_ONCE = _stop(Status.CANCELLED, null(), at_once=True, completed_at=STAMP)
# A cancel that was asked for stays.
PAUSE = _stop(Status.PAUSED, func.coalesce(r.want, const("pause")), error_type=null(), error_msg=null())
RESUME = _resume()


def new_run() -> dict[str, Any]:
    """The row of a run that begins; `p_owner` null makes it wait for a worker."""
    held = text_("p_owner").is_not(None)
    wait_s, timeout_s = seconds("p_wait_s"), seconds("p_timeout_s")
    return {
        "run_id": P_RUN,
        "flow_name": text_("p_flow"),
        "flow_hash": text_("p_hash"),
        "status": case((held, RUNNING), else_=QUEUED),
        "step": const(0),
        "node": text_("p_node"),
        "queue": text_("p_queue"),
        "home": text_("p_home"),
        "owner": text_("p_owner"),
        "epoch": case((held, const(1)), else_=const(0)),
        "attempt": case((held, const(1)), else_=const(0)),
        "crashes": const(0),
        "dispatches": const(1),
        "due_at": NOW,
        "wake_at": NOW + case((timeout_s < wait_s, timeout_s), else_=wait_s),
        "deadline_at": NOW + timeout_s,
        "timeout_s": timeout_s,
        "parent_run_id": text_("p_parent"),
        "parent_step": integer("p_parent_step"),
        "first_node": text_("p_node"),
        "first_queue": text_("p_queue"),
        "input": text_("p_text"),
        "input_blobs": text_("p_named"),
        "input_hash": text_("p_input_hash"),
        "schema": text_("p_schema"),
        "created_at": STAMP,
        "started_at": case((held, STAMP)),
    }


def start_history(source: FromClause) -> Insert:
    forked = case((text_("p_parent").is_not(None), const("fork")))
    start = event(source, "flow_start", step=cast(null(), Integer), node_name=text_("p_node"), action=forked)
    return log(start)
