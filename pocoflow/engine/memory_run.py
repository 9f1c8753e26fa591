"""A run as the ledger in memory keeps it, with the names of the columns that databases have for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pocoflow.engine.ports import EventRow, RunRow, Sighting
from pocoflow.engine.records import Failure, NewRun, Status


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
    failure: Failure | None = None
    created_at: str = ""
    started_at: str | None = None
    completed_at: str | None = None
    states: list[str] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)

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
            created_at=self.created_at,
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
