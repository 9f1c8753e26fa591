"""Move one run by one step. The only code that does.

Whoever calls it decides what to do with the outcome: the inline driver calls again, a Celery task sends
a message. So a flow means the same wherever it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from pocoflow.engine.graph import Definition
from pocoflow.engine.history import Checkpoint, Trail
from pocoflow.engine.ports import Ports, Watch
from pocoflow.engine.records import (
    Continue,
    Failure,
    Fenced,
    Finish,
    Hint,
    Limit,
    Outcome,
    Position,
    Status,
    StepRecord,
    Suspend,
)
from pocoflow.engine.retry import delay_before_retry
from pocoflow.engine.snapshot import write_snapshot
from pocoflow.engine.step import NodeRun, StepFailure, describe
from pocoflow.engine.wording import OVERDUE_TEXT
from pocoflow.errors import (
    MaxStepsError,
    RunTimeoutError,
    StepTimeoutError,
    StoreError,
    StoreSerializationError,
)
from pocoflow.logging import ERROR, INFO, WARNING, get_logger, log_event
from pocoflow.node import current_step
from pocoflow.store import Store

log = get_logger("node")


def advance(
    position: Position,
    store: Store,
    trail: Trail,
    *,
    flow: Definition,
    ports: Ports,
    keep: Callable[[str | None], bool],
    sleep_up_to_s: float,
) -> Outcome:
    """Execute the step that this process holds, commit it, and say where the run goes from here.

    Args:
        position: From `Ledger.claim`; it moves along with the run as long as this process keeps it.
        store: The run's data; the step changes it in place.
        trail: Stands at the last checkpoint, and moves along too.
        flow: What to run.
        ports: Ledger, flags, watcher, clock.
        keep: Told the queue of the next node; whether to go on with that here or leave it to any worker.
        sleep_up_to_s: The longest delay before another try that is waited out here.
    """
    watch = ports.watcher.watch(position)
    step = HeldStep(position, store, trail, flow, ports, watch)
    token = current_step.set(step)
    try:
        step.fire("node_start")
        while (outcome := step.attempt(keep, sleep_up_to_s)) is None:
            pass
        return outcome
    finally:
        current_step.reset(token)
        watch.done()


def give_back(position: Position, *, ports: Ports) -> Outcome:
    """Let go of a step without executing it; a cancel that is waiting takes effect."""
    return where_given_back(position, ports.ledger.release(position))


def where_given_back(position: Position, status: Status | None) -> Outcome:
    """Say where a run goes whose step was given back with this answer."""
    if status is None:
        return Fenced(position.run_id, position.step)
    if status.ended:
        return Finish(position.run_id, status, position.step)
    if status is Status.PAUSED:
        return Suspend(position.run_id, status)
    return Continue(Hint(position.run_id, position.step, position.queue), None)


def fail(
    position: Position, error: BaseException, *, ports: Ports, failure: Failure | None = None
) -> Outcome:
    """End the run as failed at this step; `failure` describes the error if the step was begun."""
    status = ports.ledger.fail(position, failure or describe(error))
    if status is None:
        return Fenced(position.run_id, position.step)
    return Finish(position.run_id, status, position.step, error)


class HeldStep:
    """One held step; also what its node sees of it, as `current_step`."""

    __slots__ = (
        "_began",
        "_flow",
        "_limit",
        "_node",
        "_node_run",
        "_ports",
        "_run_ends",
        "_store",
        "_trail",
        "_watch",
        "position",
    )

    def __init__(
        self, position: Position, store: Store, trail: Trail, flow: Definition, ports: Ports, watch: Watch
    ) -> None:
        self.position = position
        self._store = store
        self._trail = trail
        self._flow = flow
        self._ports = ports
        self._watch = watch
        self._node = flow.graph.nodes[position.node]
        self._node_run = NodeRun(self._node, store, self._overran)
        self._began = ports.clock.monotonic()
        self._run_ends = None if position.left_s is None else self._began + position.left_s
        self._limit: Limit | None = None

    @property
    def cancelled(self) -> bool:
        return self._overran() or self._watch.cancelled

    @property
    def deadline(self) -> float | None:
        return None if self._limit is None else self._limit.at

    @property
    def idempotency_key(self) -> str:
        return self.position.idempotency_key

    @property
    def resources(self) -> Mapping[str, Any]:
        return self._flow.resources

    def attempt(self, keep: Callable[[str | None], bool], sleep_up_to_s: float) -> Outcome | None:
        """Try the node once. None: the try failed, and another one is due here and now."""
        self._began = self._ports.clock.monotonic()
        self._limit = self._next_limit()
        try:
            record = self._record(self._execute(), keep)
        except StepFailure as failure:
            return self._go_on_after(failure, sleep_up_to_s)
        except StoreError as unsaved:
            return self._fail(unsaved)
        return self._commit(record)

    def fire(self, event: str, *args: object) -> None:
        self._flow.hooks.fire(event, self.position.node, *args, store=self._store)

    def _execute(self) -> str:
        limit = self._limit
        if limit is None:
            return self._run_node()
        if self._overran():
            raise StepFailure(limit.error, in_exec=True)
        self._watch.arm(limit)
        try:
            action = self._run_node()
        except StepFailure as failure:
            if not self._overran():
                raise
            raise StepFailure(limit.error, in_exec=True) from failure
        finally:
            self._watch.disarm()
        if self._overran():
            raise StepFailure(limit.error, in_exec=True)
        return action

    def _run_node(self) -> str:
        try:
            return self._node_run.attempt()
        except StepFailure as failure:
            if not failure.in_exec or self._overran() or self._delay(failure.error) is not None:
                raise
            if self._watch.cancelled:  # nobody wants a result any more
                raise
            error = failure.error
        # Not within the `except`: what the fallback raises is no error in the handling of the first one.
        action = self._node_run.fall_back(error)
        self._log("exec failed for good, its fallback stands in", error, level=WARNING)
        return action

    def _next_limit(self) -> Limit | None:
        """What ends first: the time for this try, or that for the whole run."""
        timeout, ends, position = self._node.timeout, self._run_ends, self.position
        if timeout is not None and (ends is None or self._began + timeout < ends):
            error = StepTimeoutError(
                f"step {position.step} (node {position.node!r}) exceeded its timeout of {timeout:g} s",
                position.run_id,
            )
            return Limit(self._began + timeout, error, self._delay(error))
        return None if ends is None else Limit(ends, RunTimeoutError(OVERDUE_TEXT, position.run_id), None)

    def _overran(self) -> bool:
        return self._limit is not None and self._ports.clock.monotonic() >= self._limit.at

    def _delay(self, error: BaseException) -> float | None:
        return delay_before_retry(self._node, self.position.tries, error)

    def _go_on_after(self, failure: StepFailure, sleep_up_to_s: float) -> Outcome | None:
        delay_s = None
        if self._limit is not None and failure.error is self._limit.error:
            delay_s = self._limit.retry_in_s
        elif failure.in_exec:
            delay_s = self._delay(failure.error)
        # What `post` has changed in the store is undone only by loading it anew, which nobody does inline.
        posted = self._node_run.posted
        if delay_s is None or (posted and sleep_up_to_s == inf):
            return self._fail(failure.error)
        return self._retry(failure.error, delay_s, stay=delay_s < sleep_up_to_s and not posted)

    def _retry(self, error: BaseException, delay_s: float, *, stay: bool) -> Outcome | None:
        position, failed = self.position, self._described(error)
        status = self._ports.ledger.fail(position, failed, retry_in_s=delay_s, hold=stay)
        if status is None:
            return Fenced(position.run_id, position.step)
        self._log("step failed, will be tried again", error, level=WARNING, retry_in_s=delay_s)
        if status.ended:
            return Finish(position.run_id, status, position.step, error)
        if status is not Status.RUNNING:
            return Suspend(position.run_id, status, delay_s)
        position.attempt += 1
        self._sleep(delay_s)
        return give_back(position, ports=self._ports) if self._watch.cancelled else None

    def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run."""
        left_s = seconds if self._run_ends is None else self._run_ends - self._ports.clock.monotonic()
        self._ports.clock.sleep(max(0.0, min(seconds, left_s)))

    def _fail(self, error: BaseException) -> Outcome:
        outcome = fail(self.position, error, ports=self._ports, failure=self._described(error))
        if isinstance(outcome, Finish) and outcome.status is Status.FAILED:
            self.fire("node_error", error)
            self._log("step failed, the run ends", error, level=ERROR)
        return outcome

    def _described(self, error: BaseException) -> Failure:
        return describe(error, self._elapsed_s(), secrets=self._store.secret_values)

    def _elapsed_s(self) -> float:
        return self._ports.clock.monotonic() - self._began

    def _record(self, action: str, keep: Callable[[str | None], bool]) -> StepRecord:
        """Put together what to commit; raises StoreError when the store cannot be written."""
        elapsed_s, position, flow = self._elapsed_s(), self.position, self._flow
        record = StepRecord(
            action=action,
            next_node=flow.graph.after(position.node, action),
            next_queue=None,
            checkpoint=self._saved(),
            elapsed_s=elapsed_s,
        )
        if record.next_node is not None:
            record.next_queue = flow.graph.nodes[record.next_node].queue
            record.hold = keep(record.next_queue)
            if position.step + 1 >= flow.max_steps:
                record.failure = describe(self._too_many_steps())
        return record

    def _saved(self) -> Checkpoint:
        position, folder = self.position, self._flow.checkpoint_dir
        try:
            texts = self._ports.ledger.encode(self._store)
            if folder is not None:
                write_snapshot(folder, position.step, position.node, self._store)
        except StoreSerializationError as exc:
            raise StoreSerializationError(f"{exc} (node {position.node!r})") from exc
        except OSError as exc:
            raise StoreError(f"snapshot after node {position.node!r} cannot be written: {exc}") from exc
        return self._trail.next(texts, whole=position.step == 0)

    def _commit(self, record: StepRecord) -> Outcome:
        position = self.position
        status = self._ports.ledger.commit(position, record)
        if status is None:
            self._log("step was taken over, its result is discarded", level=WARNING)
            return Fenced(position.run_id, position.step)
        self.fire("node_end", record.action, record.elapsed_s)
        self._log("step done", action=record.action, elapsed_ms=round(record.elapsed_s * 1000, 3))
        steps = position.step + 1
        if status is Status.RUNNING or status is Status.QUEUED:
            return self._move_on(record, held=status is Status.RUNNING)
        if status is Status.PAUSED:
            return Suspend(position.run_id, status)
        if status is Status.COMPLETED:
            self._flow.hooks.fire("flow_end", steps, store=self._store)
        log_event(log, "run ended", run_id=position.run_id, status=status.value, steps=steps)
        error = self._too_many_steps() if status is Status.FAILED else None
        return Finish(position.run_id, status, steps, error)

    def _move_on(self, record: StepRecord, *, held: bool) -> Continue:
        position = self.position
        hint = Hint(position.run_id, position.step + 1, record.next_queue)
        if not held or record.next_node is None:
            return Continue(hint, None)
        position.step, position.node, position.queue = hint.step, record.next_node, hint.queue
        position.attempt, position.crashes, position.unroutable_s = 1, 0, None
        if self._run_ends is not None:
            position.left_s = self._run_ends - self._ports.clock.monotonic()
        return Continue(hint, position)

    def _too_many_steps(self) -> MaxStepsError:
        return MaxStepsError(
            f"run {self.position.run_id!r} exceeded max_steps={self._flow.max_steps}: look for a loop that "
            "does not end, or raise max_steps",
            self.position.run_id,
        )

    def _log(self, what: str, error: BaseException | None = None, *, level: int = INFO, **more: Any) -> None:
        position = self.position
        if error is not None:
            more = {
                "attempt": position.attempt,
                "error": f"{type(error).__name__}: {self._described(error).message}",
                **more,
            }
        log_event(
            log,
            what,
            level=level,
            run_id=position.run_id,
            step=position.step,
            node=position.node,
            **more,
        )
