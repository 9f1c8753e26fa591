"""What must be true of every history at every moment, as SQL that finds the runs of which it is not.

The same queries serve SQLite, Postgres and, copied into a database of its own, the ledger in memory.
The numbers I1 to I9 are those of the step protocol's list of invariants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, insert, text

from pocoflow.db.ledger import SqlLedger
from pocoflow.db.schema import checkpoints, events, metadata, runs
from pocoflow.engine.memory import MemoryLedger
from pocoflow.engine.ports import Ledger

_MARKS = "('flow_start', 'run_resumed', 'run_paused', 'run_interrupted', 'flow_end')"
_LAST_MARK = f"""
    select e.run_id, e.event, e.action from pf_events e
    where e.id = (select max(id) from pf_events where run_id = e.run_id and event in {_MARKS})
"""

# Promise to a query for the runs that break it; `:max_crashes` is the ledger's limit.
INVARIANTS: Mapping[str, str] = {
    "I1 I2: a run has exactly the checkpoints 0 to step - 1, each once": """
        select r.run_id from pf_runs r left join pf_checkpoints c on c.run_id = r.run_id
        group by r.run_id, r.total_steps
        having count(c.step) <> r.total_steps or count(distinct c.step) <> r.total_steps
            or coalesce(min(c.step), 0) <> 0 or coalesce(max(c.step), -1) <> r.total_steps - 1
    """,
    "I2: history belongs to a run": """
        select run_id from pf_checkpoints where run_id not in (select run_id from pf_runs)
        union select run_id from pf_events where run_id not in (select run_id from pf_runs)
    """,
    "I2: a checkpoint has one node_end of its node": """
        select c.run_id from pf_checkpoints c left join pf_events e
            on e.run_id = c.run_id and e.step = c.step and e.event = 'node_end'
        group by c.run_id, c.step, c.node_name
        having count(e.id) <> 1 or min(e.node_name) <> c.node_name
    """,
    "I2: a node_end has its checkpoint": """
        select e.run_id from pf_events e left join pf_checkpoints c
            on c.run_id = e.run_id and c.step = e.step
        where e.event = 'node_end' and c.run_id is null
    """,
    "I2: a node_end comes right after the node_start of its try": """
        select e.run_id from pf_events e left join pf_events b
            on b.id = (select max(id) from pf_events where run_id = e.run_id and id < e.id)
        where e.event = 'node_end' and (b.event is null or b.event <> 'node_start'
            or b.step <> e.step or b.attempt <> e.attempt or b.node_name <> e.node_name)
    """,
    "I2: right after a node_start comes what became of its try": """
        select b.run_id from pf_events b left join pf_events e
            on e.id = (select min(id) from pf_events where run_id = b.run_id and id > b.id)
        where b.event = 'node_start' and (e.event is null
            or e.event not in ('node_end', 'node_retry', 'node_error')
            or b.step <> e.step or b.attempt <> e.attempt or b.node_name <> e.node_name)
    """,
    "I3: a later checkpoint was not written under an earlier claim, nor any under a future one": """
        select c.run_id from pf_checkpoints c join pf_runs r on r.run_id = c.run_id
        left join pf_checkpoints before on before.run_id = c.run_id and before.step = c.step - 1
        where c.epoch > r.epoch or before.epoch > c.epoch
    """,
    "I3: a running step has an owner, a try and a start": """
        select run_id from pf_runs
        where status = 'running' and (owner is null or attempt < 1 or started_at is null)
    """,
    "I4: a run that completed or was cancelled has no history after that": """
        select e.run_id from pf_events e join pf_events f on f.run_id = e.run_id and f.id > e.id
        where e.event = 'flow_end' and e.action in ('completed', 'cancelled')
    """,
    "I4: the last start, resume, pause, interrupt or end in history tells the status": f"""
        select r.run_id from pf_runs r left join ({_LAST_MARK}) m on m.run_id = r.run_id
        where coalesce(m.event, 'none') <> case
                when r.status in ('completed', 'failed', 'cancelled') then 'flow_end'
                when r.status = 'paused' and r.error_type is null then 'run_paused'
                when r.status = 'paused' then 'run_interrupted'
                when m.event = 'run_resumed' then 'run_resumed'
                else 'flow_start' end
            or (m.event = 'flow_end' and m.action <> r.status)
    """,
    "I4: a run that is paused or has ended belongs to nobody": """
        select run_id from pf_runs where status not in ('queued', 'running') and owner is not null
    """,
    "I4: only a run that has ended has a time of its end": """
        select run_id from pf_runs
        where (status in ('completed', 'failed', 'cancelled')) <> (completed_at is not null)
    """,
    "I4: a failed run says why, a completed one has no error": """
        select run_id from pf_runs
        where (status = 'failed' and (error_type is null or error_msg is null))
            or (status = 'completed' and (error_type is not null or error_msg is not null))
    """,
    "I5: a sweep looks at a run one day if and only if it is live": """
        select run_id from pf_runs where (status in ('queued', 'running')) <> (wake_at is not null)
    """,
    "I5: nothing waits longer than the step that it waits for": """
        select run_id from pf_runs where status = 'queued' and wake_at < due_at
    """,
    "I6: a step loses no more workers than allowed, and none without a try and a trace": """
        select r.run_id from pf_runs r
        where r.crashes > :max_crashes + 1 or r.crashes < 0 or r.attempt < r.crashes
            or r.crashes > (select count(*) from pf_events e
                where e.run_id = r.run_id and e.event = 'step_lost' and e.step = r.total_steps)
    """,
    "I7: only a running run can be asked for something": """
        select run_id from pf_runs where want is not null and status <> 'running'
    """,
    "I9: a history begins with the one start of its run": """
        select r.run_id from pf_runs r left join pf_events e on e.run_id = r.run_id
        group by r.run_id
        having sum(case when e.event = 'flow_start' then 1 else 0 end) <> 1
            or min(case when e.event = 'flow_start' then e.id end) <> min(e.id)
    """,
}


def assert_sound(ledger: Ledger) -> None:
    """Fail with every invariant that the ledger's history breaks, and the runs that break it."""
    with _as_database(ledger) as connection:
        broken = violations(connection, max_crashes=ledger._timing.max_crashes)  # type: ignore[attr-defined]
    assert not broken, broken


