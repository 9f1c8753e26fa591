"""Holds signals back while the engine works, so that none interrupts a claim or a commit.

Celery stops a worker's child, and Ctrl-C a script, by a signal handler that raises wherever the main
thread happens to be. Within `held` the handlers wait; within `let_in`, that is in the user's code and
while waiting, they run at once.

Handlers are wrapped instead of signals being masked: a mask counts for one thread only, and Python runs
the handler in the main thread whichever thread the signal reached.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1") if hasattr(signal, name)
)


class _Gate:
    """Stands before the signal handlers of this process."""

    def __init__(self) -> None:
        self.closed = False
        self.raised: BaseException | None = None
        self._handlers: dict[int, Handler] = {}
        self._waiting: list[int] = []

    def install(self) -> list[int]:
        added = []
        for number in SIGNALS:
            handler = signal.getsignal(number)
            # What the system handles itself (SIG_DFL, SIG_IGN) raises nothing.
            if callable(handler) and handler != self.on_signal:
                self._handlers[number] = handler
                signal.signal(number, self.on_signal)
                added.append(number)
        return added

    def remove(self, numbers: list[int]) -> None:
        for number in numbers:
            if signal.getsignal(number) == self.on_signal:
                signal.signal(number, self._handlers[number])

    def open(self) -> None:
        """Let signals through, first those that have waited."""
        self.closed = False
        while self._waiting:
            self.on_signal(self._waiting.pop(0), None)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.closed:
            self._waiting.append(number)
            return
        try:
            self._handlers[number](number, frame)
        except BaseException as exc:
            self.raised = exc
            raise


_gate = _Gate()


def install() -> None:
    """Stand before the signal handlers of this process for good; does nothing outside the main thread."""
    if _in_main_thread():
        _gate.install()


@contextmanager
def installed() -> Iterator[None]:
    """The same for a while, with signals held back."""
    if not _in_main_thread():
        yield
        return
    added = _gate.install()
    try:
        with held():
            yield
    finally:
        _gate.remove(added)


@contextmanager
def held() -> Iterator[None]:
    """Hold signals back; they are handled at the end, or in `let_in`."""
    if _gate.closed or not _in_main_thread():
        yield
        return
    _gate.closed = True
    try:
        yield
    finally:
        _gate.open()


class let_in:
    """Let signals through for a while within `held`."""

    __slots__ = ("_opened",)

    def __enter__(self) -> None:
        self._opened = _gate.closed and _in_main_thread()
        if self._opened:
            try:
                _gate.open()
            except BaseException:
                _gate.closed = True
                raise

    def __exit__(self, *_: object) -> None:
        if self._opened:
            _gate.closed = True


def is_stop(error: BaseException) -> bool:
    """Whether a signal handler raised this to end the process, and not the user's code by itself."""
    return error is _gate.raised and isinstance(error, KeyboardInterrupt | SystemExit)


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident
