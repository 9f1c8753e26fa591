"""Runs to put through a fault, and what they must come to: they start also while things break."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

from pocoflow import Flow
from pocoflow.errors import DatabaseError
from pocoflow.runner import RunHandle
from tests.chaos.flows import addition
from tests.support.wait import wait_until

START_LIMIT_S = 300.0
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a step, as the step itself wrote it down outside the database."""

    run_id: str
    step: int
    node: str
    attempt: int
    epoch: int
    pid: int
    at: float


class Workload:
    """So many runs of one kind. A thread starts them; the test meanwhile breaks things.

    Args:
        folder: For the files that the steps write to and wait for.
        count: How many runs.
        over_s: Seconds between the first start and the last; 0 starts them as quickly as it goes.
        rounds: How often each run goes round its loop; it takes `rounds` + 3 steps.
        pause_s: How long each step lasts.
        hold: Nodes that wait for `open_gate`.
        deeds: Node to what it does to its process at its first try; see `flows.DEEDS`.
        fails: Nodes that fail at their first try of each step ("two" is tried again in place, "three" later).
        name: Stands in the ids of the runs, for a fault that is to strike this one; made up when left out.
        suffixes: What the ids of the runs are to end with, for as many as there are of these.
        flow: Another one than `addition`.
        data: What else its nodes and hooks are told.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        over_s: float = 0.0,
        rounds: int = 2,
        pause_s: float = 0.02,
        hold: str | tuple[str, ...] = (),
        deeds: Mapping[str, str] = MappingProxyType({}),
        fails: tuple[str, ...] = (),
        name: str = "",
        suffixes: tuple[str, ...] = (),
        flow: Flow = addition,
        **data: object,
    ) -> None:
        self.name = name or uuid4().hex[:6]
        ends = dict(enumerate(suffixes))
        self.run_ids = [f"chaos-{self.name}-{number}{ends.get(number, '')}" for number in range(count)]
        self.trail = ["one", "two", *["three"] * rounds, "four"]
        self.sum = sum(NUMBERS[node] for node in self.trail)
        self.fails, self.pause_s = fails, pause_s
        self.held = (hold,) if isinstance(hold, str) else hold
        self.starts_s: list[float] = []
        self.handles: dict[str, RunHandle] = {}
        self._path, self._gate = folder / f"effects-{self.name}.log", folder / f"gate-{self.name}"
        self._flow, self._over_s = flow, over_s
        self._store: dict[str, object] = {
            "effects": str(self._path),
            "gate": str(self._gate),
            "hold": list(self.held),
            "deeds": dict(deeds),
            "fails": list(fails),
            "pause_s": pause_s,
            "rounds": rounds,
            "sum": 0,
            "trail": [],
            **data,
        }
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._start_all, name="workload", daemon=True)
        self._thread.start()

    @property
    def steps(self) -> int:
        """How many steps all runs take together."""
        return len(self.run_ids) * len(self.trail)

    @property
    def store(self) -> dict[str, object]:
        """The input of each run."""
        return dict(self._store)

    def open_gate(self, *nodes: str) -> None:
        """Let these nodes go on, or all that wait."""
        for node in nodes or self.held:
            self._gate.with_name(f"{self._gate.name}-{node}").touch()

    def executions(self) -> list[Execution]:
        """All executions so far, oldest first."""
        if not self._path.exists():
            return []
        # An id may hold spaces.
        rows = [line.rsplit(maxsplit=6) for line in self._path.read_text().splitlines()]
        return [
            Execution(run, int(step), node, int(attempt), int(epoch), int(pid), float(at))
            for run, step, node, attempt, epoch, pid, at in rows
        ]

    def wait_for_executions(self, count: int, *, timeout_s: float = 120.0) -> None:
        """Wait until so many steps have been executed."""
        what = f"{count} of {self.steps} executions"
        wait_until(lambda: len(self.executions()) >= count, timeout_s=timeout_s, every_s=0.05, what=what)

    def moments(self, count: int) -> Iterator[int]:
        """Yield so many times, spread over the work: a fault at each of them meets runs of all kinds."""
        for moment in range(1, count + 1):
            self.wait_for_executions(self.steps * moment // (count + 2))
            yield moment

    def wait_until_started(self) -> None:
        """Return when every run has been accepted."""
        self._thread.join(START_LIMIT_S)
        assert not self._thread.is_alive(), f"{len(self.handles)} of {len(self.run_ids)} runs were started"
        if self._error is not None:
            raise self._error

    def _start_all(self) -> None:
        pace_s = self._over_s / max(len(self.run_ids), 1)
        began = time.monotonic()
        try:
            for number, run_id in enumerate(self.run_ids):
                time.sleep(max(0.0, began + number * pace_s - time.monotonic()))
                self._start(run_id)
        except BaseException as exc:
            self._error = exc

    def _start(self, run_id: str) -> None:
        """Start a run as a careful program does: with an id of its own, again until it is accepted."""
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            began = time.monotonic()
            try:
                self.handles[run_id] = self._flow.run_background(self.store, run_id=run_id)
                self.starts_s.append(time.monotonic() - began)
                return
            except DatabaseError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
