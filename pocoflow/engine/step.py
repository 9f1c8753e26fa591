"""Runs the code of one node. The only place where an error of the user's code is caught."""

from __future__ import annotations

from pocoflow.node import DEFAULT_ACTION, Node
from pocoflow.store import Store

_NOT_YET = object()


class StepFailure(Exception):
    """User code raised.

    Attributes:
        error: What it raised.
        may_retry: Whether another try can help: only `exec` is tried again.
    """

    def __init__(self, error: Exception, *, may_retry: bool) -> None:
        super().__init__(error, may_retry)
        self.error = error
        self.may_retry = may_retry


class NodeRun:
    """One node on one store: `prep` once, `exec` once per try, `post` once."""

    __slots__ = ("_node", "_prepared", "_store")

    def __init__(self, node: Node, store: Store) -> None:
        self._node = node
        self._store = store
        self._prepared: object = _NOT_YET

    def attempt(self) -> str:
        """Try it and return the action to take.

        Raises:
            StepFailure: The node raised, or returned something that is no action.
        """
        in_exec = False
        try:
            if self._prepared is _NOT_YET:
                self._prepared = self._node.prep(self._store)
            in_exec = True
            result = self._node.exec(self._prepared)
            in_exec = False
            action = self._node.post(self._store, self._prepared, result)
        except Exception as exc:
            raise StepFailure(exc, may_retry=in_exec) from exc
        if action is None:
            return DEFAULT_ACTION
        if not isinstance(action, str):
            wrong = TypeError(
                f"post() of node {self._node.name!r} must return an action (str) or None, got {action!r}"
            )
            raise StepFailure(wrong, may_retry=False)
        return action
