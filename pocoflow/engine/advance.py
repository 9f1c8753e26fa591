"""Move one run by one step. The only code that does.

Whoever calls it decides what to do with the outcome: the inline driver calls again, a Celery task sends
a message. So a flow means the same wherever it runs.
"""

from __future__ import annotations

from pocoflow.engine.graph import Definition
from pocoflow.engine.ports import Ports
from pocoflow.engine.records import (
    Continue,
    Fenced,
    Finish,
    Hint,
    Outcome,
    Position,
    Status,
    StepRecord,
    Suspend,
)
from pocoflow.engine.snapshot import write_snapshot
from pocoflow.engine.step import NodeRun, StepFailure, describe
from pocoflow.errors import MaxStepsError, StoreError, StoreSerializationError
from pocoflow.logging import ERROR, WARNING, get_logger, log_event
from pocoflow.node import Node, current_step
from pocoflow.store import Store

log = get_logger("node")

SHORT_DELAY_S = 1.0


def advance(position: Position, store: Store, *, flow: Definition, ports: Ports, hold: bool) -> Outcome:
    """Execute the step that this process holds, commit it, and say where the run goes from here.

    Args:
        position: From `Ledger.claim`, or from the outcome of the step before.
        store: The run's data; the step changes it in place.
        flow: What to run.
        ports: Ledger, flags, watcher, clock.
        hold: Keep the run for the next call instead of leaving it to any worker.
    """
    if ports.flags.cancel_asked(position.run_id) and _cancel_recorded(position, ports):
        return give_back(position, ports=ports)
    watch = ports.watcher.watch(position)
    token = current_step.set(watch)
    try:
        return _execute(position, store, flow=flow, ports=ports, hold=hold)
    finally:
        current_step.reset(token)
        watch.done()


def give_back(position: Position, *, ports: Ports) -> Outcome:
    """Let go of a step without executing it; a cancel that is waiting takes effect."""
    status = ports.ledger.release(position)
    if status is None:
        return Fenced(position.run_id, position.step)
    if status.ended:
        return Finish(position.run_id, status, position.step)
    if status is Status.PAUSED:
        return Suspend(position.run_id, status)
    return Continue(Hint(position.run_id, position.step, position.queue), None)


def fail(
    position: Position, error: BaseException, *, ports: Ports, elapsed_s: float | None = None
) -> Outcome:
    """End the run as failed at this step, after so many seconds in it; None if it was not begun."""
    status = ports.ledger.fail(position, describe(error, elapsed_s))
    if status is None:
        return Fenced(position.run_id, position.step)
    return Finish(position.run_id, status, position.step, error)


def _cancel_recorded(position: Position, ports: Ports) -> bool:
    """The flag alone decides nothing: anybody can write to Redis."""
    # A step that is no longer held was cancelled by force, most likely: giving it back does no harm.
    return ports.ledger.heartbeat([position]).get(position.run_id, "cancel") == "cancel"


def _execute(position: Position, store: Store, *, flow: Definition, ports: Ports, hold: bool) -> Outcome:
    node = flow.graph.nodes[position.node]
    flow.hooks.fire("node_start", position.node, store)
    node_run = NodeRun(node, store)
    while True:
        began = ports.clock.monotonic()
        try:
            action = node_run.attempt()
            elapsed_s = ports.clock.monotonic() - began
            record = _record(position, action, store, elapsed_s, flow=flow, ports=ports, hold=hold)
        except StepFailure as failure:
            elapsed_s = ports.clock.monotonic() - began
            delay_s = _retry_delay(position, node, failure)
            if delay_s is None:
                return _fail_step(position, failure.error, store, elapsed_s, flow=flow, ports=ports)
            outcome = _retry(position, failure.error, delay_s, elapsed_s, ports=ports, hold=hold)
            if outcome is not None:
                return outcome
            continue
        except StoreError as unsaved:
            return _fail_step(position, unsaved, store, elapsed_s, flow=flow, ports=ports)
        return _commit(position, record, store, flow=flow, ports=ports)


def _retry_delay(position: Position, node: Node, failure: StepFailure) -> float | None:
    if not failure.may_retry or position.tries >= node.max_retries:
        return None
    return float(node.retry_delay)


