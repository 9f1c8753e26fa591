"""Faults on purpose, for tests: the parts of the engine in a wrapper that strikes where it was told to.

Nothing here is built unless POCOFLOW_FAULTS or POCOFLOW_EFFECT_LOG is set, and the engine knows nothing of
it: all points lie at its borders, between two calls that it makes.
"""

from __future__ import annotations

import copy
import random
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

from pocoflow.engine.advance import HeldStep
from pocoflow.engine.effects import EffectLog
from pocoflow.engine.fault_rules import Place, Rule, parse
from pocoflow.engine.graph import Definition
from pocoflow.engine.ports import Clock, Dispatcher, Ledger
from pocoflow.engine.records import Claim, Hint, Outcome, Position, Status
from pocoflow.errors import BrokerError, DatabaseError, SettingsError
from pocoflow.node import Node, current_step

Deliver = Callable[..., Outcome | None]
FindFlow = Callable[[Position], Definition]


class Faults:
    """The faults of one process, and the effect log.

    Args:
        spec: Rules, see `fault_rules`.
        log: Where to note executions and strikes; None for nowhere.

    Raises:
        SettingsError: A rule is wrong, or is to be counted without a log.
    """

    def __init__(self, spec: str, log: EffectLog | None, clock: Clock) -> None:
        self.log = log
        self.committed = threading.local()
        self._clock = clock
        self._rules: dict[str, list[Rule]] = {}
        for rule in parse(spec):
            if rule.times is not None and log is None:
                raise SettingsError(
                    f"POCOFLOW_FAULTS: {rule.text!r}: times are counted in the effect log: "
                    "name a file for it in POCOFLOW_EFFECT_LOG"
                )
            self._rules.setdefault(rule.point, []).append(rule)

    def strike(self, point: str, place: Place, error: type[Exception] = RuntimeError) -> str | None:
        """Do what the rules want at this point.

        Args:
            error: What `raise` raises here: something that can go wrong at this point without our help.

        Returns:
            "drop" or "dup" when the caller is to do that.
        """
        left_to_caller = None
        for rule in self._rules.get(point, ()):
            if rule.covers(place) and self._is_due(rule, place):
                left_to_caller = self._act(rule, error) or left_to_caller
        return left_to_caller

    def ledger(self, ledger: Ledger) -> Ledger:
        return cast(Ledger, FaultyLedger(ledger, self))

    def dispatcher(self, dispatcher: Dispatcher) -> Dispatcher:
        return _FaultyDispatcher(dispatcher, self)

    def definition(self, flow: Definition) -> Definition:
        """The flow with the points of prep, exec and post in its nodes."""
        graph = copy.copy(flow.graph)
        nodes = {name: cast(Node, _FaultyNode(node, self)) for name, node in graph.nodes.items()}
        graph.nodes = MappingProxyType(nodes)
        return replace(flow, graph=graph)

    def find_flow(self, find_flow: FindFlow) -> FindFlow:
        return lambda position: self.definition(find_flow(position))

    def deliver(self, deliver: Deliver) -> Deliver:
        def faulty(hint: Hint, **parts: Any) -> Outcome | None:
            order = self.strike("after_receive", Place(hint.run_id, hint.step), DatabaseError)
            if order == "drop":
                return None
            outcome = deliver(hint, **parts)
            return (deliver(hint, **parts) or outcome) if order == "dup" else outcome

        return faulty

    def _is_due(self, rule: Rule, place: Place) -> bool:
        if rule.probability < 1 and random.random() >= rule.probability:
            return False
        if self.log is None:
            return True
        where = {"run_id": place.run_id, "step": place.step, "node": place.node}
        return self.log.strikes(rule.text, rule.times, **where)

    def _act(self, rule: Rule, error: type[Exception]) -> str | None:
        if rule.action in ("drop", "dup"):
            return rule.action
        if rule.action == "raise":
            raise error(f"fault on purpose: {rule.text}")
        if rule.action == "sleep":
            self._clock.sleep(rule.seconds)
        else:
            # To this very thread: what is sent to the process reaches any of them, and this one would go on
            # for a while, beyond the point.
            number = signal.SIGKILL if rule.action == "kill9" else signal.SIGSTOP
            signal.pthread_kill(threading.get_ident(), number)
        return None


class FaultyLedger:
    """A ledger with the points of claim, commit, heartbeat and sweep; all else is the ledger's own."""

    def __init__(self, ledger: Ledger, faults: Faults) -> None:
        self.faults = faults
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def claim(self, *args: Any, **kwargs: Any) -> Claim | None:
        claim = self._ledger.claim(*args, **kwargs)
        if claim is not None:
            self.faults.strike("after_claim", _place(claim.position), DatabaseError)
        return claim

    def commit(self, position: Position, *args: Any, **kwargs: Any) -> Status | None:
        place = _place(position)
        self.faults.strike("before_commit", place, DatabaseError)
        status = self._ledger.commit(position, *args, **kwargs)
        if status is not None:
            self.faults.strike("after_commit_before_ack", place, DatabaseError)
            self.faults.committed.place = place
        return status

    def heartbeat(self, positions: Sequence[Position]) -> Mapping[str, str | None]:
        for position in positions:
            self.faults.strike("in_heartbeat", _place(position), DatabaseError)
        return self._ledger.heartbeat(positions)

    def sweep(self, **kwargs: Any) -> list[Hint]:
        hints = self._ledger.sweep(**kwargs)
        for hint in hints:
            self.faults.strike("in_sweep_after_update", Place(hint.run_id, hint.step), DatabaseError)
        return hints


class _FaultyDispatcher:
    """A dispatcher with the points around the hint that follows a commit of the same thread."""

    def __init__(self, dispatcher: Dispatcher, faults: Faults) -> None:
        self._dispatcher = dispatcher
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)

    def send(self, hint: Hint) -> None:
        place: Place | None = getattr(self._faults.committed, "place", None)
        if place is None or (place.run_id, place.step + 1) != (hint.run_id, hint.step):
            self._dispatcher.send(hint)
            return
        self._faults.committed.place = None
        order = self._faults.strike("after_commit_before_publish", place, BrokerError)
        for _ in range({"drop": 0, "dup": 3}.get(order or "", 1)):
            self._dispatcher.send(hint)
        self._faults.strike("after_publish", place, BrokerError)


class _FaultyNode:
    """A node with the points of prep, exec and post, and a line in the effect log for each exec."""

    def __init__(self, node: Node, faults: Faults) -> None:
        self._node = node
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def prep(self, store: Any) -> Any:
        self._faults.strike("in_prep", _place(_position()))
        return self._node.prep(store)

    def exec(self, prep_result: Any) -> Any:
        position = _position()
        if self._faults.log is not None:
            self._faults.log.executes(position)
        self._faults.strike("in_exec", _place(position))
        result = self._node.exec(prep_result)
        self._faults.strike("after_exec", _place(position))
        return result

    def post(self, store: Any, prep_result: Any, exec_result: Any) -> str | None:
        self._faults.strike("in_post", _place(_position()))
        return self._node.post(store, prep_result, exec_result)


def _position() -> Position:
    return cast(HeldStep, current_step.get()).position


def _place(position: Position) -> Place:
    return Place(position.run_id, position.step, position.node)
