"""What the ledger in memory keeps: runs, with the names of the columns that databases have, and histories."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pocoflow.engine.history import Checkpoint, Saved
from pocoflow.engine.owner import worker_of
from pocoflow.engine.ports import Clock
from pocoflow.engine.records import Failure, ForkPoint, NewRun, Status
from pocoflow.engine.rows import EventRow, RunRow, Sighting
from pocoflow.engine.secrecy import Cipher
from pocoflow.engine.timing import CROWD_PATIENCE_S, Timing


@dataclass(slots=True)
class MemoryRun:
    """One run, its checkpoints and its history."""

    new: NewRun
    status: Status
    node: str
    queue: str | None
    home: str | None
    due_at: float
    wake_at: float | None
    step: int = 0
    want: str | None = None
    epoch: int = 0
    owner: str | None = None
    attempt: int = 0
    crashes: int = 0
    dispatches: int = 1
    unroutable_at: float | None = None
    deadline_at: float | None = None
    failure: Failure | None = None
    created_at: str = ""
    started_at: str | None = None
    completed_at: str | None = None
    checkpoints: list[Checkpoint] = field(default_factory=list)
    # The node and the queue of each step so far, and of the one that comes next.
    ahead: list[tuple[str | None, str | None]] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)

    @classmethod
    def begun(cls, run: NewRun, now: float, stamp: str) -> MemoryRun:
        """Return a run that waits for its first step, or is held by its owner already."""
        held = run.owner is not None
        return cls(
            new=run,
            status=Status.RUNNING if held else Status.QUEUED,
            node=run.node,
            queue=run.queue,
            home=run.home,
            due_at=now,
            wake_at=None,
            deadline_at=None if run.timeout_s is None else now + run.timeout_s,
            epoch=int(held),
            owner=run.owner,
            attempt=int(held),
            created_at=stamp,
            started_at=stamp if held else None,
            ahead=[(run.node, run.queue)],
        )

    def chain_to(self, step: int) -> Sequence[Checkpoint]:
        """The checkpoint of this step, after those that it builds on; -1 is the input."""
        if step < 0:
            return [self.new.input]
        return self.checkpoints[step - self.checkpoints[step].depth : step + 1]

    def fork_point(self, step: int, node: str | None, saved: Saved) -> ForkPoint:
        """Return where a new run can go on from this step."""
        following, queue = self.ahead[step + 1]
        if node is not None and node != following:
            following, queue = node, dict(reversed(self.ahead)).get(node)
        return ForkPoint(
            run_id=self.new.run_id,
            step=step,
            flow_name=self.new.flow_name,
            flow_hash=self.new.flow_hash,
            node=following,
            queue=queue,
            saved=saved,
            timeout_s=self.new.timeout_s,
        )

    def is_overdue(self, now: float) -> bool:
        return self.deadline_at is not None and self.deadline_at <= now

    def is_due(self, now: float, timing: Timing, home: str | None, crowded: Collection[str | None]) -> bool:
        """Whether a sweep must see to it: it is overdue, or so long overdue that its home must have gone."""
        if self.wake_at is None or (self.home is None and home is not None):
            return False
        patience_s = 0.0 if self.home == home else timing.lease_s
        in_crowd = self.status is Status.QUEUED and self.dispatches > 0 and self.queue in crowded
        if in_crowd and not self.is_overdue(now):
            patience_s = max(patience_s, CROWD_PATIENCE_S)
        return now - self.wake_at > patience_s

    def wake_by(self, moment: float) -> None:
        """Have a sweep look at the run by this moment, or at its deadline, if that is sooner."""
        self.wake_at = moment if self.deadline_at is None else min(moment, self.deadline_at)

    def unless_wanted(self, then: Status) -> Status:
        """Where it goes: what somebody asked for comes first, but a pause does not keep it from ending."""
        if self.want == "cancel":
            return Status.CANCELLED
        return Status.PAUSED if self.want == "pause" and not then.ended else then

    def shown(self) -> RunRow:
        """Return the run as the read side shows it."""
        return RunRow(
            run_id=self.new.run_id,
            flow_name=self.new.flow_name,
            status=self.status.value,
            started_at=self.started_at,
            completed_at=self.completed_at,
            total_steps=self.step,
            current_node=self.node,
            error_type=self.failure.error_type if self.failure else None,
            error_msg=self.failure.message if self.failure else None,
            attempt=self.attempt,
            crashes=self.crashes,
            epoch=self.epoch,
            want=self.want,
            queue=self.queue,
            owner=self.owner,
            home=self.home,
            stands=None,
            flow_hash=self.new.flow_hash,
            created_at=self.created_at,
            parent_run_id=self.new.parent_run_id,
            parent_step=self.new.parent_step,
        )

    @property
    def mark(self) -> str:
        """Another one whenever the run stands otherwise."""
        return f"{self.status} {self.step} {self.attempt} {self.failure and self.failure.error_type}"

    def sighted(self) -> Sighting:
        """Return what somebody who waits for the run must know."""
        return Sighting(
            run_id=self.new.run_id,
            status=self.status.value,
            total_steps=self.step,
            current_node=self.node,
            error_type=self.failure.error_type if self.failure else None,
            error_msg=self.failure.message if self.failure else None,
            attempt=self.attempt,
            queue=self.queue,
            mark=self.mark,
        )


class Blobs:
    """Large texts, each of them once, for as long as a run names it."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._runs: dict[str, set[str]] = {}

    def keep(self, run_id: str, checkpoint: Checkpoint) -> None:
        for digest, text in checkpoint.new_blobs.items():
            self._runs.setdefault(digest, set()).add(run_id)
            if text is not None:
                self._texts[digest] = text

    def saved(self, row: MemoryRun, step: int, cipher: Cipher) -> Saved:
        """Return the store of a run after a step; -1 is the input."""
        chain = row.chain_to(step)
        blobs = {digest: self._texts[digest] for checkpoint in chain for digest in checkpoint.blobs}
        return Saved([checkpoint.text for checkpoint in chain], blobs, row.new.schema, cipher)

    def forget(self, row: MemoryRun) -> None:
        """Forget what only this run has named."""
        # A blob that was out of use for a while is told anew by a later checkpoint.
        for digest in {digest for made in (row.new.input, *row.checkpoints) for digest in made.new_blobs}:
            self._runs[digest].discard(row.new.run_id)
            if not self._runs[digest]:
                del self._runs[digest], self._texts[digest]


