"""The ledger that lives and dies with this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import inf

from pocoflow import codec
from pocoflow.engine.memory_reads import MemoryReads
from pocoflow.engine.memory_run import Journal, MemoryRun
from pocoflow.engine.owner import worker_of
from pocoflow.engine.ports import Clock
from pocoflow.engine.records import (
    INTERRUPTED,
    LIVE,
    OVERDUE,
    POISON,
    SAME_HOME,
    STOPPED,
    Claim,
    Failure,
    Hint,
    KeptGraph,
    NewRun,
    Position,
    Started,
    Status,
    StepRecord,
    before,
    refusal,
)
from pocoflow.engine.secrecy import Cipher, InClear
from pocoflow.engine.timing import OVERDUE_S, Retention, Timing
from pocoflow.engine.wording import INTERRUPTED_TEXT, OVERDUE_TEXT, POISON_TEXT
from pocoflow.store import Store

MAX_ENDED_RUNS = 10_000
_CLAIMABLE = before(Status.RUNNING)


class MemoryLedger(MemoryReads):
    """The whole protocol in a dict; it forgets ended runs, oldest first, beyond `MAX_ENDED_RUNS`."""

    def __init__(
        self, clock: Clock, timing: Timing, *, max_store_mb: float = inf, cipher: Cipher | None = None
    ) -> None:
        super().__init__(cipher or InClear())
        self._clock = clock
        self._timing = timing
        self._max_store_mb = max_store_mb
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._journal = Journal(clock)

    def encode(self, store: Store) -> Mapping[str, str]:
        return codec.dump_values(store.as_dict(), max_mb=self._max_store_mb)

    def encode_schema(self, store: Store) -> str | None:
        return store.schema.dumps() if store.schema else None

    def start(self, run: NewRun) -> Started:
        with self._lock:
            known = self._runs.get(run.run_id)
            if known is not None:
                error = known.failure.error_type if known.failure else None
                return Started(False, known.status, known.new.input_hash, error)
            now, held = self._clock.now(), run.owner is not None
            self._runs[run.run_id] = row = MemoryRun.begun(run, now, self._journal.timestamp())
            self._blobs.keep(run.run_id, run.input)
            self._keep_graph(run.flow_hash, run.graph)
            row.wake_by(now + (self._timing.lease_s if held else self._timing.grace_s))
            forked = None if run.parent_run_id is None else "fork"
            self._journal.run(row, "flow_start", step=None, node=run.node, action=forked)
            return Started(True, row.status, run.input_hash)

    def claim(self, run_id: str, step: int, *, owner: str) -> Claim | None:
        with self._lock:
            row, now = self._runs.get(run_id), self._clock.now()
            if row is None or row.step != step or row.status not in _CLAIMABLE or row.due_at > now:
                return None
            row.status, row.owner = Status.RUNNING, owner
            row.wake_by(now + self._timing.lease_s)
            row.epoch += 1
            row.attempt += 1
            row.started_at = row.started_at or self._journal.timestamp()
            unroutable_s = None if row.unroutable_at is None else now - row.unroutable_at
            left_s = None if row.deadline_at is None else row.deadline_at - now
            where = (run_id, row.new.flow_name, step, row.node)
            more = (unroutable_s, row.queue, left_s)
            position = Position(*where, row.epoch, owner, row.attempt, row.crashes, *more)
            position.flow_hash = row.new.flow_hash
            return Claim(position, self._blobs.saved(row, row.step - 1, self.cipher))

    def heartbeat(self, positions: Sequence[Position]) -> Mapping[str, str | None]:
        with self._lock:
            wants = {}
            for position in positions:
                row = self._runs.get(position.run_id)
                if row is None or row.status not in LIVE:
                    continue
                # Whatever its step: who holds the run from step to step may ask with an older position.
                if (row.epoch, row.owner) == (position.epoch, position.owner):
                    row.crashes -= int(row.status is Status.QUEUED)
                    row.status = Status.RUNNING
                    row.wake_by(self._clock.now() + self._timing.lease_s)
                    wants[position.run_id] = row.want
            return wants

    def commit(self, position: Position, record: StepRecord) -> Status | None:
        with self._lock:
            row = self._held(position)
            if row is None:
                return None
            self._journal.step(row, "node_start")
            self._journal.step(row, "node_end", action=record.action, elapsed_ms=record.elapsed_s * 1000)
            row.checkpoints.append(record.checkpoint)
            row.ahead.append((record.next_node, record.next_queue))
            self._blobs.keep(position.run_id, record.checkpoint)
            row.step += 1
            row.crashes, row.dispatches, row.unroutable_at, row.failure = 0, 1, None, record.failure
            row.node, row.queue = record.next_node or row.node, record.next_queue
            status = row.unless_wanted(record.then)
            wait_s = self._timing.lease_s if record.hold else self._timing.grace_s
            self._settle(row, status, due_at=self._clock.now(), wait_s=wait_s)
            row.attempt = int(status is Status.RUNNING)
            return status

    def fail(
        self, position: Position, failure: Failure, *, retry_in_s: float | None = None, hold: bool = False
    ) -> Status | None:
        with self._lock:
            row = self._held(position)
            if row is None or row.attempt != position.attempt:
                return None
            self._journal.failure(row, failure, "node_error" if retry_in_s is None else "node_retry")
            row.failure, row.dispatches = failure, 0
            again = Status.RUNNING if hold else Status.QUEUED
            status = row.unless_wanted(Status.FAILED if retry_in_s is None else again)
            row.attempt += int(status is Status.RUNNING)
            due_at = self._clock.now() + (retry_in_s or 0.0)
            self._settle(row, status, due_at=due_at, wait_s=self._timing.lease_s if hold else 0.0)
            return status

    def release(self, position: Position, *, delay_s: float = 0.0, unroutable: bool = False) -> Status | None:
        with self._lock:
            row = self._held(position)
            if row is None or row.status is not Status.RUNNING:
                return None
            if unroutable and row.unroutable_at is None:
                row.unroutable_at = self._clock.now()
            row.attempt -= 1
            if delay_s > 0:
                row.dispatches = 0  # nobody sends a hint for it but a sweep
            status, due_at = row.unless_wanted(Status.QUEUED), self._clock.now() + delay_s
            self._settle(row, status, due_at=due_at, wait_s=0.0 if delay_s > 0 else self._timing.grace_s)
            return status

    def place(self, position: Position, node: str | None, queue: str | None) -> Status | None:
        with self._lock:
            row = self._held(position)
            if row is None or row.status is not Status.RUNNING:
                return None
            row.node, row.queue, row.attempt = node or row.node, queue, row.attempt - 1
            status = row.unless_wanted(Status.COMPLETED if node is None else Status.QUEUED)
            self._settle(row, status, due_at=self._clock.now(), wait_s=self._timing.grace_s)
            return status

    def adopt(self, position: Position, *, graph: str, fingerprint: str) -> Status | None:
        with self._lock:
            row = self._held(position)
            if row is None or row.status is not Status.RUNNING:
                return None
            row.new = replace(row.new, flow_hash=fingerprint)
            self._keep_graph(fingerprint, graph)
            if not any((e["event"], e["action"]) == ("flow_changed", fingerprint) for e in row.events):
                self._journal.step(row, "flow_changed", action=fingerprint)
            return row.status

    def strand(self, position: Position, why: Failure) -> Status | None:
        with self._lock:
            row = self._held(position)
            if row is None or row.status is not Status.RUNNING:
                return None
            row.attempt -= 1
            self._settle(row, row.unless_wanted(Status.PAUSED), why=None if row.want else why)
            return row.status

    def interrupt(self, home: str) -> list[str]:
        with self._lock:
            mine = [row for row in self._runs.values() if row.home == home and row.wake_at is not None]
            for row in mine:
                self._interrupt(row)
            return [row.new.run_id for row in mine]

    def cancel(self, run_id: str, *, force: bool = False) -> Status:
        with self._lock:
            row = self._row(run_id)
            if row.status is Status.RUNNING and not force:
                row.want = "cancel"
            elif row.status in before(Status.CANCELLED):
                row.epoch += 1
                self._settle(row, Status.CANCELLED)
            return row.status

    def pause(self, run_id: str) -> Status:
        with self._lock:
            row = self._row(run_id)
            if row.status.ended:
                raise refusal(run_id, row.status, "paused")
            if row.status is Status.RUNNING:
                row.want = row.want or "pause"
            elif row.status in before(Status.PAUSED):
                row.epoch += 1
                self._settle(row, Status.PAUSED)
            return row.status

    def resume(self, run_id: str, *, home: str | None) -> Hint | None:
        with self._lock:
            row = self._row(run_id)
            if row.status is Status.RUNNING and row.want == "pause":
                row.want = None
                return None
            if row.status not in STOPPED:
                raise refusal(run_id, row.status, "resumed")
            row.home, row.epoch = row.home if home == SAME_HOME else home, row.epoch + 1
            row.attempt, row.crashes, row.failure = 0, 0, None
            row.unroutable_at = row.completed_at = None
            self._ended.pop(run_id, None)
            now = self._clock.now()
            if row.is_overdue(now):  # who lets it go on whose time is up gives it its time once more
                row.deadline_at = now + (row.new.timeout_s or 0.0)
            # What is left of the delay before a retry is still waited for.
            wait_s = 0.0 if home == SAME_HOME or row.due_at > now else self._timing.grace_s
            row.dispatches = int(wait_s > 0)  # where no hint is sent at once, a sweep sends the first one
            self._settle(row, Status.QUEUED, due_at=max(now, row.due_at), wait_s=wait_s)
            self._journal.run(row, "run_resumed")
            return Hint(run_id, row.step, row.queue)

    def sweep(self, *, home: str | None = None, crowded: Collection[str | None] = ()) -> list[Hint]:
        with self._lock:
            hints, now = [], self._clock.now()
            for row in [row for row in self._runs.values() if row.is_due(now, self._timing, home, crowded)]:
                self._wake(row, home)
                if row.status is Status.QUEUED:
                    hints.append(Hint(row.new.run_id, row.step, row.queue))
            return hints

    def prune(self, retention: Retention) -> bool:
        with self._lock:
            limit = self._journal.timestamp(ago_s=retention.older_than_s)
            for run_id in list(self._ended):
                row = self._runs[run_id]
                kept = retention.keep_failed and row.status is Status.FAILED
                if (row.completed_at or limit) < limit and not kept:
                    self._forget(run_id)
            return False

    def expire(self, run_id: str, step: int, *, worker: str) -> bool:
        with self._lock:
            row = self._runs.get(run_id)
            if row is None or row.step < step:
                return False
            held = row.status is Status.RUNNING and worker_of(row.owner or "") == worker
            hinted = row.status is Status.QUEUED and row.dispatches == 1 and row.due_at <= self._clock.now()
            if held or hinted:
                row.wake_at = self._clock.now() - OVERDUE_S
                row.due_at = min(row.due_at, row.wake_at)  # nothing is to be looked at before it is due
            return held or hinted

    def _wake(self, row: MemoryRun, home: str | None) -> None:
        now, overdue = self._clock.now(), row.is_overdue(self._clock.now())
        if row.status is Status.RUNNING and not overdue:
            self._journal.step(row, "step_lost")
            row.crashes, row.due_at = row.crashes + 1, now
        if overdue and row.want != "cancel":
            self._end(row, OVERDUE, OVERDUE_TEXT)
        elif row.want == "cancel" or row.home != home:
            self._interrupt(row)
        elif row.status is Status.RUNNING and row.crashes > self._timing.max_crashes:
            why = POISON_TEXT.format(node=row.node, step=row.step, crashes=row.crashes)
            self._end(row, POISON, why)
        elif row.want == "pause":
            row.epoch += 1
            self._settle(row, Status.PAUSED)
        else:
            row.status = Status.QUEUED
            row.wake_by(now + self._timing.backoff_s(row.dispatches))
            row.dispatches += 1

    def _end(self, row: MemoryRun, error_type: str, why: str) -> None:
        """End a run as failed for a reason that is not its node's."""
        row.epoch += 1
        row.failure = Failure(error_type, why)
        self._journal.step(row, "node_error", error=why)
        self._settle(row, Status.FAILED)

    def _interrupt(self, row: MemoryRun) -> None:
        row.epoch += 1
        why = Failure(INTERRUPTED, INTERRUPTED_TEXT.format(run_id=row.new.run_id))
        self._settle(row, row.unless_wanted(Status.PAUSED), why=None if row.want else why)

    def _settle(
        self,
        row: MemoryRun,
        status: Status,
        *,
        due_at: float | None = None,
        wait_s: float = 0.0,
        why: Failure | None = None,
    ) -> None:
        """Give the row its new status and everything that depends on it; a pause may have a reason."""
        row.status, row.want = status, (row.want if status is Status.RUNNING else None)
        row.due_at = row.due_at if due_at is None else due_at
        row.wake_at = None
        if status in LIVE:
            row.wake_by(row.due_at + wait_s)
        if status is not Status.RUNNING:
            row.owner = None
        if status is Status.PAUSED:
            row.failure = why
            interrupted = why is not None and why.error_type == INTERRUPTED
            self._journal.run(
                row, "run_interrupted" if interrupted else "run_paused", error=why and why.message
            )
        if status.ended:
            row.completed_at = self._journal.timestamp()
            self._journal.run(row, "flow_end", action=status.value)
            self._forget_oldest(row.new.run_id)

    def _forget_oldest(self, run_id: str) -> None:
        self._ended[run_id] = None
        if len(self._ended) > MAX_ENDED_RUNS:
            self._forget(next(iter(self._ended)))

    def _forget(self, run_id: str) -> None:
        del self._ended[run_id]
        self._blobs.forget(self._runs.pop(run_id))

    def _keep_graph(self, fingerprint: str, text: str | None) -> None:
        if text is not None:
            self._graphs.setdefault(fingerprint, KeptGraph(text, self._clock.now()))

    def _held(self, position: Position) -> MemoryRun | None:
        row = self._runs.get(position.run_id)
        if row is None or row.status not in LIVE:
            return None
        mine = (row.step, row.epoch, row.owner) == (position.step, position.epoch, position.owner)
        return row if mine else None
