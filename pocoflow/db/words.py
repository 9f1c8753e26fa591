"""The vocabulary that the verbs are written in: parameters, constants, the clock, the event log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Double,
    FromClause,
    Insert,
    Integer,
    Select,
    Text,
    bindparam,
    case,
    cast,
    insert,
    literal_column,
    null,
    select,
    union_all,
)

from pocoflow.db.schema import Now, Timestamp, events, runs
from pocoflow.engine.records import ENDED, Status


def text_(name: str) -> Any:
    return bindparam(name, type_=Text)


def integer(name: str) -> Any:
    return bindparam(name, type_=Integer)


def seconds(name: str) -> Any:
    return bindparam(name, type_=Double)


def flag(name: str) -> Any:
    return bindparam(name, type_=Boolean)


def const(value: str | int | float) -> Any:
    """A constant of ours, written into the SQL: each bound parameter costs time at every step."""
    kind = {str: Text, int: Integer, float: Double}[type(value)]
    return literal_column(f"'{value}'" if isinstance(value, str) else str(value), kind)


def one_of(column: Any, values: Iterable[str]) -> ColumnElement[bool]:
    among: ColumnElement[bool] = column.in_([const(str(value)) for value in sorted(values)])
    return among


r = runs.c
NOW: Any = Now()
STAMP: Any = Timestamp(const(0.0))
P_RUN = text_("p_run")
QUEUED, RUNNING, PAUSED, COMPLETED, FAILED, CANCELLED = (const(status.value) for status in Status)
WANTS_CANCEL, WANTS_PAUSE = r.want == const("cancel"), r.want == const("pause")


def wake_by(moment: Any) -> Any:
    """When a sweep must look at a run that should have moved by this moment: at its deadline, if sooner."""
    return case((r.deadline_at < moment, r.deadline_at), else_=moment)


def event(source: FromClause, name: str, **values: Any) -> Select[Any]:
    """One row for the event log, for each row of `source`."""
    given = {"run_id": source.c.run_id, "step": source.c.step, "event": const(name), "ts": STAMP, **values}
    columns = [column for column in events.c if column.name != "id"]
    return select(
        *(given.get(column.name, cast(null(), column.type)).label(column.name) for column in columns)
    )


def log(*rows: Select[Any]) -> Insert:
    columns = [column.name for column in events.c if column.name != "id"]
    return insert(events).from_select(columns, rows[0] if len(rows) == 1 else union_all(*rows))


def end_event(source: FromClause) -> Select[Any]:
    return event(source, "flow_end", action=source.c.status).where(one_of(source.c.status, ENDED))


def pause_event(source: FromClause) -> Select[Any]:
    return event(source, "run_paused").where(source.c.status == PAUSED)