class Journal:
    """Writes into the histories of runs, with ids that count over all of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_event = 0

    def timestamp(self, *, ago_s: float = 0.0) -> str:
        return datetime.fromtimestamp(self._clock.now() - ago_s, UTC).isoformat(timespec="milliseconds")

    def run(self, row: MemoryRun, event: str, **fields: Any) -> None:
        """Note something about the run as a whole, which no worker did."""
        self.step(row, event, **{"attempt": None, "node": None, "worker": None, **fields})

    def failure(self, row: MemoryRun, failure: Failure, event: str) -> None:
        elapsed_ms = None if failure.elapsed_s is None else failure.elapsed_s * 1000
        if elapsed_ms is not None:
            self.step(row, "node_start")
        self.step(row, event, error=failure.message, elapsed_ms=elapsed_ms)

    def step(self, row: MemoryRun, event: str, *, error: str | None = None, **fields: Any) -> None:
        self._last_event += 1
        row.events.append(
            EventRow(
                id=self._last_event,
                run_id=row.new.run_id,
                step=fields.get("step", row.step),
                attempt=fields.get("attempt", row.attempt),
                node_name=fields.get("node", row.node),
                event=event,
                action=fields.get("action"),
                elapsed_ms=fields.get("elapsed_ms"),
                error_msg=error,
                worker=fields.get("worker", row.owner and worker_of(row.owner)),
                ts=self.timestamp(),
            )
        )
