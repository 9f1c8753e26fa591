"""The simplest form of each port, for a run that nobody but its own process can see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from pocoflow.engine.history import Saved
from pocoflow.engine.records import (
    Claim,
    Failure,
    ForkPoint,
    Hint,
    KeptGraph,
    Limit,
    NewRun,
    Position,
    Started,
    Status,
    StepRecord,
)
from pocoflow.engine.rows import EventRow, RunRow, Sighting
from pocoflow.engine.secrecy import InClear
from pocoflow.engine.timing import Retention
from pocoflow.errors import RunNotFoundError
from pocoflow.store import Store


class Untracked:
    """The ledger of an inline run without a database: keeps nothing, so there is nothing to read.

    The run is held by its caller from start to end, so nobody can take it over or steer it.
    """

    cipher = InClear()

    def encode(self, store: Store) -> Mapping[str, str]:
        return {}

    def encode_schema(self, store: Store) -> str | None:
        return None

    def start(self, run: NewRun) -> Started:
        return Started(True, Status.RUNNING, run.input_hash)

    def claim(self, run_id: str, step: int, *, owner: str) -> Claim | None:
        return None

    def heartbeat(self, positions: Sequence[Position]) -> Mapping[str, str | None]:
        return {position.run_id: None for position in positions}

    def commit(self, position: Position, record: StepRecord) -> Status | None:
        return record.then

    def fail(
        self, position: Position, failure: Failure, *, retry_in_s: float | None = None, hold: bool = False
    ) -> Status | None:
        return Status.FAILED if retry_in_s is None else Status.RUNNING

    def release(self, position: Position, *, delay_s: float = 0.0, unroutable: bool = False) -> Status | None:
        return Status.PAUSED

    def place(self, position: Position, node: str | None, queue: str | None) -> Status | None:
        return None

    def adopt(self, position: Position, *, graph: str, fingerprint: str) -> Status | None:
        return Status.RUNNING

    def strand(self, position: Position, why: Failure) -> Status | None:
        return Status.PAUSED

    def get_graph(self, fingerprint: str) -> KeptGraph | None:
        return None

    def interrupt(self, home: str) -> list[str]:
        return []

    def cancel(self, run_id: str, *, force: bool = False) -> Status:
        raise _keeps_none(run_id)

    def pause(self, run_id: str) -> Status:
        raise _keeps_none(run_id)

    def resume(self, run_id: str, *, home: str | None) -> Hint | None:
        raise _keeps_none(run_id)

    def sweep(self, *, home: str | None = None, crowded: Collection[str | None] = ()) -> list[Hint]:
        return []

    def prune(self, retention: Retention) -> bool:
        return False

    def expire(self, run_id: str, step: int, *, worker: str) -> bool:
        return False

    def get_run(self, run_id: str) -> RunRow | None:
        return None

    def get_changes(self, known: Mapping[str, str]) -> Mapping[str, Sighting | None]:
        return dict.fromkeys(known)

    def get_events(self, run_id: str, *, after: int = 0) -> list[EventRow]:
        return []

    def get_saved(self, run_id: str) -> Saved | None:
        return None

    def get_fork_point(self, run_id: str, step: int, *, node: str | None = None) -> ForkPoint:
        raise _keeps_none(run_id)


def _keeps_none(run_id: str) -> RunNotFoundError:
    return RunNotFoundError(f"no run {run_id!r}: this ledger keeps none", run_id)


class LocalFlags:
    """Flags for when all who care are in this process, or ask the ledger."""

    def __init__(self) -> None:
        self._heard: frozenset[Callable[[str], None]] = frozenset()

    def ask_cancel(self, run_id: str) -> None:
        """Nothing to do: the ledger has it, and the running step asks the ledger."""

    def look_ahead(self, run_id: str) -> None:
        """Nothing to do."""

    def cancel_asked(self, run_id: str) -> bool | None:
        return None

    def announce_end(self, run_id: str) -> None:
        for heard in self._heard:
            heard(run_id)

    def hear_ends(self, heard: Callable[[str], None]) -> None:
        self._heard |= {heard}

    def complain(self, run_id: str, text: str) -> None:
        """Nothing to do: who waits is in this process and reads its log."""

    def complaint(self, run_id: str) -> str | None:
        return None


class Unwatched:
    """Watches over nothing: for runs whose lease nobody can take."""

    cancelled = False

    def watch(self, position: Position) -> Unwatched:
        return self

    def arm(self, limit: Limit) -> None:
        """Nothing to do: the engine looks at the clock when the try returns."""

    def disarm(self) -> None:
        """Nothing to do."""

    def done(self) -> None:
        """Nothing to do."""


class Unstoppable:
    """For steps in threads, which nobody can end: one that overruns is only taken from its thread."""

    def arm(self, seconds: float) -> None:
        """Nothing to do."""

    def disarm(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""
