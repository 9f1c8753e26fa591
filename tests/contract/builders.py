"""Short ways to say what a ledger test is about: a run, a step's result, a history."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any, TypeVar

from pocoflow.engine.history import Checkpoint, Saved
from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import Failure, NewRun, Position, StepRecord

RUN = "run"
WORKER = "host:1"
INPUT = '{"n":0}'
BOOM = Failure("ValueError", "boom")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the event log without its id and time, to compare histories of different ledgers."""

    event: str
    step: int | None = None
    node: str | None = None
    attempt: int | None = None
    action: str | None = None
    elapsed_ms: float | None = None
    error: str | None = None
    worker: str | None = None


def new_run(run_id: str = RUN, **changes: Any) -> NewRun:
    usual = {
        "flow_name": "flow",
        "flow_hash": "hash",
        "node": "A",
        "queue": None,
        "input": Checkpoint(INPUT),
        "input_hash": "input",
    }
    return NewRun(run_id=run_id, **{**usual, **changes})


def record(next_node: str | None = "B", *, state: str | Checkpoint = '{"n":1}', **changes: Any) -> StepRecord:
    """What a step leaves that took a quarter of a second."""
    usual = {"action": "default", "next_queue": None, "elapsed_s": 0.25}
    checkpoint = Checkpoint(state) if isinstance(state, str) else state
    return StepRecord(next_node=next_node, checkpoint=checkpoint, **{**usual, **changes})


LAST = record(None)
HELD = record(hold=True)


def take(ledger: Ledger, step: int = 0, *, run_id: str = RUN, worker: str = WORKER) -> Position:
    """Claim a step that is there to claim."""
    claim = ledger.claim(run_id, step, owner=new_owner(worker))
    assert claim is not None, ledger.get_run(run_id)
    return claim.position


def started(ledger: Ledger, **changes: Any) -> Position:
    """Start a run and claim its first step."""
    ledger.start(new_run(**changes))
    return take(ledger)


def history(ledger: Ledger, run_id: str = RUN) -> list[Entry]:
    return [
        Entry(
            row["event"],
            row["step"],
            row["node_name"],
            row["attempt"],
            row["action"],
            row["elapsed_ms"],
            row["error_msg"],
            row["worker"],
        )
        for row in ledger.get_events(run_id)
    ]


def begun(node: str = "A") -> Entry:
    return Entry("flow_start", node=node)


def done(step: int, node: str, *, attempt: int = 1, action: str = "default") -> tuple[Entry, Entry]:
    begin = Entry("node_start", step, node, attempt, worker=WORKER)
    return begin, Entry("node_end", step, node, attempt, action, 250.0, worker=WORKER)


def ended(status: str, *, step: int) -> Entry:
    return Entry("flow_end", step, action=status)


def lost(step: int, node: str, *, attempt: int = 1) -> Entry:
    return Entry("step_lost", step, node, attempt, worker=WORKER)


def failed(event: str, step: int, node: str, *, attempt: int = 1, error: str = BOOM.message) -> Entry:
    return Entry(event, step, node, attempt, error=error, worker=WORKER)


def whole(text: str, schema: str | None = None) -> Saved:
    """What a checkpoint of this text comes back as."""
    return Saved([text], schema=schema)


def facts(ledger: Ledger, *names: str, run_id: str = RUN) -> tuple[Any, ...]:
    """Return these fields of a run's row."""
    row: Any = ledger.get_run(run_id)
    return tuple(row[name] for name in names)


def at_once(threads: int, action: Callable[[int], T]) -> list[T]:
    """Call the action in so many threads that all begin at the same moment."""
    barrier = Barrier(threads)

    def begin(number: int) -> T:
        barrier.wait(30)
        return action(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))
