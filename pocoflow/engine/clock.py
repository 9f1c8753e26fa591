"""The only place that asks what time it is, or waits."""

from __future__ import annotations

import time


class SystemClock:
    """The clock of this machine."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary moment; never goes back."""
        return time.perf_counter()

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
