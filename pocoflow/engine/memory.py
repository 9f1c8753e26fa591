"""The ledger that lives and dies with this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pocoflow import codec
from pocoflow.engine.memory_run import MemoryRun
from pocoflow.engine.owner import worker_of
from pocoflow.engine.ports import Clock, EventRow, RunRow, Sighting
from pocoflow.engine.records import (
    INTERRUPTED,
    POISON,
    Claim,
    Failure,
    Hint,
    NewRun,
    Position,
    Started,
    Status,
    StepRecord,
)
from pocoflow.engine.timing import Timing
from pocoflow.engine.wording import INTERRUPTED_TEXT, POISON_TEXT
from pocoflow.errors import InvalidTransitionError, RunNotFoundError
from pocoflow.store import Store

MAX_ENDED_RUNS = 10_000


class MemoryLedger:
    """The whole protocol in a dict; it forgets ended runs, oldest first, beyond `MAX_ENDED_RUNS`."""

    def __init__(self, clock: Clock, timing: Timing) -> None:
        self._clock = clock
        self._timing = timing
        self._runs: OrderedDict[str, MemoryRun] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.RLock()
        self._last_event = 0

    def encode(self, store: Store) -> str:
        return codec.dumps(store.as_dict())

    def start(self, run: NewRun) -> Started:
        with self._lock:
            known = self._runs.get(run.run_id)
            if known is not None:
                error = known.failure.error_type if known.failure else None
                return Started(False, known.status, known.new.input_hash, error)
            now, held = self._clock.now(), run.owner is not None
            self._runs[run.run_id] = row = MemoryRun(
                new=run,
                status=Status.RUNNING if held else Status.QUEUED,
                node=run.node,
                queue=run.queue,
                home=run.home,
                due_at=now,
                wake_at=now + (self._timing.lease_s if held else self._timing.grace_s),
                epoch=int(held),
                owner=run.owner,
                attempt=int(held),
                created_at=self._timestamp(),
            )
            row.started_at = row.created_at if held else None
            self._log_run(row, "flow_start", step=None, node=run.node)
            return Started(True, row.status, run.input_hash)

    def claim(self, run_id: str, step: int, *, owner: str) -> Claim | None:
        with self._lock:
            row, now = self._runs.get(run_id), self._clock.now()
            if row is None or row.step != step or row.status is not Status.QUEUED or row.due_at > now:
                return None
            row.status, row.owner, row.wake_at = Status.RUNNING, owner, now + self._timing.lease_s
            row.epoch += 1
            row.attempt += 1
            row.started_at = row.started_at or self._timestamp()
            unroutable_s = None if row.unroutable_at is None else now - row.unroutable_at
            where = (run_id, row.new.flow_name, step, row.node)
            position = Position(*where, row.epoch, owner, row.attempt, row.crashes, unroutable_s, row.queue)
            return Claim(position, self._state(row))

    def heartbeat(self, positions: Sequence[Position]) -> Mapping[str, str | None]:
        with self._lock:
            wants = {}
            for position in positions:
                row = self._runs.get(position.run_id)
                if row is None or row.status not in (Status.RUNNING, Status.QUEUED):
                    continue
                # Whatever its step: who holds the run from step to step may ask with an older position.
                if (row.epoch, row.owner) == (position.epoch, position.owner):
                    row.crashes -= int(row.status is Status.QUEUED)
                    row.status, row.wake_at = Status.RUNNING, self._clock.now() + self._timing.lease_s
                    wants[position.run_id] = row.want
            return wants

    def commit(self, position: Position, record: StepRecord) -> Status | None:
        with self._lock:
            row = self._held(position)
            if row is None:
                return None
            self._log(row, "node_start")
            self._log(row, "node_end", action=record.action, elapsed_ms=record.elapsed_s * 1000)
            row.states.append(record.state)
            row.step += 1
            row.crashes, row.dispatches, row.unroutable_at, row.failure = 0, 1, None, record.failure
            row.node, row.queue = record.next_node or row.node, record.next_queue
            status = Status.CANCELLED if row.want == "cancel" else record.then
            self._settle(row, status, wait_s=self._timing.lease_s if record.hold else self._timing.grace_s)
            row.attempt = int(status is Status.RUNNING)
            return status

    def fail(
        self, position: Position, failure: Failure, *, retry_in_s: float | None = None, hold: bool = False
    ) -> Status | None:
        with self._lock:
            row = self._held(position)
            if row is None or row.attempt != position.attempt:
                return None
            self._log_failure(row, failure, "node_error" if retry_in_s is None else "node_retry")
            row.failure, row.dispatches = failure, 0
            if row.want == "cancel":
                status = Status.CANCELLED
            elif retry_in_s is None:
                status = Status.FAILED
            else:
                status = Status.RUNNING if hold else Status.QUEUED
                row.attempt += int(hold)
            self._settle(row, status, delay_s=retry_in_s or 0.0, wait_s=self._timing.lease_s if hold else 0.0)
            return status

    def release(self, position: Position, *, delay_s: float = 0.0, unroutable: bool = False) -> Status | None:
        with self._lock:
            row = self._held(position)
            if row is None or row.status is not Status.RUNNING:
                return None
            if unroutable and row.unroutable_at is None:
                row.unroutable_at = self._clock.now()
            row.attempt -= 1
            status = Status.CANCELLED if row.want == "cancel" else Status.QUEUED
            self._settle(row, status, delay_s=delay_s, wait_s=0.0 if delay_s > 0 else self._timing.grace_s)
            return status

    def interrupt(self, home: str) -> list[str]:
        with self._lock:
            mine = [row for row in self._runs.values() if row.home == home and row.wake_at is not None]
            for row in mine:
                self._interrupt(row)
            return [row.new.run_id for row in mine]

    def cancel(self, run_id: str) -> Status:
        with self._lock:
            row = self._row(run_id)
            if row.status is Status.RUNNING:
                row.want = "cancel"
            elif not row.status.ended:
                row.epoch += 1
                self._settle(row, Status.CANCELLED)
            return row.status

    def resume(self, run_id: str, *, home: str | None) -> Hint:
        with self._lock:
            row = self._row(run_id)
            if row.status not in (Status.PAUSED, Status.FAILED):
                raise InvalidTransitionError(
                    f"run {run_id!r} is {row.status}: only a paused or failed run can be resumed", run_id
                )
            row.home, row.epoch = home, row.epoch + 1
            row.attempt, row.crashes, row.dispatches, row.failure = 0, 0, 1, None
            row.unroutable_at = row.completed_at = None
            self._ended.pop(run_id, None)
            self._settle(row, Status.QUEUED, wait_s=self._timing.grace_s)
            self._log_run(row, "run_resumed")
            return Hint(run_id, row.step, row.queue)

    def sweep(self, *, home: str | None = None) -> list[Hint]:
        with self._lock:
            hints = []
            for row in [row for row in self._runs.values() if self._is_due(row, home)]:
                self._wake(row, home)
                if row.status is Status.QUEUED:
                    hints.append(Hint(row.new.run_id, row.step, row.queue))
            return hints

    def get_run(self, run_id: str) -> RunRow | None:
        with self._lock:
            row = self._runs.get(run_id)
            return None if row is None else row.shown()

    def get_changes(self, known: Mapping[str, str]) -> Mapping[str, Sighting | None]:
        changes: dict[str, Sighting | None] = {}
        with self._lock:
            for run_id, mark in known.items():
                row = self._runs.get(run_id)
                if row is None:
                    changes[run_id] = None
                elif row.mark != mark:
                    changes[run_id] = row.sighted()
        return changes

    def get_events(self, run_id: str, *, after: int = 0) -> list[EventRow]:
        with self._lock:
            row = self._runs.get(run_id)
            return [] if row is None else [event for event in row.events if event["id"] > after]

    def get_state(self, run_id: str) -> str | None:
        with self._lock:
            row = self._runs.get(run_id)
            return None if row is None else self._state(row)

    def _is_due(self, row: MemoryRun, home: str | None) -> bool:
        """Whether it is overdue, or so long overdue that its home must have gone."""
        if row.wake_at is None or (row.home is None and home is not None):
            return False
        return self._clock.now() - row.wake_at > (0.0 if row.home == home else self._timing.lease_s)

    def _wake(self, row: MemoryRun, home: str | None) -> None:
        now = self._clock.now()
        if row.status is Status.RUNNING:
            self._log(row, "step_lost")
            row.crashes += 1
        if row.want == "cancel" or row.home != home:
            self._interrupt(row)
            return
        if row.status is Status.RUNNING:
            if row.crashes > self._timing.max_crashes:
                row.epoch += 1
                why = POISON_TEXT.format(node=row.node, step=row.step, crashes=row.crashes)
                row.failure = Failure(POISON, why)
                self._log(row, "node_error", error=why)
                self._settle(row, Status.FAILED)
                return
            row.status, row.due_at = Status.QUEUED, now
        row.wake_at = now + self._timing.backoff_s(row.dispatches)
        row.dispatches += 1

    def _interrupt(self, row: MemoryRun) -> None:
        row.epoch += 1
        if row.want == "cancel":
            self._settle(row, Status.CANCELLED)
            return
        row.failure = Failure(INTERRUPTED, INTERRUPTED_TEXT.format(run_id=row.new.run_id))
        self._settle(row, Status.PAUSED)
        self._log_run(row, "run_interrupted", error=row.failure.message)

    def _settle(self, row: MemoryRun, status: Status, *, delay_s: float = 0.0, wait_s: float = 0.0) -> None:
        """Give the row its new status and everything that depends on it."""
        now = self._clock.now()
        live = status in (Status.QUEUED, Status.RUNNING)
        row.status, row.want = status, (row.want if status is Status.RUNNING else None)
        row.due_at = now + delay_s
        row.wake_at = row.due_at + wait_s if live else None
        if status is not Status.RUNNING:
            row.owner = None
        if status.ended:
            row.completed_at = self._timestamp()
            self._log_run(row, "flow_end", action=status.value)
            self._forget_oldest(row.new.run_id)

    def _forget_oldest(self, run_id: str) -> None:
        self._ended[run_id] = None
        while len(self._ended) > MAX_ENDED_RUNS:
            oldest, _ = self._ended.popitem(last=False)
            del self._runs[oldest]

    def _held(self, position: Position) -> MemoryRun | None:
        row = self._runs.get(position.run_id)
        if row is None or row.status not in (Status.RUNNING, Status.QUEUED):
            return None
        mine = (row.step, row.epoch, row.owner) == (position.step, position.epoch, position.owner)
        return row if mine else None

    def _row(self, run_id: str) -> MemoryRun:
        row = self._runs.get(run_id)
        if row is None:
            raise RunNotFoundError(f"no run {run_id!r} in this process", run_id)
        return row

    def _state(self, row: MemoryRun) -> str:
        return row.states[-1] if row.states else row.new.input

    def _timestamp(self) -> str:
        return datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds")

    def _log_failure(self, row: MemoryRun, failure: Failure, event: str) -> None:
        elapsed_ms = None if failure.elapsed_s is None else failure.elapsed_s * 1000
        if elapsed_ms is not None:
            self._log(row, "node_start")
        self._log(row, event, error=failure.message, elapsed_ms=elapsed_ms)

    def _log_run(self, row: MemoryRun, event: str, **fields: Any) -> None:
        """Log something about the run as a whole, which no worker did."""
        self._log(row, event, **{"attempt": None, "node": None, "worker": None, **fields})

    def _log(self, row: MemoryRun, event: str, *, error: str | None = None, **fields: Any) -> None:
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
                ts=self._timestamp(),
            )
        )
