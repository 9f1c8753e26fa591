"""The only place that asks what time it is, or waits."""

from __future__ import annotations

import time

from pocoflow.engine import signals


class SystemClock:
    """The clock of this machine."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary moment; never goes back."""
        return time.monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait; a signal that is held back elsewhere may end it."""
        with signals.let_in():
            time.sleep(seconds)
