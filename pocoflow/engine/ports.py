"""What the engine asks of the outside: a ledger, control flags, a dispatcher, a clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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
from pocoflow.engine.secrecy import Cipher
from pocoflow.engine.timing import Retention
from pocoflow.store import Store


class Ledger(Protocol):
    """The history of runs. Each verb happens whole or not at all.

    A verb that takes a `Position` asks for its token: it returns None, and changes nothing, when somebody
    else has taken the step over meanwhile.
    """

    @property
    def cipher(self) -> Cipher | None:
        """What encrypts secrets in what is written here; None if there is no key."""
        ...

    def encode(self, store: Store) -> Mapping[str, str]:
        """Return the content of the store as JSON texts, by name; raises StoreSerializationError."""
        ...

    def encode_schema(self, store: Store) -> str | None:
        """Return the schema of the store as text, None if it has none; raises StoreSchemaError."""
        ...

    def start(self, run: NewRun) -> Started:
        """Write a new run, or tell of the one that has this id already. Safe to repeat."""
        ...

    def claim(self, run_id: str, step: int, *, owner: str) -> Claim | None:
        """Take a step that is due; None when it is not there to take."""
        ...

    def heartbeat(self, positions: Sequence[Position]) -> Mapping[str, str | None]:
        """Extend leases. Returns, by run_id of those still held, what was asked of the run.

        That is "cancel" or "pause"; the latter takes effect by itself when the step is given back.
        """
        ...

    def commit(self, position: Position, record: StepRecord) -> Status | None:
        """Write checkpoint, events and the run's new status; returns that status."""
        ...

    def fail(
        self, position: Position, failure: Failure, *, retry_in_s: float | None = None, hold: bool = False
    ) -> Status | None:
        """Write a failed try. With `retry_in_s` the step comes again then, to the same owner if `hold`."""
        ...

    def release(self, position: Position, *, delay_s: float = 0.0, unroutable: bool = False) -> Status | None:
        """Give a step back without counting a try; it is due again after `delay_s`."""
        ...

    def place(self, position: Position, node: str | None, queue: str | None) -> Status | None:
        """Give a step back as one of this node and queue; without a node, the run has completed before it.

        A try is not counted. When the answer is lost, a sweep finds the step.
        """
        ...

    def adopt(self, position: Position, *, graph: str, fingerprint: str) -> Status | None:
        """Let the run go on with this graph; one event says so, however often graphs change to and fro."""
        ...

    def strand(self, position: Position, why: Failure) -> Status | None:
        """Give a step back and pause its run, unless it was to be cancelled; a try is not counted."""
        ...

    def get_graph(self, fingerprint: str) -> KeptGraph | None:
        """Return the graph of runs with this fingerprint; None if no run here has come with it."""
        ...

    def interrupt(self, home: str) -> list[str]:
        """Pause all runs that live in this home, which is about to go; returns their ids."""
        ...

    def cancel(self, run_id: str, *, force: bool = False) -> Status:
        """Cancel a waiting run, or ask the owner of a running one to; returns the status now.

        Args:
            force: Cancel a running run at once too; what its owner makes of the step does not count.

        Raises:
            RunNotFoundError: There is no such run.
        """
        ...

    def pause(self, run_id: str) -> Status:
        """Pause a waiting run, or a running one as soon as its step allows; returns the status now.

        That is when the step is committed, has failed with a try left, is given back or loses its lease. A
        step that ends the run ends it all the same, and so does a cancel that was asked for.

        Raises:
            RunNotFoundError: There is no such run.
            InvalidTransitionError: It has ended.
        """
        ...

    def resume(self, run_id: str, *, home: str | None) -> Hint | None:
        """Queue a paused or failed run again, with all its tries; let one go on that is to be paused.

        Args:
            home: Where it lives from now on; None is any worker. SAME_HOME leaves it where it is, to be
                found by the sweep there; otherwise the caller sends the hint. Only a run that is queued
                again moves.

        Returns:
            What to dispatch; None when it is running, and was only to be paused.

        Raises:
            RunNotFoundError: There is no such run.
            InvalidTransitionError: It is neither paused nor failed, nor to be paused; or it is a run of
                PocoFlow 0.2 that has no store to go on from.
        """
        ...

    def sweep(self, *, home: str | None = None, crowded: Collection[str | None] = ()) -> list[Hint]:
        """Find what was lost or has become due; returns what to dispatch.

        Takes back steps whose lease ran out, and pauses runs whose home has gone.

        Args:
            home: Whose runs to look after; None means those that any worker may run.
            crowded: Queues, None for the default one, in which so much waits that a hint sent there is
                late and not lost: it is sent again only after `CROWD_PATIENCE_S` more.
        """
        ...

    def prune(self, retention: Retention) -> bool:
        """Delete a batch of runs that ended long ago; returns whether there are more."""
        ...

    def expire(self, run_id: str, step: int, *, worker: str) -> bool:
        """Have the next sweep take up what a process that has died held: this step, or a later one.

        If nobody holds the step, its hint may have died with the process, before or after a commit: then the
        sweep sends it again, though only once. It may come twice for that, which does no harm.

        Safe to repeat.

        Args:
            run_id: The run that the process was busy with.
            step: The step that it was asked to do; it may have gone on from there.
            worker: Name of the process, as it was given to `deliver`.

        Returns:
            Whether there is something to take up; if not, nothing is changed.
        """
        ...

    def get_run(self, run_id: str) -> RunRow | None:
        """Return the run, or None."""
        ...

    def get_changes(self, known: Mapping[str, str]) -> Mapping[str, Sighting | None]:
        """Return those of these runs that stand otherwise than is known, in one read.

        Made for ten thousand runs of which few have changed.

        Args:
            known: By run_id, the mark of its last sighting, or "" if there was none.

        Returns:
            By run_id; None for a run that is not there.
        """
        ...

    def get_events(self, run_id: str, *, after: int = 0) -> list[EventRow]:
        """Return the run's events with an id above `after`, oldest first."""
        ...

    def get_saved(self, run_id: str) -> Saved | None:
        """Return the newest store of the run, encoded; None for an unknown run."""
        ...

    def get_fork_point(self, run_id: str, step: int, *, node: str | None = None) -> ForkPoint:
        """Return where a new run can go on from this step; -1 is before the first.

        Args:
            node: The one to begin with; left out, the one that follows. Its queue is the one that this run
                has used for it, and else the default one.

        Raises:
            RunNotFoundError: There is no such run.
            CheckpointNotFoundError: It has not come so far.
        """
        ...


