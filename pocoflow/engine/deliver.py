"""What a worker does with one hint: claim the step, move the run, send the next hint."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

from pocoflow.engine import signals
from pocoflow.engine.advance import advance, fail, give_back, where_given_back
from pocoflow.engine.changes import adopt, is_same
from pocoflow.engine.graph import Definition
from pocoflow.engine.history import Trail
from pocoflow.engine.owner import new_owner
from pocoflow.engine.placing import place
from pocoflow.engine.ports import Dispatcher, Ports
from pocoflow.engine.records import Claim, Continue, Fenced, Finish, Hint, Outcome, Position, Status
from pocoflow.engine.step import describe
from pocoflow.engine.timing import CROWD
from pocoflow.errors import (
    BrokerError,
    FlowChangedError,
    SecretKeyError,
    StoreSerializationError,
    UnknownFlowError,
    UnregisteredTypeError,
)
from pocoflow.logging import WARNING, get_logger, log_event
from pocoflow.store import Store

log = get_logger("runner")

SHORT_DELAY_S = 1.0
STREAK_S = 1.0
UNROUTABLE_RETRY_S = 1.0
HAND_ON_CHANCE = 0.75
_UNFIT: Mapping[type[Exception], str] = {
    UnknownFlowError: "flow unknown here",
    FlowChangedError: "flow changed here",
    UnregisteredTypeError: "type unknown here",
    SecretKeyError: "no key here for a secret",
}


def deliver(
    hint: Hint,
    *,
    find_flow: Callable[[Position], Definition],
    ports: Ports,
    dispatcher: Dispatcher,
    worker: str,
    unroutable_s: float,
) -> Outcome | None:
    """Execute the step that the hint names, if it is there to execute; otherwise do nothing.

    Where the flow allows it, some more steps follow at once (`Flow.max_inline_steps`).

    Args:
        find_flow: Raises UnknownFlowError for a flow that this worker does not have.
        worker: Name of this process; begins the owner token and stands in the event log.
        unroutable_s: Seconds after which a step that no worker can execute fails its run, or pauses it if
            that is because the graph has changed; 0 where there is no other worker.

    Returns:
        Where the run went; None when there was nothing to execute, or this worker cannot.
    """
    with signals.held():
        ports.flags.look_ahead(hint.run_id)
        claim = ports.ledger.claim(hint.run_id, hint.step, owner=new_owner(worker))
        if claim is None:
            return None
        outcome = _move(
            claim, find_flow=find_flow, ports=ports, dispatcher=dispatcher, unroutable_s=unroutable_s
        )
        _act_on(outcome, ports=ports, dispatcher=dispatcher)
        return outcome


def send(hint: Hint, dispatcher: Dispatcher) -> None:
    """Send a hint; when the broker is away, the sweep will send it again."""
    try:
        dispatcher.send(hint)
    except BrokerError as exc:
        log_event(
            log,
            "hint not sent, the sweep will",
            level=WARNING,
            run_id=hint.run_id,
            step=hint.step,
            error=str(exc),
        )


def crowded_queues(dispatcher: Dispatcher, queues: Iterable[str | None]) -> frozenset[str | None]:
    """Return those of the queues in which a hint has to wait, so that a sweep need not send it again."""
    return frozenset(queue for queue in queues if dispatcher.waiting(queue) > CROWD)


def _act_on(outcome: Outcome | None, *, ports: Ports, dispatcher: Dispatcher) -> None:
    if isinstance(outcome, Continue):
        send(outcome.hint, dispatcher)
    elif isinstance(outcome, Finish):
        ports.flags.announce_end(outcome.run_id)


def _move(
    claim: Claim,
    *,
    find_flow: Callable[[Position], Definition],
    ports: Ports,
    dispatcher: Dispatcher,
    unroutable_s: float,
) -> Outcome | None:
    position = claim.position
    try:
        flow = find_flow(position)
        if not is_same(position, flow.graph):
            in_time = not _is_too_late(position, unroutable_s)
            if not adopt(position, flow.graph, ports.ledger, in_time=in_time):
                return Fenced(position.run_id, position.step)
        trail = Trail.load(claim.saved)
        store = trail.store(position.flow_name)
        if position.stands is not None:
            return place(position, store, flow=flow, ports=ports)
        return _run_streak(position, store, trail, flow=flow, ports=ports)
    except tuple(_UNFIT) as unfit:
        return _leave_to_others(position, unfit, ports=ports, unroutable_s=unroutable_s)
    except (StoreSerializationError, MemoryError) as unfit:
        return fail(position, unfit, ports=ports)
    except (SystemExit, KeyboardInterrupt):
        # The worker is being stopped: the step goes on elsewhere, and this try does not count.
        with signals.held():
            _act_on(give_back(position, ports=ports), ports=ports, dispatcher=dispatcher)
        raise


def _run_streak(position: Position, store: Store, trail: Trail, *, flow: Definition, ports: Ports) -> Outcome:
    """Execute steps in a row while they are cheap, stay in one queue, and the flow allows it."""
    if ports.flags.cancel_asked(position.run_id) and _cancel_recorded(position, ports):
        return give_back(position, ports=ports)
    last, ends_at = position.step + flow.max_inline_steps - 1, ports.clock.monotonic() + STREAK_S

    def keep(queue: str | None) -> bool:
        return position.step < last and queue == position.queue and ports.clock.monotonic() < ends_at

    while True:
        outcome = advance(
            position, store, trail, flow=flow, ports=ports, keep=keep, sleep_up_to_s=SHORT_DELAY_S
        )
        # A cancel that came meanwhile is in the outcome: the commit reads it with the run.
        if not isinstance(outcome, Continue) or outcome.position is None:
            return outcome


def _cancel_recorded(position: Position, ports: Ports) -> bool:
    """The flag alone decides nothing: anybody can write to Redis."""
    # A step that is no longer held was cancelled by force, most likely: giving it back does no harm.
    return ports.ledger.heartbeat([position]).get(position.run_id, "cancel") == "cancel"


def _is_too_late(position: Position, unroutable_s: float) -> bool:
    """Whether no worker that can execute the step has come in time."""
    return (position.unroutable_s or 0.0) >= unroutable_s


def _leave_to_others(
    position: Position, unfit: Exception, *, ports: Ports, unroutable_s: float
) -> Outcome | None:
    """Give back a step that cannot be executed here; when it is too late for that, stop its run."""
    too_late, changed = _is_too_late(position, unroutable_s), isinstance(unfit, FlowChangedError)
    if too_late and not changed:
        return fail(position, unfit, ports=ports)
    log_event(
        log,
        f"{_UNFIT[type(unfit)]}, {'run paused' if too_late else 'step given back'}",
        level=WARNING,
        run_id=position.run_id,
        step=position.step,
        flow=position.flow_name,
        error=str(unfit),
    )
    if too_late:
        return where_given_back(position, ports.ledger.strand(position, describe(unfit)))
    # Mostly hand it on at once: where one worker of several knows the flow, waiting each time would add up.
    # Now and then wait: where none does, they would hand it round without end.
    hand_on = random.random() < HAND_ON_CHANCE
    delay_s = 0.0 if hand_on else UNROUTABLE_RETRY_S
    status = ports.ledger.release(position, delay_s=delay_s, unroutable=True)
    if hand_on and status is Status.QUEUED:
        return Continue(Hint(position.run_id, position.step, position.queue), None)
    return None
