"""Callbacks of a flow's user. A hook that raises is logged and never changes what the run does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pocoflow.engine import signals
from pocoflow.errors import DefinitionError
from pocoflow.logging import get_logger
from pocoflow.store import Store, log_raised

log = get_logger("flow")

Hook = Callable[..., Any]
HOOK_EVENTS = ("node_start", "node_end", "node_error", "flow_end")


class Hooks:
    """The callbacks of one flow, by event, in the order in which they were added."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: dict[str, tuple[Hook, ...]] = dict.fromkeys(HOOK_EVENTS, ())

    def add(self, event: str, callback: Hook) -> None:
        """Call `callback` at each `event`.

        Raises:
            DefinitionError: There is no such event, or the callback cannot be called.
        """
        if event not in self._callbacks:
            raise DefinitionError(f"unknown hook {event!r}: choose one of {', '.join(HOOK_EVENTS)}")
        if not callable(callback):
            raise DefinitionError(f"hook for {event!r} must be callable, got {callback!r}")
        self._callbacks[event] = (*self._callbacks[event], callback)

    def fire(self, event: str, *args: Any, store: Store) -> None:
        for callback in self._callbacks[event]:
            try:
                with signals.let_in():
                    callback(*args, store)
            except BaseException as exc:
                if signals.is_stop(exc):
                    raise
                log_raised(log, f"hook raised for {event}, the run goes on", exc, store)
