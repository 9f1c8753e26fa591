"""WorkflowDB: the run history behind the names that PocoFlow 0.2 gave it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, insert, update

from pocoflow import codec
from pocoflow.db.connect import database_url, engine_for, write_transaction
from pocoflow.db.failures import QUICK_PAUSES_S, shown, translated, with_retry
from pocoflow.db.queries import Queries
from pocoflow.db.run_transfer import export_run, import_run
from pocoflow.db.schema import checkpoints, events, runs
from pocoflow.db.words import STAMP
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.diff import StoreDiff, diff
from pocoflow.engine.history import Trail
from pocoflow.engine.records import Status, no_checkpoint
from pocoflow.engine.rows import EventRow, RunRow
from pocoflow.errors import DatabaseError, RunNotFoundError, SecretKeyError
from pocoflow.store import Store

T = TypeVar("T")

_UPDATABLE = {"status", "completed_at", "total_steps", "current_node", "error_msg"}
_EVENT_FIELDS = {"step", "node_name", "action", "elapsed_ms", "error_msg", "attempt", "worker"}


class WorkflowDB:
    """Read the history of runs; write one by hand.

    Flows write their own history. The writing methods are for a program that keeps runs of its own
    beside them: such a run is never picked up by a worker.

    Args:
        db_path: An SQLite file, made with its folder when missing, or a SQLAlchemy URL (SQLite or Postgres).

    Raises:
        DatabaseError: The database cannot be reached.
    """

    def __init__(self, db_path: str | Path) -> None:
        self._url = database_url(db_path)
        engine_for(self._url)
        self._queries = Queries(self._connection)

    @property
    def db_path(self) -> str:
        """The file, or the URL without its password."""
        if self._url.get_backend_name() == "sqlite":
            return str(self._url.database)
        return shown(self._url)

    def create_run(self, run_id: str, flow_name: str = "") -> None:
        """Write a run as running; a run that is there already stays as it is."""
        if self.get_run(run_id) is not None:
            return
        row = {"run_id": run_id, "flow_name": flow_name, "status": Status.RUNNING.value}
        with self._writing() as connection:
            connection.execute(insert(runs).values(**row, created_at=STAMP, started_at=STAMP))

    def update_run(self, run_id: str, **fields: Any) -> None:
        """Set fields of a run: status, completed_at, total_steps, current_node, error_msg.

        Raises:
            RunNotFoundError: There is no such run.
            DatabaseError: A field cannot be set, or the status is none.
        """
        unknown = sorted(set(fields) - _UPDATABLE)
        if unknown:
            raise DatabaseError(
                f"cannot set {', '.join(unknown)} of a run: choose from {', '.join(sorted(_UPDATABLE))}"
            )
        columns = {column.name: column for column in runs.c}
        with self._writing() as connection:
            known = self.get_run(run_id)
            if known is None:
                raise RunNotFoundError(f"no run {run_id!r} in {self.db_path}", run_id)
            if fields:
                values = {columns[name]: value for name, value in fields.items()}
                connection.execute(update(runs).where(runs.c.run_id == run_id).values(values))

    def get_run(self, run_id: str) -> RunRow | None:
        """Return the run, or None."""
        return self._read(lambda: self._queries.get_run(run_id))

    def list_runs(self, limit: int = 100) -> list[RunRow]:
        """Return the newest runs, newest first; raises DatabaseError for a limit below 0."""
        if isinstance(limit, int) and limit < 0:
            raise DatabaseError(f"list_runs takes a limit of 0 or more, got {limit}")
        return self._read(lambda: self._queries.list_runs(limit))

    def save_checkpoint(self, run_id: str, step: int, node_name: str, store: Store) -> None:
        """Write the store after a step. A checkpoint is never overwritten.

        Raises:
            StoreSerializationError: The store holds something that cannot be saved exactly.
            SecretKeyError: It has secrets, which nothing encrypts here.
            DatabaseError: There is a checkpoint of this step already.
        """
        for key in store.secret:
            raise SecretKeyError(
                f"store key {key!r} is secret, and save_checkpoint encrypts nothing: leave it out"
            )
        row = {
            "run_id": run_id,
            "step": step,
            "node_name": node_name,
            # In one piece: the run has no other checkpoints that this one could build on.
            "store_json": codec.dumps(store.as_dict()),
        }
        with self._writing() as connection:
            connection.execute(insert(checkpoints).values(**row, created_at=STAMP))

    def get_checkpoints(self, run_id: str) -> list[dict[str, Any]]:
        """Return the checkpoints of a run by step."""
        return self._read(lambda: self._queries.get_checkpoints(run_id))

    def load_checkpoint(self, run_id: str, step: int) -> Store:
        """Return the store as it was after a step, with masks for its secrets; step -1 is the input.

        Raises:
            CheckpointNotFoundError: There is none; it is a KeyError.
        """
        return self._trail(run_id, step).store(f"{run_id}@step{step}", lenient=True)

    def diff(self, run_id: str, step_a: int, step_b: int) -> StoreDiff:
        """Return what the steps after `step_a` up to `step_b` have changed in the store; -1 is the input.

        The steps may be given in any order. See `StoreDiff` for what the paths mean. Of a secret it tells
        only whether it was added or removed, with a mask for its value.

        Raises:
            CheckpointNotFoundError: There is no checkpoint of one of them; it is a KeyError.
        """
        return diff(self._trail(run_id, step_a).texts, self._trail(run_id, step_b).texts)

    def _trail(self, run_id: str, step: int) -> Trail:
        saved = self._read(lambda: self._queries.get_checkpoint(run_id, step))
        if saved is None:
            raise no_checkpoint(run_id, step)
        return Trail.load(saved)

    def save_event(self, run_id: str, event: str, **fields: Any) -> None:
        """Append to the event log: step, node_name, action, elapsed_ms, error_msg, attempt, worker, ts.

        Raises:
            DatabaseError: A field is none of these.
        """
        ts = fields.pop("ts", STAMP)
        unknown = sorted(set(fields) - _EVENT_FIELDS)
        if unknown:
            raise DatabaseError(
                f"an event has no {', '.join(unknown)}: choose from {', '.join(sorted(_EVENT_FIELDS))}"
            )
        with self._writing() as connection:
            connection.execute(insert(events).values(run_id=run_id, event=event, ts=ts, **fields))

    def get_events(self, run_id: str) -> list[EventRow]:
        """Return the events of a run, oldest first."""
        return self._read(lambda: self._queries.get_events(run_id))

    def export_run(self, run_id: str) -> str:
        """Return a run with its whole history as the text of a file, for `import_run`.

        Raises:
            RunNotFoundError: There is no such run.
        """
        return export_run(self._url, run_id)

    def import_run(self, text: str, *, new_id: str | None = None) -> str:
        """Write the run that `export_run` returned, whole or not at all; returns its id.

        No worker picks it up: one that had not ended is paused here, and goes on when somebody resumes it.

        Args:
            new_id: What to call it here; left out, what it was called there.

        Raises:
            RunFileError: It is no export, was changed, or its history breaks a promise.
            RunConflictError: There is a run of this id.
        """
        return import_run(self._url, text, new_id=new_id)

    def _read(self, action: Callable[[], T]) -> T:
        """Read once more where only the connection was lost, as by a restart since the last read."""
        with translated(self._url):
            return with_retry(action, pauses=iter(QUICK_PAUSES_S), sleep=SystemClock().sleep)[0]

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with engine_for(self._url).connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with translated(self._url), self._connection() as connection, write_transaction(connection):
            yield connection
