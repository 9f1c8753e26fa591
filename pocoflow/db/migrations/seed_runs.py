"""What becomes of the runs of PocoFlow 0.2: each is settled, and what can go on knows from where.

0.2 wrote a step in three transactions (event, checkpoint, row), kept no input, and let a second run with one
id write into the history of the first; so the row alone does not tell how a run stands, but the last part of
its history does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Table, insert, text

HOME = "0.2"  # No process has it: whoever resumes such a run says where it goes on.
CHUNK = 500
_TAG = "$t"
_INTERRUPTED = "RunInterruptedError"
_LEFT = (
    "PocoFlow 0.2 left it unfinished: to go on from its last checkpoint, resume it by its id on workers, or "
    "start it again with this run_id and the store of that checkpoint"
)
_LOST = (
    "PocoFlow 0.2 left it unfinished and kept too little to go on: start it again with another run_id, "
    "from a checkpoint if it has one"
)

_EVENTS = "run_id, step, node_name, event, action, elapsed_ms, error_msg, ts"
_COPY_EVENTS = f"""
    insert into pf_events (id, {_EVENTS}) select id, {_EVENTS} from pf_events_0_2
    where run_id in (select run_id from pf_runs_0_2) order by id
"""
_COPY_CHECKPOINTS = """
    insert into pf_checkpoints (id, run_id, step, node_name, action, store_json, depth, epoch, created_at)
    select c.id, c.run_id, c.step, c.node_name, e.action, c.store_json, 0, 0, c.created_at
    from pf_checkpoints_0_2 c join pf_runs_0_2 r on r.run_id = c.run_id
    left join (select run_id, step, max(id) as id from pf_events where event = 'node_end'
        group by run_id, step) l on l.run_id = c.run_id and l.step = c.step
    left join pf_events e on e.id = l.id
