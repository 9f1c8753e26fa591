"""The delays of the step protocol, in one place."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BACKOFF_S = 600.0
MAX_BACKOFF_DOUBLINGS = 10
CROWD = 100
CROWD_PATIENCE_S = 600.0
# A lease that is ended early was over so long ago: a sweep at the same tick of the clock finds it.
OVERDUE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long to keep runs that have ended.

    Attributes:
        older_than_s: Seconds since their end after which they go.
        keep_failed: Whether those that failed stay, for somebody to look at or to resume.
    """

    older_than_s: float
    keep_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long the protocol waits for what.

    Attributes:
        lease_s: Seconds for which a worker may hold a step without a sign of life.
        grace_s: Seconds that a hint may take to reach a worker before it is sent again; doubled each time.
        max_crashes: How many lost workers a step may cost before its run fails.
    """

    lease_s: float = 30.0
    grace_s: float = 5.0
    max_crashes: int = 3

    def backoff_s(self, dispatches: int) -> float:
        """Seconds until the hint for a step is sent again, after so many times."""
        return float(min(self.grace_s * (1 << min(dispatches, MAX_BACKOFF_DOUBLINGS)), MAX_BACKOFF_S))
