"""What a worker does with one hint: claim the step, move the run, send the next hint."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

from pocoflow import codec
from pocoflow.engine.advance import advance, fail, give_back
from pocoflow.engine.graph import Definition
from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Dispatcher, Ports
from pocoflow.engine.records import Claim, Continue, Finish, Hint, Outcome, Position, Status
from pocoflow.errors import BrokerError, StoreSerializationError, UnknownFlowError
from pocoflow.logging import WARNING, get_logger, log_event
from pocoflow.store import Store

log = get_logger("runner")

UNROUTABLE_RETRY_S = 1.0
HAND_ON_CHANCE = 0.75


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

    Args:
        find_flow: Raises UnknownFlowError for a flow that this worker does not have.
        worker: Name of this process; begins the owner token and stands in the event log.
        unroutable_s: Seconds after which a step whose flow no worker knows fails its run.

    Returns:
        Where the run went; None when there was nothing to execute, or this worker cannot.
    """
    ports.flags.look_ahead(hint.run_id)
    claim = ports.ledger.claim(hint.run_id, hint.step, owner=new_owner(worker))
    if claim is None:
        return None
    outcome = _move(claim, find_flow=find_flow, ports=ports, dispatcher=dispatcher, unroutable_s=unroutable_s)
    if isinstance(outcome, Continue):
        send(outcome.hint, dispatcher)
    elif isinstance(outcome, Finish):
        ports.flags.announce_end(outcome.run_id)
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
        store = Store(codec.loads(claim.state), name=position.flow_name)
        return advance(position, store, flow=flow, ports=ports, hold=False)
    except UnknownFlowError as unknown:
        return _give_back_unknown(position, unknown, ports=ports, unroutable_s=unroutable_s)
    except (StoreSerializationError, MemoryError) as unfit:
        return fail(position, unfit, ports=ports)
    except (SystemExit, KeyboardInterrupt) as stop:
        if not _is_shutdown(stop):
            return fail(position, stop, ports=ports)
        # The worker is being stopped: the step goes on elsewhere, and this try does not count.
        outcome = give_back(position, ports=ports)
        if isinstance(outcome, Continue):
            send(outcome.hint, dispatcher)
        raise


def _is_shutdown(stop: SystemExit | KeyboardInterrupt) -> bool:
    """Whether this process was told to end; else the node raised it by itself.

    Celery's children leave with 256 below the number of a signal, and nobody's Ctrl-C reaches them.
    """
    if isinstance(stop, KeyboardInterrupt):
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(stop.code, int) and -256 < stop.code < -190


def _give_back_unknown(
    position: Position, unknown: UnknownFlowError, *, ports: Ports, unroutable_s: float
) -> Outcome | None:
    if position.unroutable_s is not None and position.unroutable_s >= unroutable_s:
        return fail(position, unknown, ports=ports)
    log_event(
        log,
        "flow unknown here, step given back",
        level=WARNING,
        run_id=position.run_id,
        step=position.step,
        flow=position.flow_name,
        error=str(unknown),
    )
    # Mostly hand it on at once: where one worker of several knows the flow, waiting each time would add up.
    # Now and then wait: where none does, they would hand it round without end.
    hand_on = random.random() < HAND_ON_CHANCE
    delay_s = 0.0 if hand_on else UNROUTABLE_RETRY_S
    status = ports.ledger.release(position, delay_s=delay_s, unroutable=True)
    if hand_on and status is Status.QUEUED:
        return Continue(Hint(position.run_id, position.step, position.queue), None)
    return None
