"""A room full of handles for tests: its ledger tells of its reads, holds them back, or is away."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from pocoflow.engine.clock import SystemClock
from pocoflow.engine.local import LocalFlags
from pocoflow.engine.memory import MemoryLedger
from pocoflow.engine.ports import ControlFlags, Ledger
from pocoflow.engine.rows import Sighting
from pocoflow.engine.timing import Timing
from pocoflow.engine.waiting import LONGEST_PAUSE_S, WaitingRoom
from pocoflow.runner import RunHandle
from tests.contract.builders import LAST, new_run, take
from tests.support.wait import wait_until

# For what takes no time at all, on a machine that is busy.
SOON_S = 30.0


class WatchedLedger(MemoryLedger):
    """Notes which runs are looked at, and when."""

    def __init__(self) -> None:
        super().__init__(SystemClock(), Timing())
        self.reads: list[list[str]] = []
        self.read_at: list[float] = []
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None

    def get_changes(self, known: Mapping[str, str]) -> Mapping[str, Sighting | None]:
        error, found = self.error, super().get_changes(known)
        self.read_at.append(monotonic())
        self.reads.append(sorted(known))
        assert self.answers.wait(SOON_S)
        if error is not None:
            raise error
        return found

    def were_all_read(self, run_ids: Sequence[str]) -> bool:
        return {run_id for read in self.reads for run_id in read} >= set(run_ids)


class Waiting:
    """A room of its own, with a ledger and flags, and handles that wait in it."""

    def __init__(self, flags: ControlFlags | None = None) -> None:
        self.ledger = WatchedLedger()
        self.flags = flags or LocalFlags()
        self.room = WaitingRoom(self.ledger, self.flags, SystemClock())

    def handle(self, run_id: str, **parts: Any) -> RunHandle:
        usual = {"ledger": self.ledger, "flags": self.flags, "clock": SystemClock(), "advice": None}
        return RunHandle(run_id, room=self.room, resume=self.ledger.resume, **{**usual, **parts})

    def start(self, *run_ids: str) -> None:
        start(self.ledger, *run_ids)

    def end(self, *run_ids: str) -> None:
        end(self.ledger, *run_ids)

    def until_looks_are_rare(self, *run_ids: str) -> None:
        """Wait until these runs, and no others, are looked at as rarely as it gets: the next look is far."""

        def are_rare() -> bool:
            reads, at = self.ledger.reads[-2:], self.ledger.read_at[-2:]
            return reads == [sorted(run_ids)] * 2 and at[1] - at[0] > 0.9 * LONGEST_PAUSE_S

        wait_until(are_rare, timeout_s=SOON_S, what="the looks to be rare")


def start(ledger: Ledger, *run_ids: str) -> None:
    for run_id in run_ids:
        ledger.start(new_run(run_id))


def end(ledger: Ledger, *run_ids: str) -> None:
    for run_id in run_ids:
        ledger.commit(take(ledger, run_id=run_id), LAST)
