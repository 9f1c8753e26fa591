"""The read side of the ledger in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from pocoflow.engine.history import Saved
from pocoflow.engine.memory_run import Blobs, MemoryRun
from pocoflow.engine.records import ForkPoint, KeptGraph, no_checkpoint
from pocoflow.engine.rows import EventRow, RunRow, Sighting
from pocoflow.engine.secrecy import Cipher
from pocoflow.errors import RunNotFoundError


class MemoryReads:
    """The runs, and what there is to read of them; see `Ledger`."""

    def __init__(self, cipher: Cipher) -> None:
        self.cipher = cipher
        self._runs: dict[str, MemoryRun] = {}
        self._blobs = Blobs()
        self._graphs: dict[str, KeptGraph] = {}
        self._lock = threading.RLock()

    def get_run(self, run_id: str) -> RunRow | None:
        with self._lock:
            row = self._runs.get(run_id)
            return None if row is None else row.shown()

    def get_changes(self, known: Mapping[str, str]) -> Mapping[str, Sighting | None]:
        changes: dict[str, Sighting | None] = {}
        with self._lock:
            for run_id, mark in known.items():
                row = self._runs.get(run_id)
                if row is None:
                    changes[run_id] = None
                elif row.mark != mark:
                    changes[run_id] = row.sighted()
        return changes

    def get_events(self, run_id: str, *, after: int = 0) -> list[EventRow]:
        with self._lock:
            row = self._runs.get(run_id)
            return [] if row is None else [event for event in row.events if event["id"] > after]

    def get_saved(self, run_id: str) -> Saved | None:
        with self._lock:
            row = self._runs.get(run_id)
            return None if row is None else self._blobs.saved(row, row.step - 1, self.cipher)

    def get_fork_point(self, run_id: str, step: int, *, node: str | None = None) -> ForkPoint:
        with self._lock:
            row = self._row(run_id)
            if not -1 <= step < row.step:
                raise no_checkpoint(run_id, step)
            return row.fork_point(step, node, self._blobs.saved(row, step, self.cipher))

    def get_graph(self, fingerprint: str) -> KeptGraph | None:
        with self._lock:
            return self._graphs.get(fingerprint)

    def _row(self, run_id: str) -> MemoryRun:
        row = self._runs.get(run_id)
        if row is None:
            raise RunNotFoundError(f"no run {run_id!r} in this process", run_id)
        return row