"""
_COUNT_ON = "select setval(pg_get_serial_sequence('{0}', 'id'), (select max(id) from {0}))"
_RUNS = "select * from pf_runs_0_2 where run_id is not null order by started_at, run_id"
_STORY = "select event, step, node_name, action, error_msg, ts from pf_events where run_id = :run order by id"
_STEPS = "select step, created_at from pf_checkpoints where run_id = :run"
_LEFTOVERS = "delete from pf_checkpoints where run_id = :run and step >= :step"
_NOW = {
    "sqlite": "select strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')",
    "postgresql": "select statement_timestamp()",
}


def carry_over(
    connection: Connection,
    *,
    runs: Table,
    checkpoints: Table,
    events: Table,
    report: Callable[[int, int], None],
) -> None:
    """Fill the new tables from those of 0.2, whose names end in _0_2.

    The history of a run that is no longer there is left behind.
    """
    for copy in (_COPY_EVENTS, _COPY_CHECKPOINTS):
        connection.execute(text(copy))
    if connection.dialect.name == "postgresql":
        for table in (events, checkpoints):
            connection.execute(text(_COUNT_ON.format(table.name)))
    _escape_tags(connection)
    now = connection.execute(text(_NOW[connection.dialect.name])).scalar()
    old = connection.execute(text(_RUNS)).all()
    for done in range(0, len(old), CHUNK):
        report(done, len(old))
        rows = [_settled(connection, run) for run in old[done : done + CHUNK]]
        _carry(connection, rows, runs, events, now)
    report(len(old), len(old))


@dataclass(frozen=True, slots=True)
class Story:
    """The last use of a run id.

    Attributes:
        events: From its flow_start on.
        repeated: Whether the id was used before.
        reached: The step after its last checkpoint.
    """

    events: Sequence[Row[Any]]
    repeated: bool
    reached: int

    @property
    def began_at(self) -> Any:
        return self.events[0].ts

    @property
    def end(self) -> Row[Any] | None:
        return self.last(lambda event: event.event in ("node_error", "flow_end"))

    def last(self, fits: Callable[[Row[Any]], bool]) -> Row[Any] | None:
        return next((event for event in reversed(self.events) if fits(event)), None)


def _carry(
    connection: Connection, rows: Sequence[Mapping[str, Any]], runs: Table, events: Table, now: Any
) -> None:
    connection.execute(insert(runs), list(rows))
    # A checkpoint of an earlier use of the id would stand where the next step puts its own.
    ready = [{"run": row["run_id"], "step": row["total_steps"]} for row in rows if row["stands"] is not None]
    if ready:
        connection.execute(text(_LEFTOVERS), ready)
    interrupted = [
        {
            "run_id": row["run_id"],
            "step": row["total_steps"],
            "event": "run_interrupted",
            "error_msg": row["error_msg"],
            "ts": now,
        }
        for row in rows
        if row["home"] == HOME and row["status"] == "paused"
    ]
    if interrupted:
        connection.execute(insert(events), interrupted)


def _settled(connection: Connection, run: Row[Any]) -> dict[str, Any]:
    """Return the new row of a run; one without a flow_start was written by hand, and stays as it is."""
    row = _as_it_was(run)
    story = _story(connection, run.run_id)
    if story is None:
        return row
    end = _end_of(run, story)
    row |= {"home": HOME, "error_type": None, "error_msg": None, **end}
    if end["status"] not in ("paused", "failed"):
        return row
    node, stands = _place_of(run, story, failed=end["status"] == "failed")
    if stands is not None:
        return {**row, "total_steps": story.reached, "current_node": node, "stands": stands}
    if end["status"] == "paused":
        row |= {"status": "failed", "error_msg": _LOST, "completed_at": story.events[-1].ts}
    # It has no checkpoint to go on from, or not the way on, and its input is gone: nothing can resume it.
    return {**row, "total_steps": 0}


def _as_it_was(run: Row[Any]) -> dict[str, Any]:
    zero = ("epoch", "attempt", "crashes", "dispatches", "due_at")
    return {
        "run_id": run.run_id,
        "flow_name": run.flow_name,
        "status": run.status,
        "total_steps": run.total_steps or 0,
        "current_node": run.current_node,
        "stands": None,
        "home": None,
        "error_type": None,
        "error_msg": run.error_msg,
        "created_at": run.started_at,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
        **dict.fromkeys(zero, 0),
    }


def _story(connection: Connection, run_id: str) -> Story | None:
    events = connection.execute(text(_STORY), {"run": run_id}).all()
    starts = [index for index, event in enumerate(events) if event.event == "flow_start"]
    if not starts:
        return None
    began_at, repeated = events[starts[-1]].ts, len(starts) > 1
    steps = connection.execute(text(_STEPS), {"run": run_id}).all()
    own = [row.step for row in steps if not repeated or row.created_at >= began_at]
    return Story(events[starts[-1] :], repeated, max(own, default=-1) + 1)


def _end_of(run: Row[Any], story: Story) -> dict[str, Any]:
    """How the last use of the id ended; one that did not is interrupted."""
    end = story.end
    # A second use left the end of the first in the row.
    stale = story.repeated and (run.completed_at is None or run.completed_at < story.began_at)
    if run.status in ("completed", "failed") and not stale:
        if run.status == "completed":
            return {"status": "completed"}
        if run.error_msg == "cancelled" and (end is None or end.event != "node_error"):
            return {"status": "cancelled"}
        return {"status": "failed", "error_type": "Exception", "error_msg": run.error_msg or ""}
    if end is None:
        return {"status": "paused", "error_type": _INTERRUPTED, "error_msg": _LEFT, "completed_at": None}
    if end.event == "flow_end":
        return {"status": "completed", "completed_at": end.ts}
    error = {"error_type": "Exception", "error_msg": end.error_msg or ""}
    return {"status": "failed", "completed_at": end.ts, **error}


def _place_of(run: Row[Any], story: Story, *, failed: bool) -> tuple[str | None, str | None]:
    """Return a node, and how the run stands to it: "at" it, or "after" it by an action; None if unknown."""
    step = story.reached
    if step == 0:
        return None, None
    begun = story.last(lambda event: event.event == "node_start" and event.step == step)
    if begun is not None and begun.node_name:
        return begun.node_name, "at"
    if failed and run.current_node:
        return run.current_node, "at"
    done = story.last(lambda event: event.event == "node_end" and event.step == step - 1)
    if done is None or not done.node_name:
        return None, None
    # 0.2 took no action for one that only a wildcard fits; an empty one does the same.
    return done.node_name, f"after {done.action or ''}"


def _escape_tags(connection: Connection) -> None:
    """Keep data of users from being read as a tag of ours, which 0.2 did not have."""
    suspects = "select id, store_json from pf_checkpoints where store_json like :tag"
    change = text("update pf_checkpoints set store_json = :data where id = :id")
    for row in connection.execute(text(suspects), {"tag": f'%"{_TAG}"%'}).all():
        try:
            data = json.dumps(_escaped(json.loads(row.store_json)))
        except (ValueError, RecursionError):
            continue  # Whoever loads it is told that it cannot be read.
        connection.execute(change, {"data": data, "id": row.id})


def _escaped(value: Any) -> Any:
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: _escaped(item) for key, item in value.items()}
    return {_TAG: "dict", "v": [list(pair) for pair in inner.items()]} if _TAG in inner else inner