class ControlFlags(Protocol):
    """A quick way to notice what the ledger records anyway. Never raises, never has the last word."""

    def ask_cancel(self, run_id: str) -> None: ...

    def look_ahead(self, run_id: str) -> None:
        """Begin to find out what `cancel_asked` will soon be asked, while the caller is busy elsewhere."""
        ...

    def cancel_asked(self, run_id: str) -> bool | None:
        """True, False, or None when only the ledger knows."""
        ...

    def announce_end(self, run_id: str) -> None: ...

    def hear_ends(self, heard: Callable[[str], None]) -> None:
        """From now on, call this with the run_id of whatever is announced, in any thread; safe to repeat.

        Announcements can be lost, and can be wrong.
        """
        ...

    def complain(self, run_id: str, text: str) -> None:
        """Leave a message for whoever waits for this run."""
        ...

    def complaint(self, run_id: str) -> str | None:
        """Return what a worker left for whoever waits for this run."""
        ...


class Dispatcher(Protocol):
    """Sends hints. A lost hint costs time, never correctness."""

    def send(self, hint: Hint) -> None:
        """Raises BrokerError when the hint could not be handed over."""
        ...

    def waiting(self, queue: str | None) -> int:
        """Return how many messages wait in a queue, None for the default one; 0 when nobody can tell."""
        ...


class Clock(Protocol):
    def monotonic(self) -> float: ...

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class Watch(Protocol):
    """Looks after one held step: keeps its lease, notices a cancel, ends a try that overruns."""

    @property
    def cancelled(self) -> bool: ...

    def arm(self, limit: Limit) -> None:
        """Enforce this limit, where that is possible, until `disarm`."""
        ...

    def disarm(self) -> None: ...

    def done(self) -> None: ...


class Watcher(Protocol):
    def watch(self, position: Position) -> Watch: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What `advance` needs from outside."""

    ledger: Ledger
    flags: ControlFlags
    watcher: Watcher
    clock: Clock