def _retry(
    position: Position, error: BaseException, delay_s: float, elapsed_s: float, *, ports: Ports, hold: bool
) -> Outcome | None:
    """Record a failed try. None: go on here after the delay, the step is still held."""
    stay = hold or delay_s < SHORT_DELAY_S
    status = ports.ledger.fail(position, describe(error, elapsed_s), retry_in_s=delay_s, hold=stay)
    if status is None:
        return Fenced(position.run_id, position.step)
    _log_failure("step failed, will be tried again", position, error, level=WARNING, retry_in_s=delay_s)
    if status.ended:
        return Finish(position.run_id, status, position.step, error)
    if status is not Status.RUNNING:
        return Suspend(position.run_id, status, delay_s)
    position.attempt += 1
    ports.clock.sleep(delay_s)
    return None


def _fail_step(
    position: Position,
    error: BaseException,
    store: Store,
    elapsed_s: float,
    *,
    flow: Definition,
    ports: Ports,
) -> Outcome:
    outcome = fail(position, error, ports=ports, elapsed_s=elapsed_s)
    if isinstance(outcome, Finish) and outcome.status is Status.FAILED:
        flow.hooks.fire("node_error", position.node, error, store)
        _log_failure("step failed, the run ends", position, error, level=ERROR)
    return outcome


def _log_failure(what: str, position: Position, error: BaseException, *, level: int, **more: float) -> None:
    log_event(
        log,
        what,
        level=level,
        run_id=position.run_id,
        step=position.step,
        node=position.node,
        attempt=position.attempt,
        error=f"{type(error).__name__}: {describe(error).message}",
        **more,
    )


def _record(
    position: Position,
    action: str,
    store: Store,
    elapsed_s: float,
    *,
    flow: Definition,
    ports: Ports,
    hold: bool,
) -> StepRecord:
    """Put together what to commit; raises StoreError when the store, or its snapshot, cannot be written."""
    try:
        state = ports.ledger.encode(store)
        if flow.checkpoint_dir is not None:
            write_snapshot(flow.checkpoint_dir, position.step, position.node, store)
    except StoreSerializationError as exc:
        raise StoreSerializationError(f"{exc} (node {position.node!r})") from exc
    except OSError as exc:
        raise StoreError(f"snapshot after node {position.node!r} cannot be written: {exc}") from exc
    record = StepRecord(
        action=action,
        next_node=flow.graph.after(position.node, action),
        next_queue=None,
        state=state,
        elapsed_s=elapsed_s,
        hold=hold,
    )
    if record.next_node is not None:
        record.next_queue = flow.graph.nodes[record.next_node].queue
        if position.step + 1 >= flow.max_steps:
            record.failure = describe(_too_many_steps(position, flow))
    return record


def _commit(
    position: Position, record: StepRecord, store: Store, *, flow: Definition, ports: Ports
) -> Outcome:
    status = ports.ledger.commit(position, record)
    if status is None:
        log_event(
            log,
            "step was taken over, its result is discarded",
            level=WARNING,
            run_id=position.run_id,
            step=position.step,
        )
        return Fenced(position.run_id, position.step)
    flow.hooks.fire("node_end", position.node, record.action, record.elapsed_s, store)
    log_event(
        log,
        "step done",
        run_id=position.run_id,
        step=position.step,
        node=position.node,
        action=record.action,
        elapsed_ms=round(record.elapsed_s * 1000, 3),
    )
    steps = position.step + 1
    if status is Status.RUNNING or status is Status.QUEUED:
        return _next(position, record, held=status is Status.RUNNING)
    if status is Status.PAUSED:
        return Suspend(position.run_id, status)
    if status is Status.COMPLETED:
        flow.hooks.fire("flow_end", steps, store)
    log_event(log, "run ended", run_id=position.run_id, status=status.value, steps=steps)
    error = _too_many_steps(position, flow) if status is Status.FAILED else None
    return Finish(position.run_id, status, steps, error)


def _next(position: Position, record: StepRecord, *, held: bool) -> Continue:
    hint = Hint(position.run_id, position.step + 1, record.next_queue)
    if not held or record.next_node is None:
        return Continue(hint, None)
    following = Position(
        position.run_id, position.flow_name, hint.step, record.next_node, position.epoch, position.owner
    )
    return Continue(hint, following)


def _too_many_steps(position: Position, flow: Definition) -> MaxStepsError:
    return MaxStepsError(
        f"run {position.run_id!r} exceeded max_steps={flow.max_steps}: look for a loop that does not end, "
        "or raise max_steps",
        position.run_id,
    )
