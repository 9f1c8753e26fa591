"""The ledgers under test, and what a test may do to them that a user cannot.

A subject lets time pass without waiting, and shows the columns that the protocol counts with.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update

from pocoflow.db.connect import database_url, engine_for
from pocoflow.db.ledger import SqlLedger
from pocoflow.db.postgres import PostgresLedger
from pocoflow.db.schema import Now, graphs, metadata, runs
from pocoflow.db.sqlite import SqliteLedger
from pocoflow.engine.memory import MemoryLedger
from pocoflow.engine.ports import Ledger
from pocoflow.engine.secrecy import Cipher
from pocoflow.engine.timing import Timing

LONG_AGO = 1_000_000_000.0
# So long that a slow machine does not get from one deadline to the next by itself.
TIMING = Timing(lease_s=1000.0, grace_s=100.0, max_crashes=2)
SLACK_S = 40.0

PassTime = Callable[[float], None]


def near(seconds: float) -> Any:
    """Equal to what a deadline is from now, give or take what a slow machine needs to look at it."""
    return pytest.approx(seconds, abs=SLACK_S)


class FrozenClock:
    """A clock that moves only when it is told to; to sleep is to tell it."""

    def __init__(self) -> None:
        self._elapsed_s = 0.0

    def monotonic(self) -> float:
        return self._elapsed_s

    def now(self) -> float:
        return LONG_AGO + self._elapsed_s

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._elapsed_s += seconds


@dataclass(frozen=True, slots=True)
class Counters:
    """The columns of a run that the protocol counts with; moments are given in seconds from now."""

    epoch: int
    dispatches: int
    due_in_s: float
    wake_in_s: float | None
    home: str | None


class Subject(ABC):
    """One ledger and the time that it lives in."""

    ledger: Ledger

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Make everything that this ledger waits for come nearer."""

    @abstractmethod
    def counters(self, run_id: str) -> Counters: ...

    @abstractmethod
    def open_with(self, cipher: Cipher | None) -> Ledger:
        """Return a ledger of a process with this key that looks at the same runs."""

    @abstractmethod
    def raw(self) -> str:
        """Return all that it keeps, as it keeps it."""

    @abstractmethod
    def wipe(self) -> None:
        """Forget all runs."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the ledger's connections."""


class MemorySubject(Subject):
    def __init__(self) -> None:
        self._clock = FrozenClock()
        self.wipe()

    def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def counters(self, run_id: str) -> Counters:
        row, now = self.ledger._runs[run_id], self._clock.now()
        wake_in_s = None if row.wake_at is None else row.wake_at - now
        return Counters(row.epoch, row.dispatches, row.due_at - now, wake_in_s, row.home)

    def open_with(self, cipher: Cipher | None) -> Ledger:
        opened: Any = copy(self.ledger)
        opened.cipher = cipher
        return opened

    def raw(self) -> str:
        return f"{self.ledger._runs} {self.ledger._blobs._texts}"

    def wipe(self) -> None:
        self.ledger: Any = MemoryLedger(self._clock, TIMING)

    def close(self) -> None:
        self.wipe()


class SqlSubject(Subject):
    """Its clock is the database's own, so what is moved are the deadlines in the rows."""

    def __init__(
        self, url: str, *, timing: Timing = TIMING, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        full = database_url(url)
        kind: type[SqlLedger] = SqliteLedger if full.get_backend_name() == "sqlite" else PostgresLedger
        self.ledger: SqlLedger = kind(full, timing, sleep=sleep)

    def pass_time(self, seconds: float) -> None:
        moments = (runs.c.due_at, runs.c.wake_at, runs.c.unroutable_at, runs.c.deadline_at)
        self._execute(update(runs).values({moment: moment - seconds for moment in moments}))
        self._execute(update(graphs).values(seen_at=graphs.c.seen_at - seconds))

    def counters(self, run_id: str) -> Counters:
        r, now = runs.c, Now()
        columns = (r.epoch, r.dispatches, (r.due_at - now), (r.wake_at - now), r.home)
        with self.ledger.connection() as connection:
            row = connection.execute(select(*columns).where(r.run_id == run_id)).one()
        return Counters(*row)

    def open_with(self, cipher: Cipher | None) -> Ledger:
        return type(self.ledger)(self.ledger.url, TIMING, sleep=time.sleep, cipher=cipher)

    def raw(self) -> str:
        with self.ledger.connection() as connection:
            rows = [connection.execute(select(table)).all() for table in metadata.tables.values()]
        return str(rows)

    def wipe(self) -> None:
        for table in metadata.tables.values():
            self._execute(delete(table))
        self.ledger._graphs.clear()

    @property
    def file(self) -> Path:
        """The file of an SQLite database."""
        return Path(str(self.ledger.url.database))

    def flush(self) -> None:
        """Bring all of an SQLite database into its file."""
        self._execute(text("pragma wal_checkpoint(truncate)"))

    def count(self, table: str) -> int:
        """How many rows it has."""
        with self.ledger.connection() as connection:
            return int(connection.execute(text(f"select count(*) from {table}")).scalar_one())

    def run_sql(self, sql: str) -> None:
        """Change what no verb would."""
        self._execute(text(sql))

    def close(self) -> None:
        engine_for(self.ledger.url).dispose()

    def _execute(self, statement: Any) -> None:
        with self.ledger.connection() as connection:
            connection.execute(statement)
