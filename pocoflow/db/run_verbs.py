"""The verbs of whoever starts and steers a run, as SQLAlchemy Core expressions for both databases."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Insert,
    Integer,
    and_,
    case,
    cast,
    exists,
    false,
    func,
    null,
    or_,
    update,
)

from pocoflow.db.schema import checkpoints, runs
from pocoflow.db.step_verbs import Change, after, expected, only_stop
from pocoflow.db.words import (
    NOW,
    P_RUN,
    QUEUED,
    RUNNING,
    STAMP,
    WANTS_PAUSE,
    const,
    event,
    integer,
    log,
    one_of,
    r,
    seconds,
    text_,
)
from pocoflow.engine.records import SAME_HOME, STOPPED, Status, before


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
        .returning(*after)
    )
    return Change(stmt, only_stop)


def _resume() -> Change:
    home, overdue = text_("p_home"), r.deadline_at <= NOW
    goes_on = and_(r.status == RUNNING, WANTS_PAUSE)
    # PocoFlow 0.2 kept no input, so a run of it that has no checkpoint has nothing to go on from.
    last = (checkpoints.c.run_id == r.run_id, checkpoints.c.step == r.step - const(1))
    has_store = or_(r.input.is_not(None), exists().where(*last))
    # What is left of the delay before a retry is still waited for.
    early = r.due_at > NOW
    looked_at = case((early, r.due_at), else_=expected)
    # Who lets a run go on whose time is up gives it its time once more.
    deadline = case((overdue, NOW + r.timeout_s), else_=r.deadline_at)
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
        "wake_at": case((deadline < looked_at, deadline), else_=looked_at),
        "deadline_at": deadline,
    }
    stmt = (
        update(runs)
        .where(r.run_id == P_RUN, or_(and_(one_of(r.status, STOPPED), has_store), goes_on))
        .values(want=null(), **_unless(goes_on, anew))
        .returning(*after, r.queue)
    )
    return Change(stmt, lambda source: (log(event(source, "run_resumed").where(source.c.status == QUEUED)),))


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
