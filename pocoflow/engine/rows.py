"""What the read side hands out: runs and events as plain dicts."""

from __future__ import annotations

from typing import TypedDict

from pocoflow.engine.records import ENDED, STRANDED, Status


class Standing(TypedDict):
    """How far a run has come: what somebody who waits for it must know, and no more."""

    run_id: str
    status: str
    total_steps: int
    current_node: str | None
    error_type: str | None
    error_msg: str | None
    attempt: int
    queue: str | None


class Sighting(Standing):
    """How far a run had come when it was looked at.

    `mark` is another one whenever anything else here is; only the ledger can read it.
    """

    mark: str


class RunRow(Standing):
    """A run as the read side shows it; times are ISO 8601 texts in UTC.

    `parent_run_id` and `parent_step` say of which checkpoint it is a fork, if it is one.
    """

    flow_name: str
    started_at: str | None
    completed_at: str | None
    crashes: int
    epoch: int
    want: str | None
    owner: str | None
    home: str | None
    stands: str | None
    flow_hash: str | None
    created_at: str
    parent_run_id: str | None
    parent_step: int | None


def is_settled(row: Standing) -> bool:
    """Whether nothing more happens to the run, and nobody wanted it to rest: it has ended or is stranded."""
    return row["status"] in ENDED or (row["status"] == Status.PAUSED and row["error_type"] in STRANDED)


class EventRow(TypedDict):
    """An entry of the event log.

    `worker` names the process that executed the step, `attempt` counts from 1, `elapsed_ms` is how long
    the step took in milliseconds, `ts` is an ISO 8601 text in UTC.
    """

    id: int
    run_id: str
    step: int | None
    attempt: int | None
    node_name: str | None
    event: str
    action: str | None
    elapsed_ms: float | None
    error_msg: str | None
    worker: str | None
    ts: str
