"""Has a ledger delete old runs now and then, beside the sweeps, and never for long."""

from __future__ import annotations

from pocoflow.engine.ports import Clock, Ledger
from pocoflow.engine.timing import Retention

LONGEST_PAUSE_S = 60.0


class Pruner:
    """Deletes a batch once a minute, or as soon as runs get old; at each call while there are more."""

    def __init__(self, retention: Retention, clock: Clock) -> None:
        self._retention = retention
        self._clock = clock
        self._pause_s = min(retention.older_than_s, LONGEST_PAUSE_S)
        self._due: dict[int, float] = {}

    def prune(self, ledger: Ledger) -> None:
        """Raises DatabaseError."""
        now = self._clock.monotonic()
        if now >= self._due.get(id(ledger), now):
            self._due[id(ledger)] = now + self._pause_s
            if ledger.prune(self._retention):
                self._due[id(ledger)] = now
