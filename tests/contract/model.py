"""The step protocol once more, as short as it can be said: what each verb must answer and leave behind.

It knows no threads, no SQL and no clock but a number. A ledger that disagrees with it is wrong, or this is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pocoflow.engine.owner import worker_of
from pocoflow.engine.records import INTERRUPTED, POISON, SAME_HOME, Position, Status
from pocoflow.engine.timing import OVERDUE_S
from tests.contract.subjects import TIMING

LIVE = (Status.QUEUED, Status.RUNNING)


@dataclass
class ModelRun:
    """One run; `due` and `wake` are moments of the model's time."""

    home: str | None
    status: Status
    due: float
    wake: float | None
    epoch: int = 0
    owner: str | None = None
    attempt: int = 0
    crashes: int = 0
    dispatches: int = 1
    step: int = 0
    want: str | None = None
    unroutable: float | None = None
    error: str | None = None
    log: list[tuple[str, int | None]] = field(default_factory=lambda: [("flow_start", None)])


class Model:
    """All runs, by id."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs: dict[str, ModelRun] = {}

    def live(self) -> list[str]:
        return [run_id for run_id, run in self.runs.items() if run.status in LIVE]

    def running(self) -> list[str]:
        return [run_id for run_id, run in self.runs.items() if run.status is Status.RUNNING]

    def claimable(self) -> list[str]:
        return [
            run_id for run_id, run in self.runs.items() if run.status is Status.QUEUED and run.due <= self.now
        ]

    def stopped(self) -> list[str]:
        """Those that can be resumed."""
        return [
            run_id
            for run_id, run in self.runs.items()
            if run.status in (Status.PAUSED, Status.FAILED) or run.want == "pause"
        ]

    def overdue(self) -> bool:
        return any(run.wake is not None and run.wake < self.now for run in self.runs.values())

    def holds(self, position: Position) -> bool:
        return self._held(position) is not None

    def start(self, run_id: str, home: str | None, owner: str | None) -> bool:
        if run_id in self.runs:
            return False
        run = ModelRun(home, Status.QUEUED, self.now, self.now + TIMING.grace_s)
        if owner is not None:
            self._hold(run, owner)
        self.runs[run_id] = run
        return True

    def claim(self, run_id: str, step: int, owner: str) -> bool:
        run = self.runs[run_id]
        if run_id not in self.claimable() or run.step != step:
            return False
        self._hold(run, owner)
        return True

    def heartbeat(self, positions: Iterable[Position]) -> dict[str, str | None]:
        wants: dict[str, str | None] = {}
        for position in positions:
            run = self.runs[position.run_id]
            mine = (run.epoch, run.owner) == (position.epoch, position.owner)
            if mine and run.status in LIVE:
                run.crashes -= int(run.status is Status.QUEUED)
                run.status = Status.RUNNING
                run.wake = self.now + TIMING.lease_s
                wants[position.run_id] = run.want
        return wants

    def commit(self, position: Position, then: Status) -> Status | None:
        run = self._held(position)
        if run is None:
            return None
        run.log += [("node_start", run.step), ("node_end", run.step)]
        run.step += 1
        run.crashes, run.dispatches, run.unroutable = 0, 1, None
        run.error = "ValueError" if then is Status.FAILED else None
        then = self._wanted(run, then)
        run.attempt = int(then is Status.RUNNING)
        wait = TIMING.lease_s if then is Status.RUNNING else TIMING.grace_s
        return self._settle(run, then, due=self.now, wait=wait)

    def fail(self, position: Position, retry_in_s: float | None, hold: bool) -> Status | None:
        run = self._held(position)
        if run is None or run.attempt != position.attempt:
            return None
        run.log.append(("node_error" if retry_in_s is None else "node_retry", run.step))
        run.error, run.dispatches = "ValueError", 0
        if retry_in_s is None:
            return self._settle(run, self._wanted(run, Status.FAILED), due=self.now)
        then = self._wanted(run, Status.RUNNING if hold else Status.QUEUED)
        run.attempt += int(then is Status.RUNNING)
        return self._settle(run, then, due=self.now + retry_in_s, wait=TIMING.lease_s if hold else 0.0)

    def release(self, position: Position, delay_s: float, unroutable: bool) -> Status | None:
        run = self._held(position)
        if run is None or run.status is not Status.RUNNING:
            return None
        run.attempt -= 1
        run.dispatches = 0 if delay_s else run.dispatches
        if unroutable and run.unroutable is None:
            run.unroutable = self.now
        then, due = self._wanted(run, Status.QUEUED), self.now + delay_s
        return self._settle(run, then, due=due, wait=0.0 if delay_s else TIMING.grace_s)

    def cancel(self, run_id: str, force: bool) -> Status:
        run = self.runs[run_id]
        if run.status is Status.RUNNING and not force:
            run.want = "cancel"
        elif not run.status.ended:
            run.epoch += 1
            self._settle(run, Status.CANCELLED)
        return run.status

    def pause(self, run_id: str) -> Status:
        run = self.runs[run_id]
        if run.status is Status.RUNNING:
            run.want = run.want or "pause"
        elif run.status is Status.QUEUED:
            run.epoch += 1
            self._settle(run, Status.PAUSED)
        return run.status

    def resume(self, run_id: str, home: str | None) -> bool:
        """Whether there is something to dispatch."""
        run = self.runs[run_id]
        if run.status is Status.RUNNING:
            run.want = None
            return False
        sent = home != SAME_HOME and run.due <= self.now
        run.home = run.home if home == SAME_HOME else home
        run.error, run.unroutable = None, None
        run.attempt, run.crashes, run.dispatches = 0, 0, int(sent)
        run.epoch += 1
        run.log.append(("run_resumed", run.step))
        self._settle(run, Status.QUEUED, due=max(run.due, self.now), wait=TIMING.grace_s if sent else 0.0)
        return True

    def interrupt(self, home: str) -> list[str]:
        mine = [run_id for run_id, run in self.runs.items() if run.home == home and run.status in LIVE]
        for run_id in mine:
            self._stop(self.runs[run_id], Status.PAUSED, INTERRUPTED)
        return mine

    def sweep(self, home: str | None) -> list[tuple[str, int]]:
        due = [(run_id, run) for run_id, run in self.runs.items() if self._is_due(run, home)]
        for _, run in due:
            self._wake(run, home)
        return [(run_id, run.step) for run_id, run in due if run.status is Status.QUEUED]

    def expire(self, run_id: str, step: int, worker: str) -> bool:
        run = self.runs[run_id]
        held = run.status is Status.RUNNING and worker_of(run.owner or "") == worker
        hinted = run.status is Status.QUEUED and run.dispatches == 1 and run.due <= self.now
        if run.step < step or not (held or hinted):
            return False
        run.wake = self.now - OVERDUE_S
        run.due = min(run.due, run.wake)
        return True

    def _is_due(self, run: ModelRun, home: str | None) -> bool:
        if run.wake is None or (run.home is None and home is not None):
            return False
        return self.now - run.wake > (0.0 if run.home == home else TIMING.lease_s)

    def _wake(self, run: ModelRun, home: str | None) -> None:
        if run.status is Status.RUNNING:
            run.log.append(("step_lost", run.step))
            run.crashes += 1
            run.due = self.now
        if run.want == "cancel" or run.home != home:
            self._stop(run, Status.PAUSED, INTERRUPTED)
        elif run.crashes > TIMING.max_crashes:
            run.log.append(("node_error", run.step))
            self._stop(run, Status.FAILED, POISON)
        elif run.want == "pause":
            self._stop(run, Status.PAUSED, INTERRUPTED)
        else:
            run.status = Status.QUEUED
            run.wake = self.now + min(TIMING.grace_s * 2**run.dispatches, 600.0)
            run.dispatches += 1

    def _stop(self, run: ModelRun, then: Status, error: str) -> None:
        run.epoch += 1
        then = self._wanted(run, then)
        if then is Status.FAILED:
            run.error = error
        self._settle(run, then, why=None if run.want else error)

    def _held(self, position: Position) -> ModelRun | None:
        run = self.runs[position.run_id]
        mine = (run.step, run.epoch, run.owner) == (position.step, position.epoch, position.owner)
        return run if mine and run.status in LIVE else None

    def _hold(self, run: ModelRun, owner: str) -> None:
        run.status, run.owner, run.wake = Status.RUNNING, owner, self.now + TIMING.lease_s
        run.epoch += 1
        run.attempt += 1

    def _wanted(self, run: ModelRun, then: Status) -> Status:
        if run.want == "cancel":
            return Status.CANCELLED
        return Status.PAUSED if run.want == "pause" and not then.ended else then

    def _settle(
        self,
        run: ModelRun,
        then: Status,
        *,
        due: float | None = None,
        wait: float = 0.0,
        why: str | None = None,
    ) -> Status:
        run.due = run.due if due is None else due
        run.wake = run.due + wait if then in LIVE else None
        if then is Status.PAUSED:
            run.error = why
            run.log.append(("run_interrupted" if why else "run_paused", run.step))
        run.status, run.want = then, None
        if then is not Status.RUNNING:
            run.owner = None
        if then.ended:
            run.log.append(("flow_end", run.step))
        return then
