"""Runs the code of one node. The only place where an error of the user's code is caught."""

from __future__ import annotations

import threading

from pocoflow.engine.records import Failure
from pocoflow.node import DEFAULT_ACTION, Node
from pocoflow.store import Store

MAX_ACTION_LENGTH = 200
_NOT_YET = object()


class StepFailure(Exception):
    """User code raised.

    Attributes:
        error: What it raised.
        may_retry: Whether another try can help: only `exec` is tried again.
    """

    def __init__(self, error: BaseException, *, may_retry: bool) -> None:
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
        except BaseException as exc:
            if _ends_the_process(exc):
                raise
            raise StepFailure(exc, may_retry=in_exec) from exc
        if action is None:
            return DEFAULT_ACTION
        if not isinstance(action, str) or not action.isprintable() or len(action) > MAX_ACTION_LENGTH:
            wrong = TypeError(
                f"post() of node {self._node.name!r} must return an action (printable str of at most "
                f"{MAX_ACTION_LENGTH} characters) or None, got {ascii(action)[:80]}"
            )
            raise StepFailure(wrong, may_retry=False)
        return action


def describe(error: BaseException, elapsed_s: float | None = None) -> Failure:
    """Return an error as history keeps it, in characters that every database takes."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be shown)"
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
    return Failure(type(error).__name__, safe, elapsed_s)


def _ends_the_process(error: BaseException) -> bool:
    """Whether this is Ctrl-C or an exit, which only the main thread meets; elsewhere the node raised it."""
    if threading.current_thread() is not threading.main_thread():
        return False
    return isinstance(error, KeyboardInterrupt | SystemExit)
