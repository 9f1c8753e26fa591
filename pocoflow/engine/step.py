"""Runs the code of one node. The only place where an error of the user's code is caught."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pocoflow.engine import signals
from pocoflow.engine.records import Failure
from pocoflow.masked import redact
from pocoflow.node import DEFAULT_ACTION, Node
from pocoflow.store import Store

MAX_ACTION_LENGTH = 200
_NOT_YET = object()


class StepFailure(Exception):
    """User code raised.

    Attributes:
        error: What it raised.
        in_exec: Whether `exec` did: only that is tried again, or has a fallback.
    """

    def __init__(self, error: BaseException, *, in_exec: bool) -> None:
        super().__init__(error, in_exec)
        self.error = error
        self.in_exec = in_exec


class NodeRun:
    """One node on one store: `prep` once, `exec` once per try, `post` once.

    Attributes:
        posted: Whether `post` has begun, and so may have changed the store: the node is not tried again.
    """

    __slots__ = ("_is_late", "_node", "_prepared", "_store", "posted")

    def __init__(self, node: Node, store: Store, is_late: Callable[[], bool]) -> None:
        self._node = node
        self._store = store
        self._is_late = is_late
        self._prepared: object = _NOT_YET
        self.posted = False

    def attempt(self) -> str:
        """Try it and return the action to take.

        Raises:
            StepFailure: The node raised, or returned something that is no action.
        """
        return self._finish(lambda: self._node.exec(self._prepared), is_exec=True)

    def fall_back(self, error: BaseException) -> str:
        """Finish the step with what stands for the result of a failed `exec`; raises the same."""
        return self._finish(lambda: self._node.exec_fallback(self._prepared, error), is_exec=False)

    def _finish(self, work: Callable[[], Any], *, is_exec: bool) -> str:
        in_exec = False
        try:
            with signals.let_in():
                if self._prepared is _NOT_YET:
                    self._prepared = self._node.prep(self._store)
                in_exec = is_exec
                result = work()
                if is_exec and self._is_late():
                    raise TimeoutError("exec returned too late")
                in_exec, self.posted = False, True
                action = self._node.post(self._store, self._prepared, result)
        except BaseException as exc:
            if signals.is_stop(exc):
                raise
            raise StepFailure(exc, in_exec=in_exec) from exc
        return self._checked(action)

    def _checked(self, action: object) -> str:
        if action is None:
            return DEFAULT_ACTION
        if isinstance(action, str) and action.isprintable() and len(action) <= MAX_ACTION_LENGTH:
            self._refuse_secret(action)
            return action
        wrong = TypeError(
            f"post() of node {self._node.name!r} must return an action (printable str of at most "
            f"{MAX_ACTION_LENGTH} characters) or None, got {ascii(action)[:80]}"
        )
        raise StepFailure(wrong, in_exec=False)

    def _refuse_secret(self, action: str) -> None:
        """History shows an action to everybody."""
        if self._store.secret and redact(action, self._store.secret_values) != action:
            leak = ValueError(f"post() of node {self._node.name!r} returned an action that holds a secret")
            raise StepFailure(leak, in_exec=False)


def describe(
    error: BaseException, elapsed_s: float | None = None, *, secrets: Iterable[object] = ()
) -> Failure:
    """Return an error as history keeps it: without secrets, in characters that every database takes."""
    try:
        # Notes are part of what a traceback shows, such as the resource that could not be made.
        text = " ".join([str(error), *(f"({note})" for note in getattr(error, "__notes__", ()))])
    except BaseException:
        text = "(its text cannot be shown)"
    safe = redact(text, secrets).encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
    return Failure(type(error).__name__, safe, elapsed_s)
