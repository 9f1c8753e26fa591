"""The read side of the ledger in a database, patient with one that is away for a moment."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

from sqlalchemy import Connection, Row
from sqlalchemy.engine import URL

from pocoflow.db.connect import engine_for
from pocoflow.db.failures import QUICK_PAUSES_S, shown, translated, with_retry
from pocoflow.db.queries import Queries, sightings
from pocoflow.engine.history import Saved
from pocoflow.engine.records import ForkPoint, KeptGraph, no_checkpoint
from pocoflow.engine.rows import EventRow, RunRow, Sighting
from pocoflow.engine.secrecy import Cipher
from pocoflow.errors import RunNotFoundError

T = TypeVar("T")


class LedgerReads(ABC):
    """See `Ledger`."""

    def __init__(self, url: URL, *, sleep: Callable[[float], None], cipher: Cipher | None) -> None:
        self.url = url
        self.cipher = cipher
        self._sleep = sleep
        self._queries = Queries(self.connection, cipher)
        self._graphs: dict[str, KeptGraph] = {}

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        with engine_for(self.url).connect() as connection:
            yield connection

    def get_run(self, run_id: str) -> RunRow | None:
        return self._try(lambda: self._queries.get_run(run_id))[0]

    def get_changes(self, known: Mapping[str, str]) -> Mapping[str, Sighting | None]:
        # One id that no database takes would spoil the read of all the others.
        no_runs = {run_id for run_id, mark in known.items() if not mark and not _can_be_stored(run_id)}
        asked = json.dumps([pair for pair in known.items() if pair[0] not in no_runs])
        rows = self._try(lambda: self._changes({"p_known": asked}))[0]
        return {**dict.fromkeys(no_runs), **sightings(rows)}

    def get_events(self, run_id: str, *, after: int = 0) -> list[EventRow]:
        return self._try(lambda: self._queries.get_events(run_id, after=after))[0]

    def get_saved(self, run_id: str) -> Saved | None:
        return self._try(lambda: self._queries.get_saved(run_id))[0]

    def get_fork_point(self, run_id: str, step: int, *, node: str | None = None) -> ForkPoint:
        self._known(run_id)
        point = self._try(lambda: self._queries.get_fork_point(run_id, step, node))[0]
        if point is None:
            raise no_checkpoint(run_id, step)
        return point

    def get_graph(self, fingerprint: str) -> KeptGraph | None:
        # It never changes, and workers ask for it again and again while they hand on its runs.
        found = self._graphs.get(fingerprint)
        if found is None:
            found = self._try(lambda: self._queries.get_graph(fingerprint))[0]
            if found is not None:
                self._graphs[fingerprint] = found
        return found

    def _known(self, run_id: str) -> RunRow:
        row = self.get_run(run_id)
        if row is None:
            raise RunNotFoundError(f"no run {run_id!r} in {shown(self.url)}", run_id)
        return row

    def _try(self, action: Callable[[], T], pauses_s: Sequence[float] = QUICK_PAUSES_S) -> tuple[T, bool]:
        with translated(self.url):
            return with_retry(action, pauses=chain(pauses_s), sleep=self._sleep)

    def _all(self, statement: Any, params: dict[str, Any]) -> Sequence[Row[Any]]:
        with self.connection() as connection:
            return connection.execute(statement, params).all()

    @abstractmethod
    def _changes(self, params: dict[str, Any]) -> Sequence[Sequence[Any]]:
        """Returns the rows of `queries.changes`; `p_known` is a JSON list of pairs."""


def _can_be_stored(run_id: str) -> bool:
    return "\0" not in run_id and run_id == run_id.encode(errors="ignore").decode()
