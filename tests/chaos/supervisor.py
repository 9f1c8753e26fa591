"""Keeps worker processes alive, as systemd or Kubernetes does: one that ends is started again."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.workers import Cluster, WorkerProcess

LOOK_EVERY_S = 0.1
# Grows with each restart of the same worker, like that of any supervisor.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 3.0


class Used(NamedTuple):
    """Time of the processors, and time on the clock."""

    processor_s: float
    passed_s: float

    def __sub__(self, before: Used) -> Used:
        return Used(self.processor_s - before.processor_s, self.passed_s - before.passed_s)


class Supervisor:
    """Runs `count` workers in a cluster and replaces whichever ends."""

    def __init__(self, cluster: Cluster, count: int, *options: str) -> None:
        self.restarts = 0
        self._cluster, self._options = cluster, options
        self._workers = cluster.start_workers(count, *options)
        self._due = [0.0] * count
        self._pauses_s = [FIRST_PAUSE_S] * count
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    @property
    def workers(self) -> list[WorkerProcess]:
        """Those that are there now; one may just have ended."""
        with self._lock:
            return list(self._workers)

    def stop(self) -> None:
        """Let the workers be; the cluster ends them."""
        self._stopped.set()
        self._thread.join()

    def used(self) -> Used:
        """What the workers and all their processes have used so far."""
        sessions = {worker.pid for worker in self.workers}
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15])) if int(fields[3]) in sessions else 0
        return Used(ticks / os.sysconf("SC_CLK_TCK"), time.monotonic())

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            with self._lock:
                for slot, worker in enumerate(self._workers):
                    if worker.exit_code is not None:
                        self._replace(slot)

    def _replace(self, slot: int) -> None:
        now = time.monotonic()
        if self._due[slot] == 0.0:
            self._due[slot] = now + self._pauses_s[slot]
            self._pauses_s[slot] = min(self._pauses_s[slot] * 2, LONGEST_PAUSE_S)
        elif now >= self._due[slot]:
            self._due[slot] = 0.0
            self.restarts += 1
            self._workers[slot] = self._cluster.start_worker(*self._options, wait=False)