def violations(connection: Connection, *, max_crashes: int) -> dict[str, list[str]]:
    """Return each broken promise with the ids of the runs that break it."""
    found = {}
    for promise, query in INVARIANTS.items():
        limits = {"max_crashes": max_crashes} if ":max_crashes" in query else {}
        run_ids = sorted(set(connection.execute(text(query), limits).scalars()))
        if run_ids:
            found[promise] = run_ids
    return found


@contextmanager
def _as_database(ledger: Ledger) -> Iterator[Connection]:
    if isinstance(ledger, SqlLedger):
        with ledger.connection() as connection:
            yield connection
        return
    assert isinstance(ledger, MemoryLedger), f"no way to look into {ledger!r}"
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        _copy(ledger, connection)
        yield connection
    engine.dispose()


def _copy(ledger: MemoryLedger, connection: Connection) -> None:
    """Write the runs of a ledger in memory to tables. It keeps no claims of past steps: their epoch is 0."""
    copied_runs, copied_checkpoints, copied_events = [], [], []
    for run_id, row in ledger._runs.items():
        shown: Any = ledger.get_run(run_id)
        copied_runs.append(
            {
                column.key: shown[column.name] if column.name in shown else getattr(row, column.key, None)
                for column in runs.c
            }
        )
        ends = {event["step"]: event["node_name"] for event in row.events if event["event"] == "node_end"}
        for step, state in enumerate(row.states):
            node = ends.get(step) or "?"
            copied_checkpoints.append(
                {
                    "run_id": run_id,
                    "step": step,
                    "node_name": node,
                    "store_json": state,
                    "epoch": 0,
                    "created_at": "",
                }
            )
        copied_events += row.events
    for table, rows in ((runs, copied_runs), (checkpoints, copied_checkpoints), (events, copied_events)):
        if rows:
            connection.execute(insert(table), rows)
