"""Ends steps that take longer than they may: in a prefork child by ending the child."""

from __future__ import annotations

import faulthandler
import os
import signal

from billiard.process import current_process

from pocoflow.engine.heartbeat import Enforcer
from pocoflow.engine.local import Unstoppable

# After this much more a child goes down that no Python code can stop, because a call keeps the
# interpreter to itself. It is then counted as a crash.
HARD_STOP_S = 5.0


def enforcer_for_this_process() -> Enforcer:
    """Return what can be done here: a child of a prefork pool may be ended, a thread may not."""
    return _ChildEnder() if current_process().name != "MainProcess" else Unstoppable()


class _ChildEnder:
    """Kills this process; Celery replaces it."""

    def arm(self, seconds: float) -> None:
        # Its watchdog is a thread in C, which needs no interpreter; it also prints where the time went.
        faulthandler.dump_traceback_later(max(seconds, 0) + HARD_STOP_S, exit=True, file=2)

    def disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
