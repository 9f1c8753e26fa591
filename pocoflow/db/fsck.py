"""What must be true of every history at every moment, as SQL that finds the runs of which it is not.

The same queries serve SQLite and Postgres. Each looks at one moment only, so runs in flight are no reason
for a false alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, FromClause, Label, func, select, text
from sqlalchemy.engine import URL

from pocoflow.db.connect import snapshot
from pocoflow.db.schema import checkpoints, events, runs

_MARKS = "('flow_start', 'run_resumed', 'run_paused', 'run_interrupted', 'flow_end')"
_LAST_MARK = f"""
    select e.run_id, e.event, e.action from pf_events e
    join (select max(id) as id from pf_events where event in {_MARKS} group by run_id) l on l.id = e.id
"""
# A run that was written by hand, through WorkflowDB, keeps whatever its writer promises, and one of PocoFlow
# 0.2 what that promised.
_OF_FLOWS = """
    select distinct f.run_id from ({query}) f left join pf_runs r on r.run_id = f.run_id
    where r.run_id is null or r.flow_hash is not null
"""

# Promise to a query for the runs that break it; `:max_crashes` is the ledger's limit. I1 to I9 are numbers by
# which tests and papers know the promises; those that are missing leave nothing in a table to look at.
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
        select c.run_id from pf_checkpoints c left join (
            select run_id, step, count(*) as ends, min(node_name) as node_name
            from pf_events where event = 'node_end' group by run_id, step
        ) e on e.run_id = c.run_id and e.step = c.step
        where coalesce(e.ends, 0) <> 1 or e.node_name <> c.node_name
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
    "I2: a checkpoint builds on the one before it, or on none": """
        select c.run_id from pf_checkpoints c left join pf_checkpoints b
            on b.run_id = c.run_id and b.step = c.step - 1
        where c.depth <> 0 and coalesce(b.depth, -2) <> c.depth - 1
    """,
    "I2: the blobs that a run needs are kept": """
        select u.run_id from pf_blob_uses u left join pf_blobs b on b.digest = u.digest where b.digest is null
    """,
    "I2: a run that names blobs needs some": """
        select run_id from pf_checkpoints where blobs is not null
            and run_id not in (select run_id from pf_blob_uses)
        union select run_id from pf_runs where input_blobs is not null
            and run_id not in (select run_id from pf_blob_uses)
    """,
    "I2: each entry of a history is about the step that the run had reached": """
        select run_id from (
            select run_id, step, count(case when event = 'node_end' then 1 end) over (
                partition by run_id order by id rows between unbounded preceding and 1 preceding
            ) as reached from pf_events
        ) e where step <> reached
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
    "I4: a run that failed or was interrupted goes on by a resume only": """
        select run_id from (
            select run_id, event, action, lead(event) over (partition by run_id order by id) as following
            from pf_events
        ) e
        where (event = 'flow_end' and action = 'failed' and following <> 'run_resumed')
            or (event = 'run_interrupted' and following not in ('run_resumed', 'flow_end'))
            or (event = 'run_paused' and following not in ('run_resumed', 'flow_end'))
    """,
    "I4: each resume, and each claim that led to a checkpoint, has an epoch of its own": """
        select r.run_id from pf_runs r
        left join (select run_id, count(distinct epoch) as claims from pf_checkpoints group by run_id) c
            on c.run_id = r.run_id
        left join (select run_id, count(*) as resumes from pf_events where event = 'run_resumed'
            group by run_id) e on e.run_id = r.run_id
        where r.epoch < coalesce(c.claims, 0) + coalesce(e.resumes, 0)
    """,
    "I4: the last start, resume, pause, interrupt or end in history tells the status": f"""
        select r.run_id from pf_runs r left join ({_LAST_MARK}) m on m.run_id = r.run_id
        where coalesce(m.event, 'none') <> case
                when r.status in ('completed', 'failed', 'cancelled') then 'flow_end'
                when r.status = 'paused' and r.error_type = 'RunInterruptedError' then 'run_interrupted'
                when r.status = 'paused' then 'run_paused'
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
            or wake_at > 1e300
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
    "I6: each try of a step has a number above that of the one before, until the run is resumed": """
        select run_id from (
            select run_id, attempt,
                lag(attempt) over (partition by run_id, resumes, step order by id) as before
            from (
                select id, run_id, step, attempt, event, count(case when event = 'run_resumed' then 1 end)
                    over (partition by run_id order by id) as resumes
                from pf_events
            ) e where event = 'node_start'
        ) t where attempt <= before
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
    "I9: a fork says so where its history begins, and goes on from a step of its parent": """
        select r.run_id from pf_runs r
        left join pf_events e on e.run_id = r.run_id and e.event = 'flow_start'
        left join pf_runs p on p.run_id = r.parent_run_id and p.created_at <= r.created_at
        where (r.parent_run_id is null) <> (r.parent_step is null) or r.parent_run_id = r.run_id
            or (r.parent_run_id is not null) <> (coalesce(e.action, '') = 'fork')
            or r.parent_step < -1 or r.parent_step >= p.total_steps
    """,
    "I9: a run keeps the input that it was started with": """
        select run_id from pf_runs where input is null or input_hash is null
    """,
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise, and one run that breaks it."""

    promise: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a check looked at, and what it found.

    Attributes:
        runs: Those of flows; all figures but the next are of these.
        by_hand: Runs that were written through WorkflowDB, or by PocoFlow 0.2, which nobody checks.
        steps: Checkpoints.
        events: Entries of histories.
    """

    runs: int
    by_hand: int
    steps: int
    events: int
    violations: list[Violation]


def examine(url: URL, *, max_crashes: int) -> Report:
    """Check a database as it is at this moment, also while runs are in flight; changes nothing.

    Args:
        url: As returned by `database_url`.
        max_crashes: The limit that the workers have.

    Raises:
        DatabaseError: It is not there, or no database of this version.
    """
    with snapshot(url) as connection:
        counts = connection.execute(_COUNTS).one()
        return Report(*counts, check(connection, max_crashes=max_crashes))


def check(connection: Connection, *, max_crashes: int) -> list[Violation]:
    """Return each promise that is broken with each run that breaks it, by promise and run.

    The connection must see one moment of the database: be in a transaction, as a `snapshot` is, or alone.
    """
    found = []
    for promise, query in INVARIANTS.items():
        limits = {"max_crashes": max_crashes} if ":max_crashes" in query else {}
        run_ids = connection.execute(text(_OF_FLOWS.format(query=query)), limits).scalars()
        found += [Violation(promise, run_id) for run_id in sorted(run_ids)]
    return found


def _count(table: FromClause, *where: ColumnElement[bool]) -> Label[int]:
    return select(func.count()).select_from(table).where(*where).scalar_subquery().label(None)


_by_hand = select(runs.c.run_id).where(runs.c.flow_hash.is_(None))
_COUNTS = select(
    _count(runs, runs.c.flow_hash.is_not(None)),
    _count(runs, runs.c.flow_hash.is_(None)),
    _count(checkpoints, checkpoints.c.run_id.not_in(_by_hand)),
    _count(events, events.c.run_id.not_in(_by_hand)),
)
